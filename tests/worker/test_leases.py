"""The keeper of the leases: it extends what is held, notices what is lost, and signs for the worker."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from core import database as database_module
from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs import rescue, results
from core.jobs.states import JobState, Queue
from core.jobs.tables import Worker
from tests.core.jobs.steps import claimed, end_lease, fetching, job, running, set_columns
from tests.processes import eventually
from worker.leases import LeaseKeeper

MakeKeeper = Callable[..., LeaseKeeper]


def keeper_of(
    database: Database, queues: Sequence[Queue] = (Queue.PREDICT,), beat: float = 15
) -> LeaseKeeper:
    return LeaseKeeper(
        database, worker_id="machine-1", queues=queues, lease_seconds=60, heartbeat_seconds=beat
    )


@contextmanager
def started(keeper: LeaseKeeper) -> Iterator[LeaseKeeper]:
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop()


def workers(database: Database) -> list[Worker]:
    with database.read() as session:
        return list(session.scalars(select(Worker).order_by(Worker.id)))


def test_it_signs_for_each_queue_and_again_at_each_beat(database: Database) -> None:
    keeper = keeper_of(database, (Queue.PREDICT, Queue.EXPLAIN))
    keeper.report = {"device": "cpu"}
    keeper.beat()
    first = workers(database)
    assert [(row.id, row.queue) for row in first] == [
        ("explain@machine-1", Queue.EXPLAIN),
        ("predict@machine-1", Queue.PREDICT),
    ]
    assert {row.report["device"] for row in first} == {"cpu"}
    keeper.report = {"device": "cuda"}
    keeper.beat()
    second = workers(database)
    assert [row.started_at for row in second] == [row.started_at for row in first]
    assert all(new.seen_at > old.seen_at for new, old in zip(second, first, strict=True))
    assert {row.report["device"] for row in second} == {"cuda"}


def test_it_signs_before_it_is_started_and_stops_when_told(database: Database) -> None:
    keeper = keeper_of(database, beat=0.02)
    with started(keeper):
        (row,) = workers(database)
        eventually(lambda: workers(database)[0].seen_at > row.seen_at)
    (last,) = workers(database)
    keeper.beat()  # the thread is gone, so this one is the next
    assert workers(database)[0].seen_at >= last.seen_at
    assert not keeper._thread.is_alive()


def test_it_extends_what_is_held_while_it_is_held(database: Database) -> None:
    claim, other = running(database), running(database)
    for held in (claim, other):
        set_columns(database, held.job_id, lease_until=db_now(1))
    before = job(database, claim.job_id).lease_until
    keeper = keeper_of(database)
    with keeper.holding([claim]):
        keeper.beat()
        extended = job(database, claim.job_id).lease_until
        assert extended is not None
        assert before is not None
        assert (extended - before).total_seconds() > 50
        assert keeper.wanted(claim)
    assert not keeper.held()
    assert not keeper.wanted(claim)
    keeper.beat()
    assert job(database, claim.job_id).lease_until == extended
    left = job(database, other.job_id).lease_until
    assert left is not None
    assert left < extended  # another worker's lease is its own affair


def test_downloads_are_held_too(database: Database) -> None:
    claim = fetching(database)
    set_columns(database, claim.job_id, lease_until=db_now(1))
    before = job(database, claim.job_id).lease_until
    keeper = keeper_of(database, (Queue.IO,))
    with keeper.holding([claim]):
        keeper.beat()
        after = job(database, claim.job_id).lease_until
        assert before is not None
        assert after is not None
        assert after > before
        assert keeper.wanted(claim)


def test_a_cancel_is_noticed(database: Database) -> None:
    claim, other = running(database), running(database)
    keeper = keeper_of(database)
    with keeper.holding([claim, other]):
        with database.write() as session:
            results.cancel(session, claim.job_id)
        assert keeper.wanted(claim)  # it is known from the next beat on
        keeper.beat()
        assert not keeper.wanted(claim)
        assert keeper.wanted(other)
        assert job(database, claim.job_id).lease_until is not None  # held until it is acknowledged


def test_a_lost_lease_is_noticed_and_told_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    claim = running(database)
    keeper = keeper_of(database)
    with keeper.holding([claim]):
        end_lease(database, claim.job_id)
        with database.write() as session:
            rescue.rescue(session, retry_seconds=0)
        (second,) = claimed(database, owner="other")
        set_columns(database, claim.job_id, lease_until=db_now(1))
        before = job(database, claim.job_id).lease_until
        for _ in range(3):
            keeper.beat()
        assert not keeper.wanted(claim)
        assert job(database, claim.job_id).lease_until == before  # the other's is not extended for it
    told = [record for record in caplog.records if record.message == "lease lost"]
    assert [(record.__dict__["job_id"], record.__dict__["attempt"]) for record in told] == [(claim.job_id, 1)]
    assert second.attempt == 2
    assert job(database, claim.job_id).state is JobState.RUNNING


def test_it_outlives_an_outage(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    database = Database(sqlite_url)
    claim = running(database)
    stranger = sqlite3.connect(tmp_path / "pawlens.db", isolation_level=None)
    keeper = keeper_of(database, beat=0.02)
    with keeper.holding([claim]), started(keeper):
        stranger.execute("BEGIN IMMEDIATE")
        eventually(lambda: [r for r in caplog.records if r.message.startswith("heartbeat missed")])
        assert keeper.wanted(claim)  # nothing is known to be lost
        stranger.execute("ROLLBACK")
        before = workers(database)[0].seen_at
        eventually(lambda: workers(database)[0].seen_at > before)
    stranger.close()
    database.dispose()


def test_a_fault_of_ours_does_not_end_the_heartbeat(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = keeper_of(sqlite_database, beat=0.02)
    with started(keeper):
        beat, faults = keeper.beat, [RuntimeError("a fault of ours")]
        monkeypatch.setattr(keeper, "beat", lambda: _raise(faults.pop()) if faults else beat())
        eventually(lambda: not faults)
        before = workers(sqlite_database)[0].seen_at
        eventually(lambda: workers(sqlite_database)[0].seen_at > before)
    assert [record.message for record in caplog.records] == ["heartbeat failed"]


def _raise(error: Exception) -> None:
    raise error


def test_a_worker_that_starts_before_its_database_signs_in_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut, when all start at once."""
    write, away = database.write, True

    @contextmanager
    def write_if_there() -> Iterator[Session]:
        if away:
            raise ServiceUnavailable("not yet")
        with write() as session:
            yield session

    monkeypatch.setattr(database, "write", write_if_there)
    with started(keeper_of(database, beat=0.02)):
        assert workers(database) == []
        away = False
        eventually(lambda: workers(database), what="the worker's row")
