"""What happens to jobs whose worker or deadline is gone, and how much work is ready.

All of it is a few guarded statements that may run anywhere, at any time and more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, bindparam, case, cast, func, literal, select
from sqlalchemy.orm import Session

from core.database import db_now
from core.errors import PawlensError, WorkerLost
from core.jobs import deliveries, workers
from core.jobs.conditions import BY_PRIORITY_THEN_AGE, FRESH, RETRIED, UNFETCHED, due
from core.jobs.results import MAX_DOUBLINGS
from core.jobs.states import JobState, Queue
from core.jobs.tables import Job
from core.jobs.transitions import Moved, move, put_back


@dataclass(frozen=True)
class Rescued:
    requeued: int = 0
    failed: int = 0
    canceled: int = 0

    def __bool__(self) -> bool:
        return bool(self.requeued or self.failed or self.canceled)


def rescue(session: Session, *, retry_seconds: float, owner: str | None = None) -> Rescued:
    """Take back jobs whose lease is over, or, with ``owner``, those of a worker that is known to be dead.

    They run again after a pause that doubles with each attempt; with no attempt left they fail as
    ``worker_lost``. A job that was being canceled is canceled.
    """
    lost: ColumnElement[bool] = Job.lease_owner == owner if owner is not None else Job.lease_until < db_now()
    tries_left = Job.attempt < Job.max_attempts
    doublings = case((Job.attempt > MAX_DOUBLINGS, MAX_DOUBLINGS), else_=Job.attempt - 1)
    pause = cast(literal(retry_seconds) * literal(1).op("<<")(doublings), Float)
    requeued = put_back(session, where=[lost, tries_left], reason="worker_lost", run_after=db_now(pause))
    failed: list[Moved] = []
    for source in (JobState.RUNNING, JobState.FETCHING):
        failed += _end_with(
            session,
            JobState.FAILED,
            source,
            [lost, Job.attempt >= Job.max_attempts],
            WorkerLost(
                "Its worker died or went silent on every attempt, so the picture may be what kills it."
            ),
        )
    canceled = move(session, JobState.CANCELED, source=JobState.CANCELING, where=[lost], event="job.canceled")
    return Rescued(len(requeued), len(failed), len(canceled))


def release_worker(session: Session, worker_id: str) -> int:
    """Put back what a worker that stops on purpose still holds; return how many jobs.

    Nothing is wrong with these jobs, so they may run at once and have one attempt more. (The attempt that
    was begun stays counted, because it is the fence.) A lease owner begins with the worker's id.
    """
    held = Job.lease_owner.startswith(f"{worker_id}/", autoescape=True)
    requeued = put_back(
        session,
        where=[held],
        reason="worker_stopping",
        run_after=db_now(),
        max_attempts=Job.max_attempts + 1,
    )
    canceled = move(session, JobState.CANCELED, source=JobState.CANCELING, where=[held], event="job.canceled")
    workers.sign_off(session, worker_id)
    return len(requeued) + len(canceled)


class DeadlinePassed(PawlensError):
    code, title = "deadline_passed", "Deadline passed"


def expire(session: Session, *, limit: int) -> int:
    """End up to ``limit`` unfinished jobs whose deadline has passed; return how many.

    A worker that has one of them finds its fence down.
    """
    passed = [Job.deadline_at <= db_now(), Job.finished_at.is_(None)]  # as ix_jobs_deadlines has it
    error = DeadlinePassed("The job's deadline_seconds ran out before it was finished.")
    ended = 0
    for source in (JobState.FETCHING, JobState.QUEUED, JobState.RUNNING):
        some = select(Job.id).where(Job.state == source, *passed).order_by(Job.deadline_at)
        where = [Job.id.in_(some.limit(limit - ended)), *passed]
        ended += len(_end_with(session, JobState.EXPIRED, source, where, error))
    return ended


def _end_with(
    session: Session, to: JobState, source: JobState, where: list[ColumnElement[bool]], error: PawlensError
) -> list[Moved]:
    shown: dict[str, Any] = error.as_job_error()
    return move(
        session, to, source=source, where=where, event=f"job.{to}", data={"error": shown}, error=shown
    )


def _counting(*ready: ColumnElement[bool], order: Sequence[Any]) -> Select[int]:
    # In the order of its index, which SQLite would otherwise not take before that of the state alone.
    some = select(literal(1)).select_from(Job).where(*ready, *due()).order_by(*order)
    return select(func.count()).select_from(some.limit(bindparam("left")).subquery())


# Fresh jobs and retries apart, because each has an index of its own.
_OF_QUEUE = Job.queue == bindparam("of")
_FRESH = _counting(*FRESH, _OF_QUEUE, order=BY_PRIORITY_THEN_AGE)
_RETRIED = _counting(*RETRIED, _OF_QUEUE, order=[Job.run_after])
_UNFETCHED = _counting(*UNFETCHED, order=BY_PRIORITY_THEN_AGE)


def ready(session: Session, queue: Queue, *, at_most: int) -> int:
    """How much a worker of this queue could take now, counted up to ``at_most``.

    That is jobs, and for ``io`` also webhook deliveries.
    """
    count = 0
    for counting in (_UNFETCHED,) if queue is Queue.IO else (_FRESH, _RETRIED):
        count += session.connection().scalar(counting, {"of": queue, "left": at_most - count}) or 0
    if queue is Queue.IO:
        count += deliveries.ready(session, at_most=min(at_most - count, MOST_DELIVERIES))
    return count


MOST_DELIVERIES = 16
"""Counted as ready: a sender goes on until none is left, so these call for a few hints, not for one each."""
