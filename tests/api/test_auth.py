"""Who may call: keys, what is open without one, and how fast a revoked one ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from api import auth
from api.auth import KeyRing, is_protected
from api.routes import events as route
from core import keys
from core.database import Database
from core.errors import ServiceUnavailable
from tests.api.conftest import PHOTO, Api, assert_problem, serving, settings_for
from tests.api.key_holders import bearer, make_key, wait_for_the_guard
from tests.core.jobs.steps import claimed
from tests.processes import eventually


@pytest.fixture
def guarded(sqlite_url: str, tmp_path: Path) -> Iterator[tuple[Api, str]]:
    """A service with one key, and that key's secret."""
    with serving(settings_for(sqlite_url, tmp_path)) as running:
        _, secret = make_key(running, "me")
        wait_for_the_guard(running)
        yield running, secret


def test_loopback_is_open_until_there_is_a_key(sqlite_url: str, tmp_path: Path) -> None:
    with serving(settings_for(sqlite_url, tmp_path)) as running:
        job_id = running.post()["id"]
        assert running.http.get(f"/v1/jobs/{job_id}", headers=bearer("pk_none")).status_code == 200
        _, secret = make_key(running, "me")
        wait_for_the_guard(running)
        mine = running.http.get("/v1/jobs", headers=bearer(secret))
        assert mine.json()["jobs"] == []  # what was posted without a key is not this one's
        with running.database.write() as session:
            keys.revoke(session, "me")
        eventually(lambda: running.http.get("/v1/jobs").status_code == 200, what="an open service")
        assert running.http.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_key_opens_the_service(guarded: tuple[Api, str]) -> None:
    api, secret = guarded
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = api.http.get("/v1/jobs", headers={"Authorization": f"{scheme} {secret}"})
        assert answer.status_code == 200


@pytest.mark.parametrize("has_news", [False, True])
def test_a_stream_ends_with_its_key(
    guarded: tuple[Api, str], monkeypatch: pytest.MonkeyPatch, has_news: bool
) -> None:
    api, secret = guarded
    make_key(api, "another")  # without any, the service would be open again
    if not has_news:  # then it is a heartbeat that notices
        monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.2)
    answer = api.http.post("/v1/jobs", files={"file": PHOTO}, headers=bearer(secret))
    path = f"/v1/jobs/{answer.json()['id']}/events"
    with api.http.stream("GET", path, headers=bearer(secret), timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: job.created"
        with api.database.write() as session:
            keys.revoke(session, "me")
        eventually(lambda: api.http.get("/v1/jobs", headers=bearer(secret)).status_code == 401)
        if has_news:
            assert claimed(api.database)
        assert "event: job.started" not in list(lines)


WRONG: list[Callable[[str], dict[str, str]]] = [
    lambda _: {},
    lambda _: {"Authorization": ""},
    lambda _: {"Authorization": "Bearer"},
    lambda secret: {"Authorization": secret},
    lambda secret: {"Authorization": f"Basic {secret}"},
    lambda secret: {"X-API-Key": secret},
    lambda secret: bearer(secret[:-1]),
    lambda secret: bearer(f"{secret}x"),
    lambda secret: bearer(secret.swapcase()),
    lambda secret: bearer(keys.digest(secret)),
    lambda secret: bearer(f"{secret},{secret}"),
]


@pytest.mark.parametrize("headers", WRONG)
def test_anything_else_does_not(guarded: tuple[Api, str], headers: Callable[[str], dict[str, str]]) -> None:
    api, secret = guarded
    answer = api.http.get("/v1/jobs", headers=headers(secret))
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="pawlens"')
    assert secret not in answer.text


def test_a_secret_in_the_query_is_none(guarded: tuple[Api, str]) -> None:
    api, secret = guarded
    assert_problem(api.http.get("/v1/jobs", params={"api_key": secret}), 401)


def test_bytes_that_are_no_text_are_no_key(guarded: tuple[Api, str]) -> None:
    api, _ = guarded
    answer = api.http.get("/v1/jobs", headers=[(b"Authorization", b"Bearer \xff\xfe")])
    assert_problem(answer, 401)


def test_a_wrong_key_is_told_apart_from_none(guarded: tuple[Api, str]) -> None:
    """As RFC 6750 has it: the error is named only where there was an attempt."""
    api, _ = guarded
    assert "error=" not in api.http.get("/v1/jobs").headers["www-authenticate"]
    wrong = api.http.get("/v1/jobs", headers=bearer("pk_wrong"))
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]


