"""The only code that writes a job's state.

One guarded UPDATE moves the jobs that are still in a state from which the move is allowed and that meet
the caller's condition; it numbers the event in the same statement. Jobs that no longer qualify (another
worker has them, a client canceled them) are simply not among those returned, and the caller must write
nothing for them: that is the fence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, String, delete, type_coerce, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database import db_now
from core.jobs import completion, events, webhooks
from core.jobs.statements import pages
from core.jobs.states import LEASED, MOVES, JobState, MethodState, Queue
from core.jobs.tables import Artifact, Job, Method

PARTIAL = "partial.png"
"""Name of the artifact that shows a method's map while it is refined; gone when the method has ended."""


class Moved(NamedTuple):
    """A job that was moved, as it now is; ``read`` has the columns that were asked for."""

    id: str
    attempt: int
    event_seq: int
    batch_id: str | None
    queue: Queue
    read: tuple[Any, ...] = ()


_MOVED = (Job.id, Job.attempt, Job.event_seq, Job.batch_id, Job.queue)


Details = dict[str, Any] | Callable[[Moved], dict[str, Any]]
"""What an event says beside the new status: the same of every job, or of each its own."""


class Move:
    """Moves every job in ``source`` that meets ``where`` to the state ``to``.

    Final states get ``finished_at``; leaving a leased state for one without a lease drops the lease, unless
    ``values`` say otherwise. ``event`` is logged for each with the new status; a final one is also written
    for the webhooks that want it, and the job's batch is looked after at the commit.

    However many are moved, it takes the same few statements. ``among`` finds the ids of those that come into
    question. ``where`` and ``values`` may name columns of :func:`core.database.given_rows`, to give each job
    values of its own. ``read`` names columns whose new values are wanted of each job that was moved.

    What is done for each micro-batch is made once, with ``bindparam`` for what varies: SQLAlchemy takes four
    times as long to build and look up such a statement as to run one that it knows.
    """

    def __init__(
        self,
        to: JobState,
        *,
        source: JobState,
        where: Sequence[ColumnElement[bool]] = (),
        among: Select[str] | None = None,
        event: str,
        read: Sequence[InstrumentedAttribute[Any]] = (),
        **values: Any,
    ) -> None:
        if to not in MOVES.get(source, frozenset()):
            raise ValueError(f"a job never moves from {source} to {to}")
        self._to, self._source, self._event, self._read = to, source, event, len(read)
        changes: dict[str, Any] = {"state": to, "event_seq": Job.event_seq + 1}
        if to.is_final:
            changes["finished_at"] = db_now()
        if to not in LEASED:
            changes |= {"lease_owner": None, "lease_until": None}
        if among is None:
            is_source = Job.state == source
        else:
            # By their ids, hence never by an index of the state: PostgreSQL would take that when it believes
            # that next to no job is in it, as it does of ``queued`` from when the queue was empty until it
            # next looks at its statistics. Each claim then walked the whole queue (40 ms in one of 2,000).
            is_source = type_coerce(Job.state, String).concat("") == str(source)
            where = [Job.id.in_(among), *where]
        self._statement = (
            update(Job)
            .where(is_source, *where)
            .values(**changes | values)
            .returning(*_MOVED, *(webhooks.OF_ENDED if to.is_final else ()), *read)
            .execution_options(synchronize_session=False)
        )

    def run(self, session: Session, data: Details | None = None, **parameters: Any) -> list[Moved]:
        """Move them; return those that were moved. ``data`` is what their events say beside the status."""
        # By Core: the ORM would make another statement of it each time, and look that up for longer than it
        # takes to run.
        rows = session.connection().execute(self._statement, parameters).all()
        moved = [Moved._make([*row[: len(_MOVED)], tuple(row[len(row) - self._read :])]) for row in rows]
        details = data if callable(data) else lambda _job: data or {}
        events.append(
            session,
            (
                events.NewEvent(job.id, job.event_seq, self._event, {"status": self._to, **details(job)})
                for job in moved
            ),
        )
        if self._to.is_final:
            webhooks.notify_of_ended(session, self._event, rows)
            completion.look_at_commit(session, {job.batch_id for job in moved if job.batch_id is not None})
        explained = [job.id for job in moved if job.queue is Queue.EXPLAIN]
        if self._to.is_final and explained:
            _end_methods(session, explained, self._to)
        elif self._source is JobState.RUNNING and self._to is JobState.QUEUED and explained:
            _rewind_methods(session, explained)
        return moved


def move(
    session: Session,
    to: JobState,
    *,
    source: JobState,
    where: Sequence[ColumnElement[bool]],
    event: str,
    data: Details | None = None,
    **values: Any,
) -> list[Moved]:
    """A :class:`Move` that is made for this once."""
    return Move(to, source=source, where=where, event=event, **values).run(session, data)


def put_back(
    session: Session,
    *,
    where: Sequence[ColumnElement[bool]],
    reason: str,
    run_after: ColumnElement[datetime],
    sources: Collection[JobState] = (JobState.RUNNING, JobState.FETCHING),
    **values: Any,
) -> list[Moved]:
    """Let running jobs, and begun downloads, be claimed again from ``run_after`` on; return which."""
    moved: list[Moved] = []
    for source in sources:
        moved += move(
            session,
            JobState.FETCHING if source is JobState.FETCHING else JobState.QUEUED,
            source=source,
            where=[Job.lease_until.is_not(None), *where],
            event="job.requeued",
            data={"reason": reason},
            run_after=run_after,
            lease_owner=None,
            lease_until=None,
            **values,
        )
    return moved


def _rewind_methods(session: Session, job_ids: list[str]) -> None:
    """A method that was running when its job was put back waits again; what had ended stays."""
    for some in pages(job_ids):
        session.execute(
            update(Method)
            .where(Method.job_id.in_(some), Method.state == MethodState.RUNNING)
            .values(state=MethodState.QUEUED, started_at=None, done=0, total=0)
            .execution_options(synchronize_session=False)
        )


def _end_methods(session: Session, job_ids: list[str], to: JobState) -> None:
    """Methods that had not ended when their job did: what ran was canceled, what waited was skipped."""
    unstarted = MethodState.CANCELED if to is JobState.CANCELED else MethodState.SKIPPED
    for some in pages(job_ids):
        for state, end in ((MethodState.RUNNING, MethodState.CANCELED), (MethodState.QUEUED, unstarted)):
            session.execute(
                update(Method)
                .where(Method.job_id.in_(some), Method.state == state)
                .values(state=end, finished_at=db_now())
                .execution_options(synchronize_session=False)
            )
        session.execute(
            delete(Artifact)
            .where(Artifact.job_id.in_(some), Artifact.name == PARTIAL)
            .execution_options(synchronize_session=False)
        )
