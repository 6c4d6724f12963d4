"""Taking work under a lease, keeping the lease, and giving it back.

A claim is fenced by the job's id, state and ``attempt``: every later write of the worker names all three.
A worker that was stopped for so long that its job went to another finds no row to write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import CTE, ColumnElement, Float, Select, bindparam, func, select, tuple_, update
from sqlalchemy.orm import Session

from core.database import db_now
from core.jobs.conditions import BY_PRIORITY_THEN_AGE, FRESH, RETRIED, UNFETCHED, due
from core.jobs.statements import begins_with_none
from core.jobs.states import JobState, Queue
from core.jobs.tables import Job
from core.jobs.transitions import Move, Moved, put_back


class LeaseLost(Exception):
    """The job is no longer this claim's: another attempt has it, or it has ended. Write nothing."""


@dataclass(frozen=True)
class Claim:
    """A job that this worker may work on until its lease ends."""

    job_id: str
    attempt: int
    state: JobState  # fetching or running: what the fence compares
    max_attempts: int
    created_at: datetime
    started_at: datetime | None
    image_sha256: str | None
    source_url: str | None
    name: str | None
    correlation_id: str | None
    priority: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def queued_ms(self) -> float:
        """How long it had waited when it was first begun."""
        started = self.started_at or self.created_at
        return round((started - self.created_at).total_seconds() * 1000, 1)

    @property
    def fence(self) -> tuple[ColumnElement[bool], ...]:
        """The condition under which this claim may still write, beside the state."""
        return fence_of(self.job_id, self.attempt)


def fence_of(
    job_id: str | ColumnElement[str], attempt: int | ColumnElement[int]
) -> tuple[ColumnElement[bool], ...]:
    """That of one claim, or, given columns, of many.

    With the lease, since a download that was put back has neither left its state nor begun a new attempt.
    """
    return Job.id == job_id, Job.attempt == attempt, Job.lease_until.is_not(None)


_FIELDS = (
    Job.id,
    Job.attempt,
    Job.state,
    Job.max_attempts,
    Job.created_at,
    Job.started_at,
    Job.image_sha256,
    Job.source_url,
    Job.name,
    Job.correlation_id,
    Job.priority,
    Job.options,
)


def claim(session: Session, queue: Queue, *, owner: str, limit: int, lease_seconds: float) -> list[Claim]:
    """Take up to ``limit`` ready jobs of a model queue, the highest priority first, then the oldest.

    A job that was tried before is taken alone: should it be what killed its worker, the others of its
    micro-batch must not share its attempts.
    """
    given = {"of": queue, "at_most": limit, "holder": owner, "seconds": lease_seconds}
    for claiming in _moves():
        moved = claiming.run(session, _attempt_number, **given)
        if moved:
            return _claims(job.read for job in moved)
    return []


@cache
def _moves() -> tuple[Move, Move]:
    """The claim of a retry, and that of fresh jobs."""
    retry = select(Job.id).where(*RETRIED).order_by(Job.run_after).limit(1)
    fresh = select(Job.id).where(*FRESH).order_by(*BY_PRIORITY_THEN_AGE).limit(bindparam("at_most"))
    return _claiming(retry), _claiming(fresh)


def _claiming(ready: Select[str]) -> Move:
    picked = _locked(ready.where(Job.queue == bindparam("of"), *due()))
    return Move(
        JobState.RUNNING,
        source=JobState.QUEUED,
        among=select(picked.c.id),
        event="job.started",
        read=_FIELDS,
        attempt=Job.attempt + 1,
        started_at=func.coalesce(Job.started_at, db_now()),
        lease_owner=bindparam("holder"),
        lease_until=db_now(bindparam("seconds", type_=Float)),
    )


def claim_fetches(
    session: Session,
    *,
    owner: str,
    limit: int,
    lease_seconds: float,
    except_origins: Collection[str] = (),
) -> list[Claim]:
    """Take up to ``limit`` jobs whose URL is to be downloaded and begins with none of ``except_origins``.

    They stay in the state ``fetching``.
    """
    picked = _locked(_unfetched(except_origins).limit(limit))
    rows = session.execute(
        update(Job)
        .where(Job.id.in_(select(picked.c.id)), Job.lease_until.is_(None))  # the state: see transitions.py
        .values(attempt=Job.attempt + 1, lease_owner=owner, lease_until=db_now(lease_seconds))
        .returning(*_FIELDS)
        .execution_options(synchronize_session=False)
    ).all()
    return _claims(rows)


def can_fetch(session: Session, *, except_origins: Collection[str]) -> bool:
    """Whether :func:`claim_fetches` would find any."""
    return session.scalar(_unfetched(except_origins).limit(1)) is not None


def _unfetched(except_origins: Collection[str]) -> Select[str]:
    elsewhere = begins_with_none(Job.source_url, except_origins)
    return select(Job.id).where(*UNFETCHED, *due(), *elsewhere).order_by(*BY_PRIORITY_THEN_AGE)


def heartbeat(session: Session, claims: Iterable[Claim], *, lease_seconds: float) -> dict[str, JobState]:
    """Extend the leases; return the state of each job that is still held.

    A claim that is missing from the answer is lost: stop working on it. One that is ``canceling`` is to
    be ended at the next chunk.
    """
    # With the state, since a job's attempts count from 0 again once its URL is downloaded: the worker that
    # downloaded it must not keep the lease of the one that runs it.
    keys = [(claim.job_id, claim.attempt, state) for claim in claims for state in _HELD_IN[claim.state]]
    if not keys:
        return {}
    rows = session.execute(
        update(Job)
        .where(tuple_(Job.id, Job.attempt, Job.state).in_(keys), Job.lease_until.is_not(None))
        .values(lease_until=db_now(lease_seconds))
        .returning(Job.id, Job.state)
        .execution_options(synchronize_session=False)
    )
    return {job_id: state for job_id, state in rows}  # noqa: C416 - a Row is not a pair to mypy


def give_back(session: Session, claim: Claim) -> bool:
    """Put a job back that this worker will not finish although nothing is wrong with it (it is stopping).

    The attempt stays counted, since it is the fence, and one more is allowed instead.
    """
    return bool(
        put_back(
            session,
            sources=[claim.state],
            where=claim.fence,
            reason="worker_stopping",
            run_after=db_now(),
            max_attempts=Job.max_attempts + 1,
        )
    )


_HELD_IN = {
    JobState.FETCHING: (JobState.FETCHING,),
    JobState.RUNNING: (JobState.RUNNING, JobState.CANCELING),
}


def _locked(ready: Any) -> CTE:
    # SKIP LOCKED lets workers on PostgreSQL pick side by side; on SQLite the transaction is alone anyway.
    # Materialized, because PostgreSQL may otherwise evaluate the LIMIT more than once.
    cte: CTE = ready.with_for_update(skip_locked=True).cte("picked")
    return cte.prefix_with("MATERIALIZED", dialect="postgresql")


def _attempt_number(job: Moved) -> dict[str, Any]:
    return {"attempt": job.attempt}


def _claims(rows: Iterable[Sequence[Any]]) -> list[Claim]:
    """Rows of :data:`_FIELDS`, in the order of the queue: RETURNING has none."""
    claims = [Claim(*row) for row in rows]
    return sorted(claims, key=lambda claim: (-claim.priority, claim.created_at, claim.job_id))
