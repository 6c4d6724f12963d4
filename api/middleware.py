"""What wraps every request: ids and times in the answer and the log, and a limit on the body.

Plain ASGI rather than Starlette's BaseHTTPMiddleware, which would put a task and a queue between the server
and every streamed answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from api.problems import problem_response, unexpected
from core.errors import PawlensError, PayloadTooLarge
from core.logs import log_context

logger = logging.getLogger("api.access")

CORRELATION_HEADER = "X-Correlation-ID"
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Observed:
    """Gives each request a correlation id (the client's, when it sent a sane one) and logs its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope).get(CORRELATION_HEADER, "")
        correlation = sent if _SAFE_ID.fullmatch(sent) else uuid7().hex
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[CORRELATION_HEADER] = correlation
                headers["X-Process-Time-ms"] = f"{(time.perf_counter() - started) * 1000:.2f}"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        with log_context(correlation=correlation):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:
                logger.exception("unexpected error")
                if status is None:  # nothing was sent yet
                    await unexpected(scope["path"])(scope, receive, send_with_headers)
            finally:
                fields = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - started) * 1000, 2),
                }
                logger.log(_level(scope["path"], status or 500), "request", extra=fields)


_PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})


def _level(path: str, status: int) -> int:
    """Probes come every few seconds and say nothing while they succeed."""
    return logging.DEBUG if path in _PROBES and status < 400 else logging.INFO


class HeadAsGet:
    """Answers HEAD as GET without the content (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # The answer is whole now: whoever streams is told by the server that nobody reads on.
                await send({"type": "http.response.body"})

        # A copy: the server reads the method in its own, and sends no content.
        await self._app({**scope, "method": "GET"}, receive, send_headers)


BODY_SECONDS = 60.0
BODY_BYTES_PER_SECOND = 1024
"""A body may take a minute, and longer as long as it comes at this pace: a phone on a bad network does. What
comes faster gains no more than the minute back, or a body that is nearly whole could be left for hours."""
SILENCE_SECONDS = 30.0
"""Between two pieces of a body."""


class TooSlow(PawlensError):
    status, code, title = 408, "too_slow", "Request timeout"


class LimitedBody:
    """Refuses bodies over a limit, announced or not: a chunked body is counted as it arrives. Refuses those
    that come so slowly that the client only means to hold on to the connection.

    ``others`` are the limits of single calls, by method and path.

    A refusal may close the connection while the client is still sending: because it says so, or because the
    request did, as those of HTTP/1.0 do. Closed on unread bytes, TCP resets the connection and takes the
    answer away from a client that reads it only when it has sent everything. So the answer is sent, and what
    follows is thrown away for :data:`LINGER_SECONDS` before the end (nginx calls it ``lingering_close``).
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, others: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._others = others or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._others.get((scope["method"], scope["path"]), self._max_bytes)
        received, is_whole, closes, patience = 0, False, False, BODY_SECONDS

        async def counted() -> Message:
            nonlocal received, is_whole, patience
            if is_whole:  # what is waited for now is that the client leaves
                return await receive()
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(min(patience, SILENCE_SECONDS)):
                    message = await receive()
            except TimeoutError as error:
                raise TooSlow(
                    "The request's body came too slowly. Send less at once, or over a better connection.",
                    headers={"Connection": "close"},
                ) from error
            size = len(message.get("body", b""))
            waited = time.monotonic() - asked_at
            patience = min(BODY_SECONDS, patience - waited + size / BODY_BYTES_PER_SECOND)
            received += size
            is_whole = not message.get("more_body", False)
            if received > limit:
                # Raised where the body is read, and turned into the answer like any other refusal.
                raise _too_large(limit)
            return message

        async def send_and_linger(message: Message) -> None:
            nonlocal closes
            if message["type"] == "http.response.start":
                closes = _closes(Headers(raw=message["headers"]))
            elif not (is_whole or message.get("more_body", False)) and (closes or _is_last(scope)):
                await send({**message, "more_body": True})
                await _throw_away(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            await problem_response(_too_large(limit), scope["path"])(scope, receive, send_and_linger)
            return
        await self._app(scope, counted, send_and_linger)


LINGER_SECONDS = 5.0


def _closes(headers: Headers) -> bool:
    return "close" in [option.strip().lower() for option in headers.get("connection", "").split(",")]


def _is_last(scope: Scope) -> bool:
    """Whether the server closes the connection after the answer to this request."""
    return scope["http_version"] == "1.0" or _closes(Headers(scope=scope))


async def _throw_away(receive: Receive) -> None:
    """What is left of the body, until its end, or the client's, or the time is up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def _too_large(limit: int) -> PawlensError:
    # What is left of the body is not kept, so the connection cannot serve another request.
    return PayloadTooLarge(
        f"The request's body is larger than {limit:,} bytes. Send smaller pictures, or fewer at once; the "
        "network looks at a few hundred pixels a side.",
        headers={"Connection": "close"},
    )
