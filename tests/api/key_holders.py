"""Callers with keys of their own."""

from __future__ import annotations

import httpx

from core import keys
from tests.api.conftest import Api
from tests.processes import eventually


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make_key(api: Api, name: str, *, rate: float | None = None) -> tuple[str, str]:
    with api.database.write() as session:
        key, secret = keys.create(session, name, rate_per_second=rate)
        return key.id, secret


def wait_for_the_guard(api: Api) -> None:
    """Until the service has seen that there are keys."""
    eventually(lambda: api.http.get("/v1/model").status_code == 401, what="a service that wants keys")


class TwoOwners:
    """Each with a key, on one service."""

    def __init__(self, api: Api) -> None:
        self.api = api
        (self.alice, secret), (self.bob, other) = make_key(api, "alice"), make_key(api, "bob")
        wait_for_the_guard(api)
        self.as_alice = httpx.Client(base_url=api.http.base_url, headers=bearer(secret), timeout=60)
        self.as_bob = httpx.Client(base_url=api.http.base_url, headers=bearer(other), timeout=60)

    def close(self) -> None:
        self.as_alice.close()
        self.as_bob.close()
