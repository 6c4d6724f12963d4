"""Event streams, as a part of the client: resumed when they are cut, until there is no more to come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from api import connection
from api.connection import ApiError, Connection, NoServer

RETRY_SECONDS = 1.0
"""Before a stream that brought nothing is asked for again, unless it said how long by ``retry:``."""
SILENCE_SECONDS = 60.0
"""A stream from which nothing came for so long is broken: the server sends a heartbeat far more often."""


class _Over(Exception):
    """Nothing more will come."""


def stream_events(server: Connection, path: str, after: int) -> Iterator[dict[str, Any]]:
    """The events above the number ``after``, until there are no more to come.

    A stream that was cut goes on behind the last event that came (HTML Standard, server-sent events). One
    that brought none is asked for again after a pause, or this would ask without end.

    Raises:
        ApiError: the server refused.
        NoServer: nothing answers, or the connection broke time and again, or these are no events.
    """
    failures = 0
    while True:
        is_empty, pause = True, RETRY_SECONDS
        try:
            for event in _connected(server, path, after):
                if event.retry is not None:
                    pause = min(max(event.retry / 1000, 0.1), connection.MAX_PAUSE_SECONDS)
                if event.data:  # else the field ``retry`` alone
                    after, found = _read(server, event)
                    failures, is_empty = 0, False
                    yield found
        except _Over:
            return
        except httpx.RequestError as error:
            failures += 1
            if failures == connection.MAX_ATTEMPTS or isinstance(error, httpx.DecodingError):
                raise NoServer.of(server.base_url, error) from error
        except ApiError as error:
            failures += 1
            if failures == connection.MAX_ATTEMPTS or error.status not in (429, 503):
                raise
        if failures:
            time.sleep(connection.pause_before(failures))
        elif is_empty:
            time.sleep(pause)


def _connected(server: Connection, path: str, after: int) -> Iterator[ServerSentEvent]:
    seen = {"Last-Event-ID": str(after)}
    timeout = httpx.Timeout(server.timeout, read=SILENCE_SECONDS)
    with connect_sse(server.http, "GET", path, headers=seen, timeout=timeout) as source:
        if source.response.status_code == httpx.codes.NO_CONTENT:
            raise _Over
        if not source.response.is_success:
            source.response.read()
            raise ApiError.of(source.response)
        yield from source.iter_sse()


def _read(server: Connection, event: ServerSentEvent) -> tuple[int, dict[str, Any]]:
    found = server.parsed(event.data)
    try:
        return int(event.id), found
    except ValueError:
        raise NoServer(
            f"{server.base_url} sends an event with the id {event.id[:80]!r}: no Pawlens."
        ) from None
