"""The health check of a container: a worker's heartbeat, beat's work, a database that is away."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from sqlalchemy import update

from core.database import Database, db_now
from core.jobs.states import Queue
from core.jobs.tables import Job
from core.settings import Settings
from tests.core.jobs import steps
from worker.health import OVERDUE_SECONDS, beat_trouble, check, main, worker_trouble
from worker.leases import LeaseKeeper


def keeper(database: Database, queue: Queue) -> LeaseKeeper:
    return LeaseKeeper(
        database, worker_id=f"w-{queue}", queues=[queue], lease_seconds=60, heartbeat_seconds=15
    )


def test_a_worker_is_well_while_it_beats(database: Database) -> None:
    def trouble(hostname: str | None = None) -> str | None:
        with database.read() as session:
            return worker_trouble(session, Queue.PREDICT, silent_seconds=45, hostname=hostname)

    here = socket.gethostname()
    assert trouble() == f"no predict worker on {here} was heard of within 45 s"
    keeper(database, Queue.EXPLAIN).beat()
    assert trouble(), "a worker of another queue does not count"
    keeper(database, Queue.PREDICT).beat()
    assert trouble() is None
    assert trouble("another-container"), "a worker of another host does not count"


def test_a_silent_worker_is_not_well(database: Database) -> None:
    keeper(database, Queue.IO).beat()
    with database.read() as session:
        assert worker_trouble(session, Queue.IO, silent_seconds=-1)


@pytest.mark.parametrize(("over_for", "is_trouble"), [(0.0, False), (OVERDUE_SECONDS + 1, True)])
def test_beat_is_not_well_when_lost_jobs_stay_lost(
    database: Database, over_for: float, is_trouble: bool
) -> None:
    job_id = steps.running(database).job_id
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now(-over_for)))
    with database.read() as session:
        assert (beat_trouble(session) is not None) == is_trouble


def test_it_says_so_and_is_the_exit_status(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWLENS_DATABASE_URL", database_url)
    command = [sys.executable, "-m", "worker.health", "predict"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "no predict worker" in done.stdout
    assert main(["beat"]) == 0


def test_a_database_that_is_away_is_not_the_workers_fault() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"postgresql://pawlens@127.0.0.1:{nobody.getsockname()[1]}/pawlens"
        works, sentence = check(Settings(database_url=url), "predict")
    assert works
    assert sentence.startswith("nothing can be told: ")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["predict", "explain"]])
def test_it_wants_one_role(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: python -m worker.health predict|explain|io|beat" in capsys.readouterr().err
