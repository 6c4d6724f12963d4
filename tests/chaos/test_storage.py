"""The database goes away, is locked, is full."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from core.jobs.states import JobState
from tests.chaos.rest import at_rest, faulty
from tests.databases import PostgresServer
from tests.processes import PHOTOS, Service, eventually, running

pytestmark = pytest.mark.service


def insist(service: Service, photo: Path, key: str) -> str:
    """Post until the answer is that the job is accepted, as a client does that is told to come again."""

    def accepted() -> str | None:
        try:
            with photo.open("rb") as file:
                answer = service.http.post("/v1/jobs", files={"file": file}, headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            raise AssertionError("the API itself was never away") from error
        if answer.status_code == 503:
            assert answer.headers["Retry-After"]
            assert answer.json()["code"] == "service_unavailable"
            return None
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    return str(eventually(accepted, what="acceptance"))


@contextmanager
def cutting(server: PostgresServer, database: str) -> Iterator[list[int]]:
    """Every half second, end all connections to the database; the answer counts them."""
    done, cut = threading.Event(), []

    def run() -> None:
        with psycopg.connect(
            host=str(server.data), user="postgres", dbname="postgres", autocommit=True
        ) as admin:
            while not done.wait(0.5):
                ended = admin.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s",
                    [database],
                ).fetchone()
                cut.append(int(ended[0]) if ended else 0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield cut
    finally:
        done.set()
        thread.join()


def test_connections_cut_twice_a_second(
    folder: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    with running(folder, postgres_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        with cutting(postgres_server, name) as cut:
            ids = [insist(service, PHOTOS[i % len(PHOTOS)], str(i)) for i in range(40)]
            eventually(lambda: len(cut) >= 8, what="eight cuts")
        assert sum(cut) > 8, "the cuts hit nothing"
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(set(ids))}
        assert len(set(ids)) == 40


def test_a_stranger_holds_sqlites_lock_for_five_seconds(folder: Path, sqlite_url: str) -> None:
    """Longer than a lease: jobs run twice if they must, and have one result."""
    with running(folder, sqlite_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        ids = [service.post(photo)["id"] for photo in PHOTOS * 2]
        stranger = sqlite3.connect(
            sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
        )
        stranger.execute("BEGIN IMMEDIATE")
        release = threading.Timer(5, stranger.rollback)
        release.start()
        ids.append(insist(service, PHOTOS[0], "meanwhile"))  # waits for its turn
        release.join()
        stranger.close()
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(ids)}


def test_a_full_disk_refuses_new_jobs_and_loses_none(folder: Path, sqlite_url: str) -> None:
    full = folder / "full"
    with running(folder, sqlite_url, stand_in_seconds=0.1, max_batch=2) as service:
        eventually(service.workers, what="the API")
        service.kill("api")
        service.kill("beat")
        with faulty(service, "disk-full", CHAOS_FULL=str(full)):
            _start(service)
        ids = [service.post(photo)["id"] for photo in PHOTOS[:6]]
        full.touch()
        refusals = 0
        for i in range(10):  # until the free pages are used up
            data = PHOTOS[i % len(PHOTOS)].read_bytes() + bytes([i])  # a picture that is not there yet
            answer = service.http.post("/v1/jobs", files={"file": data})
            if answer.status_code == 202:
                ids.append(answer.json()["id"])
            else:
                assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
                refusals += 1
        assert refusals > 0
        assert service.http.get(f"/v1/jobs/{ids[0]}").status_code == 200
        full.unlink()
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(ids)}
        assert service.post(PHOTOS[0])["id"]


def _start(service: Service) -> None:
    service.start("api")
    service.start("beat")
    service.start_worker("predict")
    eventually(lambda: service.workers().get("predict"), what="readiness")
