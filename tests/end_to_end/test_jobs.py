"""The main job, as a client sees it, through real processes on both databases."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.database import Database
from core.jobs.tables import Event
from tests.processes import PHOTOS, Service, eventually, running

pytestmark = pytest.mark.service


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # short: it holds a socket


@pytest.fixture
def service(folder: Path, database_url: str) -> Iterator[Service]:
    with running(folder, database_url, "predict", "io", stand_in_seconds=0.05) as started:
        yield started


def post_many(service: Service, count: int, clients: int = 20) -> list[str]:
    with ThreadPoolExecutor(clients) as pool:
        jobs = pool.map(lambda i: service.post(PHOTOS[i % len(PHOTOS)], custom_id=str(i)), range(count))
        return [job["id"] for job in jobs]


def assert_all_succeeded_once(service: Service, ids: list[str], *, max_attempt: int) -> list[dict[str, Any]]:
    """Every job ended well, within its attempts, and its log shows exactly one end."""
    assert len(set(ids)) == len(ids)
    jobs = [service.wait(job_id) for job_id in ids]
    assert Counter(job["status"] for job in jobs) == {"succeeded": len(ids)}
    assert max(job["attempt"] for job in jobs) <= max_attempt
    database = Database(service.environment["PAWLENS_DATABASE_URL"])
    with database.read() as session:
        events = session.query(Event).order_by(Event.subject_id, Event.seq).all()
    database.dispose()
    for job in jobs:
        log = [event for event in events if event.subject_id == job["id"]]
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert [event.type for event in log].count("job.succeeded") == 1
        assert log[-1].type == "job.succeeded"
    return jobs


def batch_sizes(service: Service, *workers: str) -> list[int]:
    lines = [
        json.loads(line) for name in workers for line in service.log(name).splitlines() if line[:1] == "{"
    ]
    return [line["batch_size"] for line in lines if line["message"] == "batch run"]


def test_a_hundred_photos_from_twenty_clients_run_in_micro_batches(service: Service) -> None:
    ids = post_many(service, 100)
    jobs = assert_all_succeeded_once(service, ids, max_attempt=1)
    assert max(batch_sizes(service, "predict")) > 1
    assert sum(batch_sizes(service, "predict")) == 100
    # The stand-in engine answers by the picture's digest: each job has its own picture's answer.
    answers = {(job["image"]["sha256"], job["prediction"]["margin"]) for job in jobs}
    assert len(answers) == len(PHOTOS)


def test_killing_the_child_in_the_middle_loses_and_doubles_nothing(folder: Path, database_url: str) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=1, max_batch=16) as service:
        ids = post_many(service, 60)
        eventually(lambda: '"running"' in service.http.get("/v1/jobs?status=running").text)
        service.child_of("predict").kill()
        jobs = assert_all_succeeded_once(service, ids, max_attempt=2)
        assert any(job["attempt"] == 2 for job in jobs), "the kill hit nothing"


def test_killing_the_whole_worker_in_the_middle_loses_and_doubles_nothing(
    folder: Path, database_url: str
) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=1, max_batch=16) as service:
        ids = post_many(service, 60)
        eventually(lambda: '"running"' in service.http.get("/v1/jobs?status=running").text)
        service.kill("predict")
        service.start_worker("predict")
        jobs = assert_all_succeeded_once(service, ids, max_attempt=2)
        assert any(job["attempt"] == 2 for job in jobs), "the kill hit nothing"


def test_losing_valkey_in_the_middle_loses_nothing(folder: Path, database_url: str) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        ids = post_many(service, 40)
        service.valkey.terminate()
        ids += post_many(service, 20)  # accepted all the same
        assert service.http.get("/readyz").json()["status"] == "degraded"
        service.valkey.start()
        assert_all_succeeded_once(service, ids, max_attempt=1)


def test_two_predict_workers_share_the_work(folder: Path, database_url: str) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        service.start_worker("predict", "predict-2")
        eventually(lambda: service.workers().get("predict") == 2, what="the second worker")
        ids = post_many(service, 100)
        assert_all_succeeded_once(service, ids, max_attempt=1)
        first, second = (sum(batch_sizes(service, name)) for name in ("predict", "predict-2"))
        assert first + second == 100
        assert min(first, second) > 0


def test_sigterm_lets_the_batch_finish(folder: Path, database_url: str) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=2) as service:
        job_id = service.post(PHOTOS[0])["id"]
        eventually(lambda: service.http.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
        service.terminate("predict")
        job = service.http.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], job["attempt"]) == ("succeeded", 1)
        assert service.workers()["predict"] == 0  # it signed off


def test_a_worker_that_cannot_start_ends(folder: Path, sqlite_url: str) -> None:
    """Whoever started it sees that. One that lived on would take every hint and do nothing with it."""
    service = Service(folder, sqlite_url, engine="resnet", weights=folder / "none.json")
    try:
        service.valkey.start()
        worker = service.start_worker("predict")
        assert worker.wait(timeout=60) == 1
        assert "the worker cannot start, leaving" in service.log("predict")
    finally:
        service.stop()


def test_a_child_that_starts_while_the_database_is_away_works_when_it_is_back(
    folder: Path, sqlite_url: str
) -> None:
    with running(folder, sqlite_url, "predict") as service:
        file = Path(sqlite_url.removeprefix("sqlite:///"))
        lock = sqlite3.connect(file, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")  # nobody writes for longer than anybody waits
        service.child_of("predict").kill()
        eventually(
            lambda: "heartbeat missed" in service.log("predict"), what="a start without it", seconds=60
        )
        lock.rollback()
        lock.close()
        assert service.wait(service.post(PHOTOS[0])["id"])["status"] == "succeeded"


def test_sigterm_puts_back_what_cannot_finish_in_time(folder: Path, database_url: str) -> None:
    slow = {"stand_in_seconds": 100, "lease_seconds": 600, "stop_seconds": 2}
    with running(folder, database_url, "predict", **slow) as service:
        job_id = service.post(PHOTOS[0])["id"]
        eventually(lambda: service.http.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
        service.terminate("predict")
        job = service.http.get(f"/v1/jobs/{job_id}").json()
        assert job["status"] == "queued"
        service.environment["PAWLENS_STAND_IN_SECONDS"] = "0"
        service.start_worker("predict")
        assert service.wait(job_id)["status"] == "succeeded"
