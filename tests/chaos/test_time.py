"""Workers that sleep through their lease, and workers whose clock is wrong."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core.database import Database
from core.jobs.states import JobState
from core.jobs.tables import Job
from tests.chaos import invariants
from tests.chaos.rest import all_ended, at_rest, database_of, faulty, lines
from tests.processes import PHOTOS, Service, eventually, running

pytestmark = pytest.mark.service

# The second worker is at it for so long that the first one awakes meanwhile.
SLOW = {"stand_in_seconds": 3, "lease_seconds": 1, "heartbeat_seconds": 0.3, "rescue_seconds": 0.2}


def sleep_through_the_lease(service: Service) -> tuple[str, str, str]:
    """Of two workers, the one with the job is stopped until the other one has it, and awakes then.

    Returns the job's id and the names of the sleeper and of the other one.
    """
    for name in ("one", "another"):
        service.start_worker("predict", name)
    eventually(lambda: service.workers().get("predict") == 2, what="both workers")
    job_id = str(service.post(PHOTOS[0])["id"])

    def attempt() -> Any:
        job = service.http.get(f"/v1/jobs/{job_id}").json()
        return job["attempt"] if job["status"] == "running" else 0

    eventually(lambda: attempt() == 1, what="the first attempt")
    with database_of(service) as database, database.read() as session:
        owner = session.scalars(select(Job.lease_owner)).one() or ""
    holds = {name: f"-{service.processes[name].pid}-" in owner for name in ("one", "another")}
    sleeper, other = sorted(holds, key=lambda name: not holds[name])
    stop_between_transactions(service, sleeper)
    eventually(lambda: attempt() == 2, what="the second attempt")
    os.killpg(service.processes[sleeper].pid, signal.SIGCONT)
    return job_id, sleeper, other


def stop_between_transactions(service: Service, worker: str) -> None:
    """SIGSTOP when the worker holds no lock of the database: it would keep it, and nobody could write."""

    def write(database: Database) -> None:
        with database.write() as session:
            session.scalars(select(Job.id).with_for_update()).all()

    with database_of(service) as database, ThreadPoolExecutor(1) as pool:
        while True:
            os.killpg(service.processes[worker].pid, signal.SIGSTOP)
            written = pool.submit(write, database)
            try:
                return written.result(timeout=1)
            except TimeoutError:
                os.killpg(service.processes[worker].pid, signal.SIGCONT)
                written.result()


def test_a_worker_that_slept_through_its_lease_writes_nothing(folder: Path, database_url: str) -> None:
    with running(folder, database_url, **SLOW) as service:
        job_id, sleeper, other = sleep_through_the_lease(service)
        eventually(lambda: lines(service, sleeper, "result dropped"), what="the refused write")
        assert at_rest(service, [job_id]) == {JobState.SUCCEEDED: 1}
        assert not lines(service, sleeper, "job succeeded")
        assert len(lines(service, other, "job succeeded")) == 1


def test_without_the_fence_it_would(folder: Path, sqlite_url: str) -> None:
    """So that the test above can fail: here the sleeper's result is kept and the other one's is lost."""
    with running(folder, sqlite_url, **SLOW) as service:
        with faulty(service, "no-attempt-fence"):
            _, sleeper, other = sleep_through_the_lease(service)
        eventually(lambda: lines(service, sleeper, "job succeeded"), what="the write that must not be")
        with database_of(service) as database:
            eventually(lambda: all_ended(database), what="the end")
            assert invariants.counts(database) == {JobState.SUCCEEDED: 1}
        eventually(lambda: lines(service, other, "result dropped"), what="the loss of the rightful one")


def test_a_worker_whose_clock_is_an_hour_ahead_changes_nothing(folder: Path, database_url: str) -> None:
    """It takes nothing early from the other one, keeps no lease for longer, and is rescued in time."""
    with running(folder, database_url, stand_in_seconds=0.3, max_batch=2) as service:
        with faulty(service, "clock-ahead"):
            service.start_worker("predict", "ahead")
        service.start_worker("predict")
        eventually(lambda: service.workers().get("predict") == 2, what="both workers")
        ids = [service.post(photo)["id"] for photo in PHOTOS[:8] * 2]
        eventually(lambda: lines(service, "ahead", "batch run"), what="a batch of the worker ahead")
        service.kill("ahead")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(ids)}
        jobs = [service.http.get(f"/v1/jobs/{job_id}").json() for job_id in ids]
        assert max(job["attempt"] for job in jobs) <= 2
        assert max(job["timings"]["queued_ms"] for job in jobs) < 3_000_000
