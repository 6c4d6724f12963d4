"""The HTTP server: uvicorn, with bounds on what a stranger may send before the application hears of it, and
an end for which nobody has to wait.

uvicorn's parser keeps the head of a request (its line and its headers) until it is whole, however long it is
and however long that takes, and copies it whenever it grows: a header of 200 MB kept every other client
waiting for two minutes. The application's own limits begin with the body (:mod:`api.middleware`).
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from http import HTTPStatus

import uvicorn
from fastapi import FastAPI
from httptools import HttpParserError
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.middleware import CORRELATION_HEADER
from api.problems import problem_response
from core.errors import BadRequest, PawlensError
from core.logs import log_context

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 << 10
"""What nginx and Apache take is less."""
HEAD_SECONDS = 30.0
"""For the whole head, from the connection or from the end of the answer before it."""
KEEP_ALIVE_SECONDS = 75
"""For the next request of a connection. Longer than clients and load balancers keep one (httpx 5 s, many 60):
whoever closes first must be the one who sends, or a request is lost on its way to a closed connection."""
EXCESS_SECONDS = 1.0
UNREAD_SECONDS = 60.0
"""For a client to take more of an answer that it has not taken whole (nginx's ``send_timeout``)."""
OWN_DESCRIPTORS = 256
"""Of the process's open files, those that are not connections of clients: databases, Redis, uploads."""
STOP_SECONDS = 10
"""For answers that are under way when the process is told to stop; then they are cut."""


class HeadTooLarge(PawlensError):
    status, code, title = 431, "head_too_large", "Request header fields too large"


class TooManyConnections(PawlensError):
    status, code, title = 503, "too_many_connections", "Too many connections"
    retryable = True


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Whatever the parser only gathers (a head, the trailers of a body, the extensions of a
    chunk) may have :data:`MAX_HEAD_BYTES`, and a head has :data:`HEAD_SECONDS`. An answer of which nothing
    was taken for :data:`UNREAD_SECONDS` is given up.

    Of the connections to this process above ``max_connections``, each is told so when it begins to speak, or
    closed after :data:`EXCESS_SECONDS`.
    """

    max_connections: int

    _is_excess = False
    _gathered = 0
    _arrived = 0  # of what was gathered, and the bytes just received: a head is no longer than that
    _is_too_large = False
    _is_advancing = False  # the parser has come to the end of something within the bytes just received
    _lateness: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        # Paused as soon as the system's buffer is full, so that whatever is left over is watched.
        transport.set_write_buffer_limits(high=0)
        self._is_excess = len(self.connections) > self.max_connections
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._is_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._is_taken()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_excess:
            self._refuse(
                TooManyConnections(
                    f"{self.max_connections:,} connections are open, and as many may. Close those that are "
                    "not needed; to follow many jobs, a batch of them takes one connection.",
                    headers={"Retry-After": "5"},
                )
            )
            return
        self._is_advancing = False
        self._arrived = self._gathered + len(data)
        super().data_received(data)
        self._gathered = 0 if self._is_advancing else self._arrived
        if self._gathered > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif not self._is_answering:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._is_advancing = True
        self._head_is_there()
        # Rarely: only what arrives at once with its end gets here.
        if self._arrived > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._is_too_large = True
            raise HttpParserError  # as of a head that is none, for which send_400_response is called
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._is_advancing = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_advancing = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_too_large:
            self._refuse(_head_too_large())
        else:
            self._refuse(
                BadRequest("This is no valid HTTP request. Speak HTTP/1.1, without TLS, to this port.")
            )

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._lateness is None and not self.transport.is_closing():
            seconds = EXCESS_SECONDS if self._is_excess else HEAD_SECONDS
            self._lateness = self.loop.call_later(seconds, self.transport.close)

    def _head_is_there(self) -> None:
        if self._lateness is not None:
            self._lateness.cancel()
            self._lateness = None

    def _await_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self._look_at_reader, left)

    def _look_at_reader(self, before: int) -> None:
        """Nothing is written while writing is paused, so what is left only shrinks, and by what was taken."""
        if self.transport.get_write_buffer_size() < before:
            self._await_reader()
        else:
            self.transport.abort()

    def _is_taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, refusal: PawlensError) -> None:
        """Answer instead of the application, unless it is answering something else, and hang up."""
        if not self._is_answering:
            correlation = uuid7().hex
            with log_context(correlation=correlation):
                answer = problem_response(refusal, "")
                logger.info("refused", extra={"status": refusal.status, "code": refusal.code})
            headers = [
                *answer.raw_headers,
                (CORRELATION_HEADER.encode(), correlation.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
            ]
            status = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n".encode()
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(status + lines + b"\r\n" + bytes(answer.body))
        self.transport.close()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"Line and headers of a request have {MAX_HEAD_BYTES:,} bytes at most.")


def allowed_connections(wanted: int) -> int:
    """So many, or as many as the process may have open files for; its own limit is raised as far as it may.

    Where files run out, the process could not open its database either, and a client that is not accepted is
    told nothing.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_DESCRIPTORS
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return wanted
    given = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    allowed = max(1, given - OWN_DESCRIPTORS)
    if allowed < wanted:
        logger.warning("the system allows %d open files, so %d connections are taken", given, allowed)
    return allowed


class Server(uvicorn.Server):
    """One process of the API. ``run(sockets=[listener])`` serves until SIGTERM or SIGINT.

    Told to stop, uvicorn waits for open answers, and only then tells the application. But a stream of events
    and a long poll are open until there is news: both are let go of first. Their clients come back for what
    follows, to another process.
    """

    def __init__(self, app: FastAPI, *, max_connections: int, stop_seconds: int = STOP_SECONDS) -> None:
        allowed = allowed_connections(max_connections)

        class Protocol(BoundedProtocol):
            max_connections = allowed

        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,  # the app's own access line carries the correlation id
            lifespan="on",
            proxy_headers=False,  # nobody in front is trusted to say who the client is
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=stop_seconds,
        )
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.service.watcher.release()
        await super().shutdown(sockets)
