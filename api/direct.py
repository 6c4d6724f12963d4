"""A route for what is called most: documented by FastAPI, and called without it."""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send


class DirectRoute(APIRoute):
    """Its endpoint is a coroutine that takes the request alone and returns the response.

    What FastAPI does around an endpoint (resolving its arguments, exit stacks, a second handler of errors
    within that of the application) takes longer than it takes to accept a job.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
