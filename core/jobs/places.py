"""Which place a waiting job has in its queue, counted from 1.

Retries go first; when they become due is not looked at. It is counted up to :data:`LAST_POSITION`: what a new
job costs must not grow with the queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from core.jobs.conditions import BY_PRIORITY_THEN_AGE, FRESH, RETRIED
from core.jobs.statements import parameter
from core.jobs.states import JobState, Queue
from core.jobs.tables import Job

LAST_POSITION = 1000
"""The largest position that is told apart from those behind it."""

_FEW = 3


def of(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """Of each of these jobs that waits, by its id."""
    waiting = [job for job in jobs if job.state is JobState.QUEUED]
    if len(waiting) <= _FEW:
        return {job.id: _counted(session, job) for job in waiting}
    # Reading the head of the queue once costs less than counting for each of many.
    places: dict[str, int] = {}
    for queue in {job.queue for job in waiting}:
        head = [
            job_id
            for kind, order in ((RETRIED, (Job.run_after,)), (FRESH, BY_PRIORITY_THEN_AGE))
            for job_id in session.scalars(
                select(Job.id).where(*kind, Job.queue == queue).order_by(*order).limit(LAST_POSITION)
            )
        ]
        places |= {job_id: place for place, job_id in enumerate(head[:LAST_POSITION], start=1)}
    return {job.id: places.get(job.id, LAST_POSITION) for job in waiting}


def of_new(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """As :func:`of`, of jobs that this very transaction has written.

    Those of one queue and priority stand one behind the other in it: one count gives all their places.
    """
    lines: dict[tuple[Queue, int], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.id):
        if job.state is JobState.QUEUED:
            lines.setdefault((job.queue, job.priority), []).append(job)
    return {
        job.id: min(place, LAST_POSITION)
        for line in lines.values()
        for place, job in enumerate(line, start=_counted(session, line[0]))
    }


def _counted(session: Session, job: Job) -> int:
    place = {
        "queue": job.queue,
        "priority": job.priority,
        "created_at": job.created_at,
        "run_after": job.run_after,
        "id": job.id,
        "last": LAST_POSITION,
    }
    ahead = session.connection().scalar(_AHEAD_OF_RETRIED if job.attempt else _AHEAD_OF_NEW, place)
    return min((ahead or 0) + 1, LAST_POSITION)


def _counting(*ahead: tuple[ColumnElement[bool], ...]) -> Select[int]:
    """Made once: to put these together takes longer than the database takes to count."""
    counts = [
        select(func.count())
        .select_from(
            select(Job.id)
            .where(Job.queue == parameter(Job.queue), *where)
            .limit(bindparam("last"))
            .subquery()
        )
        .scalar_subquery()
        for where in ahead
    ]
    return select(sum(counts[1:], counts[0]))


_AHEAD_OF_RETRIED = _counting((*RETRIED, Job.run_after < parameter(Job.run_after)))
_AHEAD_OF_NEW = _counting(  # three counts, each a range of one index
    RETRIED,
    (*FRESH, Job.priority > parameter(Job.priority)),
    (
        *FRESH,
        Job.priority == parameter(Job.priority),
        tuple_(Job.created_at, Job.id) < tuple_(parameter(Job.created_at), parameter(Job.id)),
    ),
)
