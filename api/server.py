"""The HTTP server that ``pawlens api`` runs: uvicorn, and an end for which nobody has to wait."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

STOP_SECONDS = 10
"""For answers that are under way when the process is told to stop; then they are cut."""


class Server(uvicorn.Server):
    """One process of the API. ``run(sockets=[listener])`` serves until SIGTERM or SIGINT.

    Told to stop, uvicorn waits for open answers, and only then tells the application. But a stream of events
    and a long poll are open until there is news: both are let go of first. Their clients come back for what
    follows, to another process.
    """

    def __init__(self, app: FastAPI, *, stop_seconds: int = STOP_SECONDS) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # the app's own access line carries the correlation id
            lifespan="on",
            proxy_headers=False,  # nobody in front is trusted to say who the client is
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=stop_seconds,
        )
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.service.watcher.release()
        await super().shutdown(sockets)
