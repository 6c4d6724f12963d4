"""Short names for what nearly every test of the protocol does, each in a transaction of its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from core.database import Database, db_now
from core.errors import PawlensError
from core.jobs import claims, events, results
from core.jobs.blobs import Picture
from core.jobs.claims import Claim
from core.jobs.states import JobState, Queue
from core.jobs.submit import Submission, submit
from core.jobs.tables import Event, Job

PICTURE = Picture(b"the bytes of a picture", width=640, height=480, media_type="image/png")
RESULT: dict[str, Any] = {
    "prediction": {"label": "cat", "scores": {"cat": 0.9, "dog": 0.1}},
    "model": {"name": "resnet101"},
    "timings": {"forward": 20.5},
}


class Passing(PawlensError):
    """Worth another attempt."""

    code, retryable = "passing", True


class Lasting(PawlensError):
    """Not worth another attempt."""

    code, retryable = "lasting", False


def submitted(database: Database, *, max_attempts: int = 3, **wishes: Any) -> str:
    """A job with a picture, unless ``url`` is among the wishes."""
    if "url" not in wishes:
        wishes.setdefault("picture", PICTURE)
    with database.write() as session:
        return submit(session, Submission(**wishes), max_attempts=max_attempts)


def claimed(
    database: Database, queue: Queue = Queue.PREDICT, *, owner: str = "worker", limit: int = 1
) -> list[Claim]:
    with database.write() as session:
        if queue is Queue.IO:
            return claims.claim_fetches(session, owner=owner, limit=limit, lease_seconds=60)
        return claims.claim(session, queue, owner=owner, limit=limit, lease_seconds=60)


def running(database: Database, **wishes: Any) -> Claim:
    """A new job that was claimed."""
    job_id = submitted(database, **wishes)
    found = claimed(database, Queue.EXPLAIN if wishes.get("methods") else Queue.PREDICT)
    assert [claim.job_id for claim in found] == [job_id]
    return found[0]


def fetching(database: Database, **wishes: Any) -> Claim:
    """A new job whose download was claimed."""
    job_id = submitted(database, url="https://example.com/cat.jpg", **wishes)
    found = claimed(database, Queue.IO)
    assert [claim.job_id for claim in found] == [job_id]
    return found[0]


def ended(database: Database, state: JobState) -> Claim:
    """A job that came to this final state after it was claimed."""
    claim = running(database)
    with database.write() as session:
        match state:
            case JobState.SUCCEEDED | JobState.PARTIAL:
                assert results.succeed(session, claim, **RESULT, partial=state is JobState.PARTIAL)
            case JobState.FAILED:
                assert results.fail(session, claim, Lasting("no"), retry_seconds=0)
            case JobState.CANCELED:
                assert results.cancel(session, claim.job_id) is JobState.CANCELING
                assert results.acknowledge_cancel(session, claim)
            case JobState.EXPIRED:
                change(session, claim.job_id, deadline_at=db_now(-1))
                from core.jobs.rescue import expire

                assert expire(session, limit=9) == 1
            case _:
                raise AssertionError(state)
    assert job(database, claim.job_id).state is state
    return claim


def change(session: Any, job_id: str, **values: Any) -> None:
    """Write columns behind the protocol's back."""
    session.execute(
        update(Job).where(Job.id == job_id).values(**values).execution_options(synchronize_session=False)
    )


def set_columns(database: Database, job_id: str, **values: Any) -> None:
    with database.write() as session:
        change(session, job_id, **values)


def end_lease(database: Database, job_id: str) -> None:
    set_columns(database, job_id, lease_until=db_now(-1))


def job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        found = session.get(Job, job_id)
        assert found is not None
        return found


def log(database: Database, job_id: str) -> list[Event]:
    """The job's events; they are numbered from 1 without gaps, whatever happened."""
    with database.read() as session:
        found = events.after(session, job_id, 0)
        current = session.get(Job, job_id)
    assert current is not None
    assert [event.seq for event in found] == list(range(1, current.event_seq + 1))
    return found


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in log(database, job_id)]
