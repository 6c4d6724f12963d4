"""Who is calling: ``Authorization: Bearer pk_...`` (RFC 6750), checked before a request's body is read.

A key is needed as soon as one is in force, and always on an address that other machines reach, unless
``no_auth`` says otherwise. ``/metrics`` needs one on such an address only. Health and documentation are open
to everyone: they show nothing of anybody's.

The keys in force are kept in memory for :data:`KEEP_SECONDS`, so a revoked one may be used for that long.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api import origins
from api.problems import problem_response
from core import keys
from core.database import Database
from core.errors import InvalidRequest, PawlensError
from core.settings import Settings

logger = logging.getLogger(__name__)

KEEP_SECONDS = 2.0
NEW_KEY_SECONDS = 0.2
"""An unknown secret may be that of a key made just now: the keys are read again, this often at most."""
NOTE_USE_SECONDS = 60.0

CHALLENGE = 'Bearer realm="pawlens"'


class Unauthorized(PawlensError):
    status, code, title = 401, "unauthorized", "Unauthorized"


@dataclass(frozen=True)
class Caller:
    """Whom a request comes from. ``owner`` is the key's id, or None where the service is open."""

    owner: str | None
    client: str
    """What limits count by: the key, or the client's address where the service is open."""
    rate_per_second: float | None = None


class KeyRing:
    """The keys in force, as they were at most some seconds ago.

    All of them are kept, not those that were asked for: made-up secrets cannot fill the memory.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, keys.Key] | None = None
        self._trouble: PawlensError | None = None
        self._read_at = float("-inf")
        self._one_reads = asyncio.Lock()
        self._used: dict[str, float] = {}  # when, by ids
        self._noted_at = time.monotonic()
        self._noting: asyncio.Task[None] | None = None

    async def in_force(self, *, max_age: float | None = None) -> dict[str, keys.Key]:
        """By the digests of their secrets. While the database is away, those that were read last.

        Raises:
            ServiceUnavailable: they never could be read.
        """
        max_age = KEEP_SECONDS if max_age is None else max_age
        if time.monotonic() - self._read_at > max_age:
            async with self._one_reads:
                if time.monotonic() - self._read_at > max_age:
                    await self._read()
        if self._keys is None:
            assert self._trouble is not None
            raise self._trouble
        return self._keys

    async def _read(self) -> None:
        try:
            found = await asyncio.to_thread(self._from_database)
        except PawlensError as error:
            logger.warning("the API keys cannot be read now: %s", error.detail)
            self._trouble = error
        else:
            self._keys = {key.secret_sha256: key for key in found}
        self._read_at = time.monotonic()  # also after a failure: not every request shall wait for a timeout
        is_noting = self._noting is not None and not self._noting.done()
        if self._used and not is_noting and time.monotonic() - self._noted_at > NOTE_USE_SECONDS:
            # Beside the request: a writer may have to wait for another, and nobody shall wait for this one.
            self._noting = asyncio.create_task(self._note_use())

    def _from_database(self) -> list[keys.Key]:
        with self._database.read() as session:
            return keys.active(session)

    async def _note_use(self) -> None:
        used, self._used, self._noted_at = self._used, {}, time.monotonic()
        try:
            await asyncio.to_thread(self._write_use, used)
        except PawlensError as error:
            logger.warning("when the API keys were used cannot be noted now: %s", error.detail)

    def _write_use(self, used: dict[str, float]) -> None:
        now = time.monotonic()
        with self._database.write() as session:
            keys.note_use(session, {key_id: now - at for key_id, at in used.items()})

    async def close(self) -> None:
        """Note what has not been noted."""
        if self._noting:
            await self._noting
        if self._used:
            await self._note_use()

    async def admits(self, owner: str | None) -> bool:
        """Whether who was let in as ``owner`` still would be: for answers that last longer than a request."""
        found = await self.in_force()
        return not found if owner is None else any(key.id == owner for key in found.values())

    async def find(self, secret: str) -> keys.Key | None:
        """The key with this secret, if it is in force."""
        digest = keys.digest(secret)
        key = (await self.in_force()).get(digest)
        if key is None:
            key = (await self.in_force(max_age=NEW_KEY_SECONDS)).get(digest)
        # The time that the look-up takes tells of digests at most, and from a digest no secret can be found.
        if key is None or not hmac.compare_digest(key.secret_sha256, digest):
            return None
        self._used[key.id] = time.monotonic()
        return key


def is_protected(path: str) -> bool:
    """Whether a path belongs to somebody: all of the API but health, metrics and documentation."""
    return f"{path}/".startswith(("/v1/", "/predict/"))


class Guarded:
    """Lets a request to a protected path pass with a key that is in force, and notes whose it is.

    Middleware and not a dependency: a route added tomorrow is protected by its path, and no body is read for
    somebody who may not send it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._is_exposed = not settings.is_loopback
        self._may_be_open = settings.is_loopback or settings.no_auth
        self._is_for_everyone = settings.no_auth
        self._trusted = settings.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                _refuse_control_characters(scope)
                if self._needs_a_caller(scope["path"]):
                    scope.setdefault("state", {})["caller"] = await self._identify(scope)
            except PawlensError as refusal:
                await problem_response(refusal, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _needs_a_caller(self, path: str) -> bool:
        return is_protected(path) or (path == "/metrics" and self._is_exposed)

    async def _identify(self, scope: Scope) -> Caller:
        ring: KeyRing = scope["app"].state.service.keys
        if not await ring.in_force() and self._may_be_open:
            if not self._is_for_everyone:
                origins.check(scope["method"], Headers(scope=scope), self._trusted)
            host = scope["client"][0] if scope.get("client") else "unknown"
            return Caller(owner=None, client=host)
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized(
                "This service needs an API key. Send it as `Authorization: Bearer pk_...`; whoever runs the "
                "service makes one with `pawlens keys create NAME`.",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        key = await ring.find(secret.strip())
        if key is None:
            raise Unauthorized(
                "This API key is not in force: it was revoked, or is misspelt.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
            )
        return Caller(key.id, key.id, key.rate_per_second)


_CONTROL = re.compile("[\0-\x1f\x7f]")


def _refuse_control_characters(scope: Scope) -> None:
    """No path or id has one. Routes match by expressions that end in ``$``, before which a line's end may
    stand: "/metrics\\n" would be the route of "/metrics", and to this module another path. And PostgreSQL
    answers a comparison with NUL by an error, so that the query may not have that one.
    """
    if _CONTROL.search(scope["path"]) or b"%00" in scope["query_string"]:
        raise InvalidRequest(
            "The path has a control character, as a line's end (%0A) or NUL (%00), or the query has NUL. "
            "Nothing here is named so."
        )


async def owner_of(request: Request) -> str | None:
    # An endpoint that asks for the owner outside of the protected paths is a mistake, and fails here.
    caller: Caller = request.state.caller
    return caller.owner


OwnerDep = Annotated[str | None, Depends(owner_of)]
"""Whose things an endpoint may show and change; None is everybody's, where the service is open."""