def test_a_body_is_not_read_for_nobody_and_the_connection_stays_usable(guarded: tuple[Api, str]) -> None:
    api, secret = guarded
    with httpx.Client(base_url=api.http.base_url, timeout=30) as one:
        for _ in range(3):
            assert_problem(one.post("/v1/jobs", files={"file": bytes(8 << 20)}), 401)
            assert one.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    assert api.count_jobs() == 0


def test_every_call_that_is_not_open_by_name_needs_a_key(guarded: tuple[Api, str]) -> None:
    """A route that somebody adds is protected, or stands in this list."""
    api, _ = guarded
    document = api.http.get("/openapi.json").json()
    open_paths = {"/health", "/livez", "/readyz", "/metrics"}
    assert open_paths <= set(document["paths"])
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = api.http.request(method, re.sub(r"\{\w+\}", "x", path))
            if path in open_paths:
                assert answer.status_code == 200
                assert "security" not in operation
                continue
            assert_problem(answer, 401, "unauthorized")
            assert operation["security"] == [{"api_key": []}, {}]
            assert {"401", "429"} <= set(operation["responses"])
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/predict/", "/v1/jobs/", "/%76%31/jobs"])
def test_paths_that_lead_nowhere_are_protected_as_well(guarded: tuple[Api, str], path: str) -> None:
    assert_problem(guarded[0].http.get(path), 401)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v10", "/predictions"])
def test_the_documentation_is_open(guarded: tuple[Api, str], path: str) -> None:
    assert not is_protected(path)
    assert guarded[0].http.get(path).status_code in (200, 404)


@pytest.mark.parametrize("path", ["/v1/jobs", "/predict", "/predict/advanced", "/metrics", "/livez", "/docs"])
@pytest.mark.parametrize("character", ["%0A", "%0D", "%00", "%7F"])
def test_a_path_with_a_control_character_is_none(guarded: tuple[Api, str], path: str, character: str) -> None:
    """To Starlette's routes a line's end at a path's end is nothing."""
    for method in ("GET", "POST"):
        answer = guarded[0].http.request(method, path + character)
        assert_problem(answer, 422, "invalid_request", "control character")
    assert not guarded[0].lines(level="ERROR")


def test_a_browser_may_ask_what_it_may_send(sqlite_url: str, tmp_path: Path) -> None:
    """A preflight request carries no key (Fetch standard), and is answered without one."""
    origin = "https://app.example.com"
    with serving(settings_for(sqlite_url, tmp_path, cors_origins=[origin])) as running:
        make_key(running, "me")
        wait_for_the_guard(running)
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "Authorization",
        }
        answer = running.http.options("/v1/jobs", headers=asked)
        assert answer.status_code == 200
        assert "Authorization" in answer.headers["access-control-allow-headers"]


class TestExposed:
    """What a service does that other machines reach. The server of these tests stays on loopback."""

    def test_it_is_closed_also_without_any_key(self, sqlite_url: str, tmp_path: Path) -> None:
        with serving(settings_for(sqlite_url, tmp_path, host="192.0.2.1")) as running:
            for path in ("/v1/jobs", "/metrics"):
                assert_problem(running.http.get(path), 401)
            assert_problem(running.http.get("/metrics%0A"), 422)
            assert running.http.get("/livez").status_code == 200
            _, secret = make_key(running, "me")

            def opens(path: str) -> bool:
                return running.http.get(path, headers=bearer(secret)).status_code == 200

            eventually(lambda: opens("/v1/jobs") and opens("/metrics"), what="a service that takes the key")

    def test_no_auth_opens_it_while_there_is_no_key(self, sqlite_url: str, tmp_path: Path) -> None:
        with serving(settings_for(sqlite_url, tmp_path, host="192.0.2.1", no_auth=True)) as running:
            assert running.http.get("/v1/jobs").status_code == 200
            assert running.http.get("/metrics").status_code == 200
            make_key(running, "me")
            wait_for_the_guard(running)
            assert_problem(running.http.get("/metrics"), 401)


