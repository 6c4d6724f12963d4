from __future__ import annotations

from typing import Any

import pytest

from core.database import Database, db_now
from core.jobs import claims, results
from core.jobs.states import JobState, Queue
from tests.core.jobs.steps import (
    PICTURE,
    claimed,
    end_lease,
    fetching,
    job,
    running,
    set_columns,
    submitted,
    types,
)


def test_a_claim_says_what_to_do_and_starts_the_job(database: Database) -> None:
    job_id = submitted(database, options={"top": 2}, name="cat.jpg", correlation_id="c-1")
    (claim,) = claimed(database, owner="worker-7")

    assert (claim.job_id, claim.attempt, claim.state) == (job_id, 1, JobState.RUNNING)
    assert (claim.options, claim.name, claim.correlation_id) == ({"top": 2}, "cat.jpg", "c-1")
    row = job(database, job_id)
    assert (row.state, row.attempt, row.lease_owner) == (JobState.RUNNING, 1, "worker-7")
    assert row.started_at is not None
    assert row.lease_until is not None
    assert (row.lease_until - row.started_at).total_seconds() == pytest.approx(60, abs=0.01)
    assert types(database, job_id) == ["job.created", "job.started"]


def test_the_highest_priority_first_then_the_oldest(database: Database) -> None:
    made = [submitted(database, priority=priority) for priority in (5, 9, 0, 9, 5)]
    order = [claimed(database)[0].job_id for _ in made]
    assert order == [made[i] for i in (1, 3, 0, 4, 2)]


def test_a_micro_batch_has_at_most_the_limit_in_the_same_order(database: Database) -> None:
    made = [submitted(database, priority=i) for i in range(5)]
    assert [claim.job_id for claim in claimed(database, limit=3)] == [made[4], made[3], made[2]]
    assert [claim.job_id for claim in claimed(database, limit=3)] == [made[1], made[0]]
    assert claimed(database, limit=3) == []


def test_jobs_of_other_queues_are_left_alone(database: Database) -> None:
    explain = submitted(database, methods=("grad_cam",))
    fetch = submitted(database, url="https://example.com/cat.jpg")
    assert claimed(database, Queue.PREDICT) == []
    assert [claim.job_id for claim in claimed(database, Queue.EXPLAIN, limit=9)] == [explain]
    assert [claim.job_id for claim in claimed(database, Queue.IO, limit=9)] == [fetch]


@pytest.mark.parametrize("queue", [Queue.PREDICT, Queue.IO])
def test_a_job_is_left_until_its_time_has_come(database: Database, queue: Queue) -> None:
    url: dict[str, Any] = {"url": "https://example.com/cat.jpg"} if queue is Queue.IO else {}
    job_id = submitted(database, **url)
    set_columns(database, job_id, run_after=db_now(60))
    assert claimed(database, queue) == []
    set_columns(database, job_id, run_after=db_now())
    assert len(claimed(database, queue)) == 1


@pytest.mark.parametrize("queue", [Queue.PREDICT, Queue.IO])
def test_a_job_whose_deadline_has_passed_is_not_started(database: Database, queue: Queue) -> None:
    url: dict[str, Any] = {"url": "https://example.com/cat.jpg"} if queue is Queue.IO else {}
    late = submitted(database, deadline_seconds=60, **url)
    in_time = submitted(database, deadline_seconds=60, **url)
    set_columns(database, late, deadline_at=db_now(-1))
    assert [claim.job_id for claim in claimed(database, queue, limit=9)] == [in_time]


def test_a_retry_goes_first_and_alone(database: Database) -> None:
    retried = running(database, priority=0)
    with database.write() as session:
        assert claims.give_back(session, retried)
    fresh = [submitted(database, priority=9) for _ in range(2)]
    assert [claim.job_id for claim in claimed(database, limit=8)] == [retried.job_id]
    assert [claim.job_id for claim in claimed(database, limit=8)] == fresh


def test_a_second_claim_finds_nothing(database: Database) -> None:
    running(database)
    fetching(database)
    assert claimed(database) == claimed(database, Queue.IO) == []


def test_a_heartbeat_extends_the_lease_and_tells_of_cancellation(database: Database) -> None:
    first, second = running(database), running(database)
    for claim in (first, second):
        set_columns(database, claim.job_id, lease_until=db_now(5))
    with database.write() as session:
        results.cancel(session, second.job_id)
        states = claims.heartbeat(session, [first, second], lease_seconds=60)
    assert states == {first.job_id: JobState.RUNNING, second.job_id: JobState.CANCELING}
    for claim in (first, second):
        row = job(database, claim.job_id)
        assert row.lease_until is not None
        assert row.started_at is not None
        assert (row.lease_until - row.started_at).total_seconds() > 50


def test_a_heartbeat_without_claims_does_nothing(database: Database) -> None:
    with database.write() as session:
        assert claims.heartbeat(session, [], lease_seconds=60) == {}


def test_a_heartbeat_after_the_end_reports_the_loss(database: Database) -> None:
    claim = running(database)
    with database.write() as session:
        results.cancel(session, claim.job_id)
        results.acknowledge_cancel(session, claim)
        assert claims.heartbeat(session, [claim], lease_seconds=60) == {}
    assert job(database, claim.job_id).lease_until is None


def test_a_heartbeat_of_the_download_does_not_keep_the_lease_of_the_run(database: Database) -> None:
    # Both claims have attempt 1 of the same job: the count starts again once the URL is downloaded.
    download = fetching(database)
    with database.write() as session:
        results.fetched(session, download, PICTURE)
    (run,) = claimed(database)
    assert (run.job_id, run.attempt) == (download.job_id, download.attempt)
    end_lease(database, run.job_id)
    with database.write() as session:
        assert claims.heartbeat(session, [download], lease_seconds=60) == {}
        assert claims.heartbeat(session, [run], lease_seconds=60) == {run.job_id: JobState.RUNNING}


def test_giving_back_costs_no_attempt(database: Database) -> None:
    claim = running(database, max_attempts=2)
    with database.write() as session:
        assert claims.give_back(session, claim)
    row = job(database, claim.job_id)
    assert (row.state, row.attempt, row.max_attempts) == (JobState.QUEUED, 1, 3)
    assert (row.lease_owner, row.lease_until) == (None, None)
    assert types(database, claim.job_id)[-1] == "job.requeued"
    assert claimed(database)[0].attempt == 2


def test_giving_a_download_back_costs_no_attempt(database: Database) -> None:
    claim = fetching(database, max_attempts=2)
    with database.write() as session:
        assert claims.give_back(session, claim)
    row = job(database, claim.job_id)
    assert (row.state, row.attempt, row.max_attempts) == (JobState.FETCHING, 1, 3)
    assert claimed(database, Queue.IO)[0].attempt == 2


def test_giving_back_a_job_that_is_being_canceled_is_refused(database: Database) -> None:
    claim = running(database)
    with database.write() as session:
        results.cancel(session, claim.job_id)
        assert not claims.give_back(session, claim)
    assert job(database, claim.job_id).state is JobState.CANCELING
