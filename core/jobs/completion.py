"""When a batch ends, and what is told of it meanwhile.

A batch ends with the last of its jobs, and two transactions may be about to end the last two at the same
moment: neither sees the other's end. So each, when it has moved all of its jobs and is about to commit, locks
the batch and looks again. The second to lock waits for the first one's commit and then sees what it did.

It is done at the commit, because a transaction may end many jobs one after the other: jobs are always locked
before batches, hence no two transactions wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, event, func, or_, select, update
from sqlalchemy.orm import Session

from core.database import db_now
from core.jobs import events, webhooks
from core.jobs.states import BatchState, JobState
from core.jobs.tables import Batch, Job

PROGRESS_SECONDS = 1.0
"""Between two ``batch.progress`` events at least, so that a log of 10,000 jobs has no 10,000 events."""

Counts = dict[JobState, int]

_TO_LOOK_AT = "batches whose jobs have ended"


def look_at_commit(session: Session, batch_ids: Collection[str]) -> None:
    """Jobs of these batches have ended, or are about to, in this transaction."""
    if batch_ids:
        session.info.setdefault(_TO_LOOK_AT, set()).update(batch_ids)


def look_now(session: Session) -> None:
    """Do now, as the transaction's last act, what is else done at the commit: to know what came of it."""
    if batch_ids := session.info.pop(_TO_LOOK_AT, None):
        look(session, batch_ids)


event.listen(Session, "before_commit", look_now)


_is_due = or_(Batch.progress_at.is_(None), Batch.progress_at < db_now(-PROGRESS_SECONDS))
_RUNNING = (
    select(Batch.id, Batch.cancel_asked_at, _is_due.label("is_due"))
    .where(Batch.id.in_(bindparam("among", expanding=True)), Batch.state == BatchState.RUNNING)
    .order_by(Batch.id)
    # Not the lock of a deletion: what refers to the batch need not wait.
    .with_for_update(key_share=True)
)
# As ix_jobs_batch_unfinished has it, in its order.
_UNFINISHED = (
    select(Job.id)
    .where(Job.batch_id == bindparam("batch"), Job.finished_at.is_(None))
    .order_by(Job.batch_index)
    .limit(1)
)


def look(session: Session, batch_ids: Collection[str]) -> None:
    """End each of these batches that has no unfinished job; note how far the others are."""
    for batch in session.execute(_RUNNING, {"among": list(batch_ids)}).all():
        if session.scalar(_UNFINISHED, {"batch": batch.id}) is not None:
            if batch.is_due:
                _note(session, batch.id, "batch.progress", BatchState.RUNNING, progress_at=db_now())
        else:
            state = BatchState.COMPLETED if batch.cancel_asked_at is None else BatchState.CANCELED
            _end(session, batch.id, state)


def _end(session: Session, batch_id: str, state: BatchState) -> None:
    type_ = f"batch.{state}"
    ended, shown = _note(session, batch_id, type_, state, finished_at=db_now())
    notice = webhooks.Notice(
        subject_id=batch_id,
        sequence=ended.event_seq,
        type=type_,
        at=ended.finished_at,
        data=shown,
        owner=ended.owner,
        url=ended.webhook_url,
        events=ended.webhook_events,
    )
    webhooks.deliver(session, [notice])


def _note(
    session: Session, batch_id: str, type_: str, to: BatchState, **values: Any
) -> tuple[Any, dict[str, Any]]:
    """Change the batch, which is locked, and log it with the counts as they now are."""
    changed = session.execute(
        update(Batch)
        .where(Batch.id == batch_id)
        .values(state=to, event_seq=Batch.event_seq + 1, **values)
        .returning(Batch.event_seq, Batch.finished_at, Batch.owner, Batch.webhook_url, Batch.webhook_events)
        .execution_options(synchronize_session=False)
    ).one()
    shown = {"status": to, "counts": counts(session, [batch_id])[batch_id]}
    events.append(session, [events.NewEvent(batch_id, changed.event_seq, type_, shown)])
    return changed, shown


def counts(session: Session, batch_ids: Collection[str]) -> dict[str, Counts]:
    """How many jobs of each batch are in each state; every state is named."""
    rows = session.execute(
        select(Job.batch_id, Job.state, func.count())
        .where(Job.batch_id.in_(batch_ids))
        .group_by(Job.batch_id, Job.state)
    )
    found: dict[str, Counts] = defaultdict(lambda: dict.fromkeys(JobState, 0))
    for batch_id, state, count in rows:
        found[batch_id or ""][state] = count
    return {batch_id: found[batch_id] for batch_id in batch_ids}