class TestKeyRing:
    def test_a_revoked_key_ends_within_seconds(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with database.write() as session:
            key, secret = keys.create(session, "me")
            key_id = key.id

        monkeypatch.setattr(auth, "KEEP_SECONDS", 1e9)

        async def story() -> None:
            ring = KeyRing(database)
            found = await ring.find(secret)
            assert found is not None
            assert found.id == key_id
            with database.write() as session:
                keys.revoke(session, "me")
            assert await ring.find(secret) is not None  # still remembered
            monkeypatch.setattr(auth, "KEEP_SECONDS", -1.0)  # they have passed
            assert await ring.find(secret) is None

        asyncio.run(story())

    def test_the_database_is_asked_once_for_many(self, sqlite_database: Database) -> None:
        async def story() -> int:
            ring, asked = KeyRing(sqlite_database), 0
            read = ring._from_database

            def counted() -> list[keys.Key]:
                nonlocal asked
                asked += 1
                return read()

            ring._from_database = counted  # type: ignore[method-assign]
            await asyncio.gather(*(ring.find(f"pk_{i}") for i in range(200)))
            return asked

        assert asyncio.run(story()) == 1

    def test_without_a_database_it_is_closed_and_then_goes_on_with_what_it_knows(
        self, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        away = Database(f"sqlite:///{tmp_path / 'missing' / 'pawlens.db'}")
        with sqlite_database.write() as session:
            _, secret = keys.create(session, "me")

        async def story() -> None:
            ring = KeyRing(away)
            with pytest.raises(ServiceUnavailable):
                await ring.in_force()
            with pytest.raises(ServiceUnavailable):  # at once: not every request shall wait for a timeout
                await ring.find(secret)
            ring = KeyRing(sqlite_database)
            assert await ring.find(secret) is not None
            ring._database = away
            monkeypatch.setattr(auth, "KEEP_SECONDS", -1.0)
            assert await ring.find(secret) is not None

        asyncio.run(story())
        away.dispose()

    def test_use_is_noted(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        with database.write() as session:
            _, secret = keys.create(session, "me")
        monkeypatch.setattr(auth, "NOTE_USE_SECONDS", -1.0)

        async def story() -> None:
            ring = KeyRing(database)
            assert await ring.find(secret) is not None
            await ring.in_force(max_age=-1.0)
            await ring.close()

        asyncio.run(story())
        with database.read() as session:
            (key,) = keys.listed(session)
        assert key.last_used_at is not None

    def test_what_was_not_noted_is_noted_at_the_end(self, sqlite_database: Database) -> None:
        with sqlite_database.write() as session:
            _, secret = keys.create(session, "me")

        async def story() -> None:
            ring = KeyRing(sqlite_database)
            await ring.find(secret)
            await ring.close()

        asyncio.run(story())
        with sqlite_database.read() as session:
            assert keys.listed(session)[0].last_used_at is not None

    def test_nobody_waits_for_a_writer_that_waits(
        self, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with sqlite_database.write() as session:
            _, secret = keys.create(session, "me")
        monkeypatch.setattr(auth, "NOTE_USE_SECONDS", -1.0)

        async def story() -> None:
            ring = KeyRing(sqlite_database)
            with ExitStack() as other:
                other.enter_context(sqlite_database.write())  # which holds the only lock
                assert await ring.find(secret) is not None
                for _ in range(2):
                    assert await asyncio.wait_for(ring.in_force(max_age=-1.0), 5)
            await ring.close()

        asyncio.run(story())
        with sqlite_database.read() as session:
            assert keys.listed(session)[0].last_used_at is not None
