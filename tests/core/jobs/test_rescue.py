from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, tzinfo

import pytest
from sqlalchemy import select

from core.database import Database, db_now
from core.jobs import claims, results
from core.jobs.rescue import Rescued, expire, ready, release_worker, rescue
from core.jobs.states import JobState, Queue
from tests.core.jobs.steps import (
    PICTURE,
    RESULT,
    claimed,
    end_lease,
    fetching,
    job,
    log,
    running,
    set_columns,
    submitted,
    types,
)


def rescued(database: Database, *, owner: str | None = None, retry_seconds: float = 0) -> Rescued:
    with database.write() as session:
        return rescue(session, retry_seconds=retry_seconds, owner=owner)


def test_a_job_within_its_lease_is_left_alone(database: Database) -> None:
    run, download = running(database), fetching(database)
    assert not rescued(database)
    assert job(database, run.job_id).state is JobState.RUNNING
    assert job(database, download.job_id).lease_owner == "worker"


def test_a_job_whose_lease_is_over_runs_again(database: Database) -> None:
    claim = running(database)
    end_lease(database, claim.job_id)
    assert rescued(database) == Rescued(requeued=1)
    assert not rescued(database)
    row = job(database, claim.job_id)
    assert (row.state, row.lease_owner, row.lease_until) == (JobState.QUEUED, None, None)
    assert log(database, claim.job_id)[-1].data == {"status": "queued", "reason": "worker_lost"}
    assert claimed(database)[0].attempt == 2


def test_a_download_whose_lease_is_over_is_tried_again(database: Database) -> None:
    claim = fetching(database)
    end_lease(database, claim.job_id)
    assert rescued(database) == Rescued(requeued=1)
    assert job(database, claim.job_id).state is JobState.FETCHING
    assert claimed(database, Queue.IO)[0].attempt == 2


@pytest.mark.parametrize("kind", [Queue.PREDICT, Queue.IO])
def test_the_pause_before_it_runs_again_doubles(database: Database, kind: Queue) -> None:
    claim = (running if kind is Queue.PREDICT else fetching)(database, max_attempts=20)
    for attempt, expected in ((1, 100.5), (2, 201), (3, 402), (11, 102_912)):
        set_columns(database, claim.job_id, attempt=attempt)
        end_lease(database, claim.job_id)
        with database.write() as session:
            now = session.scalar(select(db_now()))
            assert rescue(session, retry_seconds=100.5)
        assert now is not None
        pause = (job(database, claim.job_id).run_after - now).total_seconds()
        assert pause == pytest.approx(expected, abs=30)  # the time between two statements
        set_columns(database, claim.job_id, run_after=now)
        (claim,) = claimed(database, kind)


@pytest.mark.parametrize("kind", [Queue.PREDICT, Queue.IO])
def test_when_every_attempt_lost_its_worker_the_job_fails(database: Database, kind: Queue) -> None:
    for attempt in (1, 2):
        if attempt == 1:
            claim = (running if kind is Queue.PREDICT else fetching)(database, max_attempts=2)
        else:
            (claim,) = claimed(database, kind)
        end_lease(database, claim.job_id)
        last = rescued(database)
    assert last == Rescued(failed=1)
    row = job(database, claim.job_id)
    assert row.state is JobState.FAILED
    assert row.error is not None
    assert row.error["code"] == "worker_lost"
    assert types(database, claim.job_id)[-1] == "job.failed"


def test_a_job_that_was_being_canceled_is_canceled(database: Database) -> None:
    claim = running(database)
    with database.write() as session:
        results.cancel(session, claim.job_id)
    end_lease(database, claim.job_id)
    assert rescued(database) == Rescued(canceled=1)
    assert job(database, claim.job_id).state is JobState.CANCELED


def test_a_dead_workers_jobs_are_taken_back_at_once_and_no_others(database: Database) -> None:
    lost = running(database)
    set_columns(database, lost.job_id, lease_owner="dead")
    kept = running(database)
    assert rescued(database, owner="dead") == Rescued(requeued=1)
    assert job(database, lost.job_id).state is JobState.QUEUED
    assert job(database, kept.job_id).state is JobState.RUNNING


