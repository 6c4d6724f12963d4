"""Refusals that are nobody's fault: the database is away, the disk is full, or the service has a bug."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from api.service import Service
from core import database
from core.errors import StorageFull
from core.jobs import queries
from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem, serving, settings_for
from tests.databases import PostgresServer


@pytest.fixture
def impatient_api(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Waits for SQLite's write lock for a fifth of a second instead of fifteen."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    with serving(settings_for(sqlite_url, tmp_path)) as running:
        yield running


def test_a_database_that_is_locked(impatient_api: Api, tmp_path: Path) -> None:
    """A job that could not be written is not accepted; what only reads goes on."""
    api = impatient_api
    job = api.post()
    stranger = sqlite3.connect(tmp_path / "pawlens.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    for answer in (
        api.http.post("/v1/jobs", files={"file": PHOTO}),
        api.http.post("/v1/jobs", json={"image": {"url": PUBLIC_URL}}, headers={"Prefer": "wait=5"}),
        api.http.post("/predict", files={"file": PHOTO}),
        api.http.post(job["links"]["cancel"]),
    ):
        assert_problem(answer, 503, "service_unavailable", "Try again in a few seconds")
        assert answer.headers["retry-after"] == "5"
    assert api.job(job["id"])["status"] == "queued"
    stranger.execute("ROLLBACK")
    stranger.close()
    assert api.count_jobs() == 1
    assert api.http.post("/v1/jobs", files={"file": PHOTO}).status_code == 202


@pytest.fixture
def failing_commit(postgres_url: str, postgres_server: PostgresServer) -> str:
    """A database whose connection breaks at the COMMIT of a transaction that has added a job."""
    opened = database.Database(postgres_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER hang_up AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION hang_up()"
        )
    opened.dispose()
    return postgres_url


def test_a_commit_that_fails(failing_commit: str, tmp_path: Path) -> None:
    """The INSERT succeeds and the connection breaks at COMMIT: 503 and no job, never 202."""
    with serving(settings_for(failing_commit, tmp_path)) as api:
        for headers in ({}, {"Prefer": "wait=5"}):
            answer = api.http.post("/v1/jobs", files={"file": PHOTO}, headers=headers)
            assert_problem(answer, 503, "service_unavailable")
            assert answer.headers["retry-after"] == "5"
        assert api.count_jobs() == 0
        # The pool has replaced the broken connections.
        with api.database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER hang_up ON jobs")
        assert api.http.post("/v1/jobs", files={"file": PHOTO}).status_code == 202


def test_connections_that_were_cut_between_requests(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with serving(settings_for(postgres_url, tmp_path)) as api:
        api.post()
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            make_url(postgres_url).database,
        )
        api.post()
        assert api.http.get("/v1/jobs").status_code == 200


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path / 'no-such-folder' / 'pawlens.db'}"
    with serving(settings_for(missing, tmp_path)) as api:
        for path in ("/v1/jobs", "/v1/jobs/job_0", "/v1/jobs/job_0/image", "/v1/queue"):
            assert_problem(api.http.get(path), 503, "service_unavailable")
        assert_problem(api.http.post("/v1/jobs", files={"file": PHOTO}), 503, "service_unavailable")
        assert api.http.get("/livez").status_code == 200


def test_a_full_disk(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """That what SQLite and PostgreSQL say of it ends as this error, tests/core/test_database.py shows."""

    def full(*_: object, **__: object) -> None:
        raise StorageFull("The database's disk is full.")

    monkeypatch.setattr("api.acceptance.submit_all", full)
    answer = sqlite_api.http.post("/v1/jobs", files={"file": PHOTO})
    assert_problem(answer, 507, "insufficient_storage", "disk is full")


def test_an_error_of_our_own_tells_nothing_and_logs_everything(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the service")

    monkeypatch.setattr(Service, "job", broken)
    monkeypatch.setattr(queries, "list_jobs", broken)
    for path, correlation in (("/v1/jobs", "in-a-thread"), ("/v1/jobs/job_0", "in-the-loop")):
        answer = sqlite_api.http.get(path, headers={"X-Correlation-ID": correlation})
        assert_problem(answer, 500, "internal_error", "under this correlation id")
        assert "secret" not in answer.text
        line = sqlite_api.line(level="ERROR", correlation_id=correlation)
        assert "a secret of the service" in line["exception"]
        assert sqlite_api.line(message="request", correlation_id=correlation)["status"] == 500


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", {"HEAD", "GET", "POST"}),
        ("PATCH", "/v1/jobs/job_0", {"HEAD", "GET", "DELETE"}),
        ("GET", "/v1/jobs/job_0/cancel", {"POST"}),
        ("DELETE", "/readyz", {"HEAD", "GET"}),
    ],
)
def test_a_method_that_a_path_does_not_answer(
    sqlite_api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = sqlite_api.http.request(method, path)
    assert_problem(answer, 405, "method_not_allowed", "does not answer that method")
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_body_that_cannot_be_read(sqlite_api: Api) -> None:
    answer = sqlite_api.http.post(
        "/v1/webhooks", content=b'{"url": "\xff"}', headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 400, "bad_request", "JSON in UTF-8")


def test_each_fault_is_listed(sqlite_api: Api) -> None:
    wishes = {"priority": 10, "custom_id": "", "deadline_seconds": 0, "metadata": [], "methods": "x"}
    answer = sqlite_api.http.post("/v1/jobs", json={"image": {"url": PUBLIC_URL}, **wishes})
    assert_problem(answer, 422, "invalid_request", "(and 2 more, see errors)")
    errors = answer.json()["errors"]
    assert {error["field"] for error in errors} == set(wishes)
    assert all(error["message"] for error in errors)
