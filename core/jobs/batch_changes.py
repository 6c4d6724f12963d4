"""Changing a batch: canceling what is left of it, repeating what failed."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.database import db_now
from core.errors import Conflict
from core.jobs import completion
from core.jobs.batch_queries import find
from core.jobs.batches import Item, Wishes
from core.jobs.states import BatchState, JobState
from core.jobs.tables import Batch, Job
from core.jobs.transitions import move


def cancel(session: Session, batch_id: str, *, owner: str | None = None) -> None:
    """A client wants the batch no more: what waits is canceled at once, what runs is ``canceling``.

    The batch is canceled with the last of its jobs. Asking again meanwhile changes nothing.

    Raises:
        NotFound: there is no such batch, or it is another owner's.
        Conflict: it has ended already.
    """
    find(session, batch_id, owner=owner)
    theirs = Job.batch_id == batch_id
    # Locked, all and in order, so that none is claimed or put back between the statements below.
    session.execute(
        select(Job.id).where(theirs, Job.finished_at.is_(None)).order_by(Job.id).with_for_update()
    ).all()
    batch = find(session, batch_id, lock=True)  # after the jobs: see core.jobs.completion
    if batch.state is not BatchState.RUNNING:
        raise Conflict(
            f"The batch has ended already: it is {batch.state}. Only one that is running can be canceled."
        )
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.cancel_asked_at.is_(None))
        .values(cancel_asked_at=db_now())
        .execution_options(synchronize_session=False)
    )
    for source, to in (
        (JobState.FETCHING, JobState.CANCELED),
        (JobState.QUEUED, JobState.CANCELED),
        (JobState.RUNNING, JobState.CANCELING),
    ):
        move(session, to, source=source, where=[theirs], event=f"job.{to}")
    completion.look_at_commit(session, [batch_id])


# What can be run again: an item that was refused has neither, and would be refused again.
_HAS_SOURCE: ColumnElement[bool] = Job.image_sha256.is_not(None) | Job.source_url.is_not(None)


def to_retry(session: Session, batch_id: str, *, owner: str | None = None) -> tuple[Wishes, list[Item]]:
    """The items that failed or expired and may be run again, and what was asked of them.

    The batch stays until the caller's transaction has ended, and with its jobs their pictures do.

    Raises:
        NotFound: there is no such batch, or it is another owner's.
        Conflict: it has not ended, or nothing of it can be run again.
    """
    batch = find(session, batch_id, owner=owner, lock=True)
    if batch.state is BatchState.RUNNING:
        raise Conflict("The batch is running. What fails can be retried when it has ended.")
    rows = session.execute(
        select(Job.batch_index, Job.name, Job.custom_id, Job.image_sha256, Job.source_url)
        .where(Job.batch_id == batch_id, Job.state.in_((JobState.FAILED, JobState.EXPIRED)), _HAS_SOURCE)
        .order_by(Job.batch_index)
    ).all()
    if not rows:
        raise Conflict("Nothing of the batch failed or expired that could be run again.")
    items = [
        Item(index or 0, name, custom, image, None if image else url)
        for index, name, custom, image, url in rows
    ]
    wishes = Wishes(
        methods=batch.methods,
        options=batch.options,
        priority=batch.priority,
        deadline_seconds=batch.deadline_seconds,
        metadata=batch.meta,
        webhook_url=batch.webhook_url,
        webhook_events=batch.webhook_events,
    )
    return wishes, items
