"""Restarts of an operator's daily life, while clients go on posting: the database, the workers, the API."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from core.jobs.states import JobState
from tests.chaos.clients import insisting
from tests.chaos.postgres import RestartablePostgres
from tests.chaos.rest import at_rest, errors_in, lines
from tests.databases import TestRun
from tests.processes import eventually, running

pytestmark = pytest.mark.service

QUICK = {"stand_in_seconds": 0.2, "max_batch": 4}


@pytest.fixture
def postgres(test_run: TestRun) -> Iterator[RestartablePostgres]:
    folder = Path(tempfile.mkdtemp(prefix="p", dir=test_run.folder))
    folder.chmod(0o755)  # the server's own user must get through
    server = RestartablePostgres(folder)
    server.start()
    yield server
    if server.is_running:
        server.stop()


def test_postgresql_stopped_for_longer_than_a_lease(folder: Path, postgres: RestartablePostgres) -> None:
    """Clients are told to come again, workers and beat wait in the same processes, and nothing is lost."""
    with running(folder, postgres.url, "predict", **QUICK) as service:
        parts = {name: process.pid for name, process in service.processes.items()}
        child = service.child_of("predict").pid
        with insisting(service) as seen:
            seen.goes_on()
            postgres.stop()
            eventually(lambda: seen.again["503"] >= 16, what="refusals")
            assert service.http.get("/livez").status_code == 200
            ready = service.http.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]["database"]["status"]) == (503, "unavailable")
            time.sleep(4)  # a lease is 3 s
            postgres.start()
            seen.goes_on()
        assert at_rest(service, seen.accepted) == {JobState.SUCCEEDED: len(seen.accepted)}
        assert service.http.get("/readyz").status_code == 200
        assert {name: process.pid for name, process in service.processes.items()} == parts
        assert service.child_of("predict").pid == child
        assert all(process.poll() is None for process in service.processes.values())
        assert not errors_in(service)


def test_workers_restarted_one_by_one(folder: Path, postgres_url: str) -> None:
    """SIGTERM: each finishes its batch first, so that no job is tried twice."""
    with running(folder, postgres_url, **QUICK) as service:
        for name in ("predict-1", "predict-2"):
            service.start_worker("predict", name)
        eventually(lambda: service.workers().get("predict") == 2, what="both workers")
        with insisting(service) as seen:
            seen.goes_on()
            for old, new in (("predict-1", "predict-3"), ("predict-2", "predict-4")):
                assert service.terminate(old) == 0
                service.start_worker("predict", new)
                eventually(lambda: service.workers().get("predict") == 2, what=new)
            for name in ("predict-3", "predict-4"):
                eventually(partial(lines, service, name, "batch run"), what=f"a batch of {name}")
        assert not seen.again, "no request was refused"
        assert at_rest(service, seen.accepted) == {JobState.SUCCEEDED: len(seen.accepted)}
        jobs = [service.http.get(f"/v1/jobs/{job_id}").json() for job_id in seen.accepted]
        assert {job["attempt"] for job in jobs} == {1}
        assert not errors_in(service)


def test_the_api_restarted(folder: Path, sqlite_url: str) -> None:
    """Its clients cannot connect for a while. Who asks again has each job once, and its result."""
    with running(folder, sqlite_url, "predict", **QUICK) as service:
        with insisting(service, may_break=True) as seen:
            seen.goes_on()
            assert service.terminate("api") == -signal.SIGTERM
            assert lines(service, "api", "Finished server process"), "it stopped in order"
            service.start("api")
            seen.goes_on()
        assert seen.again["ConnectError"] > 0, "the restart met no client"
        assert not seen.again["503"]
        assert at_rest(service, seen.accepted) == {JobState.SUCCEEDED: len(seen.accepted)}
        assert not errors_in(service)
