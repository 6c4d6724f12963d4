"""How a job ends, and what a worker records on the way.

Every function is fenced by the claim and says whether it wrote. The first guarded commit wins: when a
cancel, the deadline or another attempt came first, nothing of the later one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import JSON, select, update
from sqlalchemy.orm import Session

from core.database import db_now, given_rows
from core.errors import Conflict, NotFound, PawlensError
from core.jobs import events
from core.jobs.blobs import Picture, store_picture
from core.jobs.claims import Claim, LeaseLost, fence_of
from core.jobs.states import JobState, Queue
from core.jobs.tables import Job
from core.jobs.transitions import Move, move, put_back

MAX_DOUBLINGS = 10
"""Of the pause before another attempt."""


def fetched(session: Session, claim: Claim, picture: Picture) -> Queue:
    """The URL is downloaded: the job waits in the returned queue for a model worker, with all its attempts.

    Raises :class:`LeaseLost` so that the picture is rolled back as well.
    """
    image = store_picture(session, picture)
    moved = move(
        session,
        JobState.QUEUED,
        source=JobState.FETCHING,
        where=claim.fence,
        event="job.fetched",
        data={"bytes": len(picture.data)},
        image_sha256=image,
        attempt=0,  # a fence still: the state never becomes ``fetching`` again
        run_after=db_now(),
    )
    if not moved:
        raise LeaseLost(claim.job_id)
    return moved[0].queue


def predicted(session: Session, claim: Claim, prediction: dict[str, Any], model: dict[str, Any]) -> bool:
    """Show the prediction while explanations are still to come."""
    if not events.note(session, claim.job_id, claim.attempt, "job.predicted", {"prediction": prediction}):
        return False
    session.execute(
        update(Job)
        .where(*claim.fence)
        .values(prediction=prediction, model=model)
        .execution_options(synchronize_session=False)
    )
    return True


def succeed(
    session: Session,
    claim: Claim,
    *,
    prediction: dict[str, Any],
    model: dict[str, Any],
    timings: dict[str, Any],
    partial: bool = False,
) -> bool:
    """End the job with its result; ``partial`` when an explanation failed."""
    to = JobState.PARTIAL if partial else JobState.SUCCEEDED
    return bool(
        move(
            session,
            to,
            source=JobState.RUNNING,
            where=claim.fence,
            event=f"job.{to}",
            data={"prediction": prediction},
            prediction=prediction,
            model=model,
            timings=timings,
        )
    )


@dataclass(frozen=True)
class Result:
    """What a model worker has found of one picture, as JSON."""

    prediction: dict[str, Any]
    model: dict[str, Any]
    timings: dict[str, Any]


def succeed_all(session: Session, found: Sequence[tuple[Claim, Result]]) -> set[str]:
    """End the jobs of a micro-batch with their results, in the same few statements however many there are.

    Each is fenced by its own claim. Returns the ids of those that were written: the others were canceled,
    have expired or are another attempt's, and nothing is kept of their results.
    """
    if not found:
        return set()
    rows = [{"id": claim.job_id, "attempt": claim.attempt, **vars(result)} for claim, result in found]
    predictions = {claim.job_id: result.prediction for claim, result in found}
    moved = _succeeding().run(session, lambda job: {"prediction": predictions[job.id]}, results=rows)
    return {job.id for job in moved}


@cache
def _succeeding() -> Move:
    given = given_rows(
        "results",
        id=Job.id.type,
        attempt=Job.attempt.type,
        prediction=JSON(),
        model=JSON(),
        timings=JSON(),
    )
    return Move(
        JobState.SUCCEEDED,
        source=JobState.RUNNING,
        among=select(given.c.id),
        where=fence_of(given.c.id, given.c.attempt),
        event=f"job.{JobState.SUCCEEDED}",
        prediction=given.c.prediction,
        model=given.c.model,
        timings=given.c.timings,
    )


def fail(session: Session, claim: Claim, error: PawlensError, *, retry_seconds: float) -> bool:
    """End the job with an error, or let it be tried again when the error may pass and attempts are left."""
    if error.retryable and claim.attempt < claim.max_attempts:
        return bool(
            put_back(
                session,
                sources=[claim.state],
                where=claim.fence,
                reason=error.code,
                run_after=db_now(backoff(retry_seconds, claim.attempt)),
            )
        )
    return bool(
        move(
            session,
            JobState.FAILED,
            source=claim.state,
            where=claim.fence,
            event="job.failed",
            data={"error": error.as_job_error()},
            error=error.as_job_error(),
        )
    )


def backoff(retry_seconds: float, attempt: int) -> float:
    """Seconds to wait after attempt 1, 2, 3, ...: they double, ten times at most."""
    return float(retry_seconds * 2 ** min(attempt - 1, MAX_DOUBLINGS))


def acknowledge_cancel(session: Session, claim: Claim) -> bool:
    """The worker has stopped: the job that was ``canceling`` is now ``canceled``."""
    return bool(
        move(
            session,
            JobState.CANCELED,
            source=JobState.CANCELING,
            where=claim.fence,
            event="job.canceled",
        )
    )


def cancel(session: Session, job_id: str, *, owner: str | None = None) -> JobState:
    """A client wants the job no more: it is canceled at once, or ``canceling`` while a worker holds it.

    Asking again while it is ``canceling`` changes nothing.

    Raises:
        NotFound: there is no such job, or it is another owner's.
        Conflict: the job has ended already.
    """
    # Locked, so that it cannot be claimed or put back between the look and the move.
    theirs = select(Job.state).where(Job.id == job_id, *([] if owner is None else [Job.owner == owner]))
    state = session.scalar(theirs.with_for_update())
    if state is None:
        raise NotFound(f"There is no job {job_id}.")
    if state.is_final:
        raise Conflict(
            f"The job has ended already: it is {state}. Only a job that has not ended can be canceled."
        )
    if state is JobState.CANCELING:
        return state
    to = JobState.CANCELING if state is JobState.RUNNING else JobState.CANCELED
    move(session, to, source=state, where=[Job.id == job_id], event=f"job.{to}")
    return to