def test_a_worker_that_stops_puts_back_all_that_it_holds(database: Database) -> None:
    run, download, canceled = running(database), fetching(database), running(database)
    with database.write() as session:
        results.cancel(session, canceled.job_id)
    for claim in (run, download, canceled):
        set_columns(database, claim.job_id, lease_owner="host_1/7")
    others = [running(database) for _ in range(2)]
    for claim, owner in zip(others, ("hostX1/7", "host_10/7"), strict=True):  # "_" stands for itself
        set_columns(database, claim.job_id, lease_owner=owner)

    with database.write() as session:
        assert release_worker(session, "host_1") == 3

    rows = [job(database, claim.job_id) for claim in (run, download, canceled, *others)]
    assert [row.state.value for row in rows] == ["queued", "fetching", "canceled", "running", "running"]
    assert [row.max_attempts for row in rows] == [4, 4, 3, 3, 3]
    assert claimed(database)[0].attempt == claimed(database, Queue.IO)[0].attempt == 2


def test_everything_whose_deadline_has_passed_expires(database: Database) -> None:
    run = running(database, deadline_seconds=60)
    download = fetching(database, deadline_seconds=60)
    waiting = submitted(database, deadline_seconds=60)
    kept = submitted(database, deadline_seconds=600)
    endless = submitted(database)
    for job_id in (run.job_id, download.job_id, waiting):
        set_columns(database, job_id, deadline_at=db_now(-1))

    with database.write() as session:
        assert expire(session, limit=9) == 3
        assert expire(session, limit=9) == 0
        assert not results.succeed(session, run, **RESULT)

    for job_id in (run.job_id, download.job_id, waiting):
        row = job(database, job_id)
        assert (row.state, row.lease_until) == (JobState.EXPIRED, None)
        assert row.error is not None
        assert row.error["code"] == "deadline_passed"
        assert types(database, job_id)[-1] == "job.expired"
    assert {job(database, job_id).state for job_id in (kept, endless)} == {JobState.QUEUED}


def test_ready_counts_what_could_be_claimed_now(database: Database) -> None:
    def counts(at_most: int = 10) -> list[int]:
        with database.read() as session:
            return [ready(session, queue, at_most=at_most) for queue in Queue]

    assert counts() == [0, 0, 0]
    retried = running(database)
    with database.write() as session:
        claims.give_back(session, retried)
    late, delayed, *_ = [submitted(database) for _ in range(4)]
    set_columns(database, late, deadline_at=db_now(-1))
    set_columns(database, delayed, run_after=db_now(60))
    submitted(database, methods=("grad_cam",))
    submitted(database, url="https://example.com/cat.jpg")
    assert counts() == [3, 1, 1]
    assert counts(at_most=2) == [2, 1, 1]
    assert counts(at_most=1) == [1, 1, 1]
    for queue in Queue:
        claimed(database, queue)
        claimed(database, queue, limit=9)
    assert counts() == [0, 0, 0]


def test_only_the_databases_clock_decides(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is an hour ahead claims, keeps, loses and ends nothing earlier than any other."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return super().now(tz) + timedelta(hours=1)

    claim = running(database, deadline_seconds=1800)
    delayed = submitted(database)
    set_columns(database, delayed, run_after=db_now(1800))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    for name, module in list(sys.modules.items()):
        if name.startswith("core.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Ahead)

    assert not rescued(database)
    with database.write() as session:
        assert expire(session, limit=9) == 0
        assert claims.heartbeat(session, [claim], lease_seconds=60)
    assert claimed(database) == []
    download = fetching(database)
    with database.write() as session:
        results.fetched(session, download, PICTURE)
        assert results.succeed(session, claim, **RESULT)
    row = job(database, claim.job_id)
    assert row.finished_at is not None
    assert (row.finished_at - row.created_at).total_seconds() < 600
    monkeypatch.undo()
    assert abs(row.created_at.timestamp() - time.time()) < 600
