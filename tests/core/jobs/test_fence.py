"""A worker that was stopped for longer than its lease wakes up: whatever it does, nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Database
from core.jobs import claims, events, results
from core.jobs.blobs import Picture
from core.jobs.claims import Claim, LeaseLost
from core.jobs.rescue import rescue
from core.jobs.results import Result
from core.jobs.states import JobState, Queue
from core.jobs.tables import Blob
from tests.core.jobs.steps import RESULT, Lasting, Passing, claimed, end_lease, fetching, job, log, running

LATE_WRITES: dict[str, Callable[[Session, Claim], object]] = {
    "heartbeat": lambda session, claim: claims.heartbeat(session, [claim], lease_seconds=60),
    "give_back": claims.give_back,
    "predicted": lambda session, claim: results.predicted(session, claim, {}, {}),
    "succeed": lambda session, claim: results.succeed(session, claim, **RESULT),
    "succeed_all": lambda session, claim: results.succeed_all(session, [(claim, Result(**RESULT))]),
    "fail": lambda session, claim: results.fail(session, claim, Lasting("no"), retry_seconds=0),
    "fail for now": lambda session, claim: results.fail(session, claim, Passing("no"), retry_seconds=0),
    "acknowledge_cancel": results.acknowledge_cancel,
    "note": lambda session, claim: events.note(session, claim.job_id, claim.attempt, "job.progress", {}),
}


def lose(database: Database, claim: Claim) -> Claim:
    """Let another worker have the job; its claim is the answer."""
    end_lease(database, claim.job_id)
    with database.write() as session:
        assert rescue(session, retry_seconds=0)
    (newer,) = claimed(database, Queue.IO if claim.state is JobState.FETCHING else Queue.PREDICT)
    assert (newer.job_id, newer.attempt) == (claim.job_id, claim.attempt + 1)
    return newer


@pytest.mark.parametrize("write", LATE_WRITES)
def test_the_old_claim_writes_nothing(database: Database, write: str) -> None:
    old = running(database)
    newer = lose(database, old)
    if write == "acknowledge_cancel":
        with database.write() as session:
            results.cancel(session, old.job_id)
    before = vars(job(database, old.job_id)) | {"_sa_instance_state": None}
    events_before = len(log(database, old.job_id))

    with database.write() as session:
        assert not LATE_WRITES[write](session, old)

    assert vars(job(database, old.job_id)) | {"_sa_instance_state": None} == before
    assert len(log(database, old.job_id)) == events_before
    with database.write() as session:  # and the same works for the claim that has the job
        assert LATE_WRITES[write](session, newer)


@pytest.mark.parametrize("write", ["heartbeat", "give_back", "fail", "fail for now"])
def test_the_old_download_writes_nothing(database: Database, write: str) -> None:
    old = fetching(database)
    newer = lose(database, old)
    before = vars(job(database, old.job_id)) | {"_sa_instance_state": None}

    with database.write() as session:
        assert not LATE_WRITES[write](session, old)

    assert vars(job(database, old.job_id)) | {"_sa_instance_state": None} == before
    with database.write() as session:
        assert LATE_WRITES[write](session, newer)


def test_the_picture_of_an_old_download_is_rolled_back(database: Database) -> None:
    old = fetching(database)
    newer = lose(database, old)
    late, in_time = (Picture(data, 1, 1, "image/png") for data in (b"late", b"in time"))
    with pytest.raises(LeaseLost), database.write() as session:
        results.fetched(session, old, late)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Blob)) == 0
    with database.write() as session:
        results.fetched(session, newer, in_time)
    assert job(database, old.job_id).state is JobState.QUEUED
