"""Removing jobs that nobody wants any more, and the bytes to which nothing refers any longer.

Bytes are shared: the same picture posted twice is one blob, and a reused explanation is the blobs of the job
that made it. So a blob goes only when nothing refers to it, and that must not change between the look and the
removal. On SQLite it cannot, because one transaction writes at a time. On PostgreSQL it is kept by locks:

- Whoever is about to refer to a blob holds a lock on its row until the commit
  (:func:`core.jobs.blobs.store_blob`), or on the method whose blobs it takes over
  (:func:`core.jobs.explanations.reuse`).
- Here blobs are locked before the look, passing over those that somebody holds: they are in use, and should
  their user change its mind, :func:`orphans` finds them later. The look is a statement of its own, hence sees
  whatever was committed before the lock was had.

Nothing here waits for a lock on a blob, so no two transactions can wait for each other over one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database import db_now
from core.errors import Conflict, NotFound
from core.jobs.batch_queries import find
from core.jobs.states import BatchState
from core.jobs.tables import Artifact, Batch, Blob, Event, IdempotencyKey, Image, Job, Method, Table

KEY_SECONDS = 24 * 3600.0
"""So long at least an Idempotency-Key is remembered."""

ORPHAN_SECONDS = 3600.0
"""Bytes to which nothing refers are kept for so long, in case that something is about to."""


def delete_job(session: Session, job_id: str, *, owner: str | None = None) -> None:
    """Remove a job that has ended, with its methods, artifacts and events.

    Raises:
        NotFound: there is no such job, or it is another owner's.
        Conflict: it has not ended yet, or the batch that it belongs to has not.
    """
    query = select(Job.state, Job.owner, Job.batch_id).where(Job.id == job_id)
    found = session.execute(query.with_for_update()).first()
    if found is None or (owner is not None and found.owner != owner):
        raise NotFound(f"There is no job {job_id!r}. It may have been deleted already.")
    if not found.state.is_final:
        raise Conflict(
            f"The job is {found.state}. Cancel it first; only a job that has ended can be deleted."
        )
    if found.batch_id is not None and session.get_one(Batch, found.batch_id).state is BatchState.RUNNING:
        raise Conflict(
            f"The job belongs to the batch {found.batch_id}, which is running, and is counted there."
        )
    _delete(session, [job_id])


def delete_batch(session: Session, batch_id: str, *, owner: str | None = None, limit: int) -> bool:
    """Remove up to ``limit`` jobs of a batch that has ended, with all that is theirs; when none was left, the
    batch itself, and return True.

    To be called until then, each time in a transaction of its own: all at once, nobody could write to SQLite
    for as long as it takes to remove ten thousand explanations. A batch whose removal was broken off has
    fewer jobs, and can be deleted again.

    Raises:
        NotFound: there is no such batch, or it is another owner's.
        Conflict: it has not ended yet.
    """
    if find(session, batch_id, owner=owner, lock=True).state is BatchState.RUNNING:
        raise Conflict("The batch is running. Cancel it first; only one that has ended can be deleted.")
    return not _delete_some_of(session, batch_id, limit)


def delete_finished(session: Session, *, older_than_seconds: float, limit: int) -> int:
    """Remove up to ``limit`` jobs that ended so long ago, the oldest first; return how many.

    Those of batches go when the batch ended so long ago, one batch after the other, and it with the last of
    them. With 0 nothing is left to be removed.
    """
    long_ago = db_now(-older_than_seconds)
    ids = session.scalars(
        select(Job.id)
        .where(Job.finished_at < long_ago, Job.batch_id.is_(None))  # ix_jobs_single_finished_at
        .order_by(Job.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if ids:
        _delete(session, ids)
        return len(ids)
    old = select(Batch.id).where(Batch.finished_at < long_ago).order_by(Batch.finished_at).limit(1)
    batch_id = session.scalar(old.with_for_update(skip_locked=True))
    return 0 if batch_id is None else _delete_some_of(session, batch_id, limit) or 1


# The methods first: it waits for those who take over their artifacts, and after it nobody can.
_OF_A_JOB: tuple[tuple[type[Table], InstrumentedAttribute[str]], ...] = (
    (Method, Method.job_id),
    (Artifact, Artifact.job_id),
    (Event, Event.subject_id),
    (IdempotencyKey, IdempotencyKey.subject_id),  # the same key makes a new job from now on
    (Job, Job.id),
)


def _delete(session: Session, ids: Collection[str]) -> None:
    """Remove these jobs, which are locked and have ended, and what nobody else needs of them."""
    delete_unreferenced(session, _delete_rows(session, ids))


def _delete_some_of(session: Session, batch_id: str, limit: int) -> int:
    """Remove some jobs of the batch, which is locked and has ended; return how many. Without any, it goes."""
    ids = session.scalars(select(Job.id).where(Job.batch_id == batch_id).limit(limit)).all()
    if ids:
        _delete(session, ids)
        return len(ids)
    for table, column in (
        (Event, Event.subject_id),
        (IdempotencyKey, IdempotencyKey.subject_id),
        (Batch, Batch.id),
    ):
        session.execute(delete(table).where(column == batch_id).execution_options(synchronize_session=False))
    return 0


def _delete_rows(session: Session, ids: Collection[str]) -> list[str]:
    """Remove all rows of these jobs; return the digests of the bytes that they have used."""
    made = select(Artifact.blob_sha256).where(Artifact.job_id.in_(ids))
    given = select(Job.image_sha256).where(Job.id.in_(ids), Job.image_sha256.is_not(None))
    digests = [digest for digest in session.scalars(made.union(given)) if digest is not None]
    for table, column in _OF_A_JOB:
        session.execute(delete(table).where(column.in_(ids)).execution_options(synchronize_session=False))
    return digests


def delete_unreferenced(session: Session, digests: Collection[str]) -> int:
    """Remove those of these blobs, and what is known of them as pictures, to which nothing refers."""
    held = session.scalars(
        select(Blob.sha256).where(Blob.sha256.in_(digests)).with_for_update(skip_locked=True)
    ).all()
    # Looked at once for both tables: between two looks another removal may commit.
    unused = session.scalars(
        select(Blob.sha256).where(Blob.sha256.in_(held), _unreferenced(Blob.sha256))
    ).all()
    for table, digest in ((Image, Image.sha256), (Blob, Blob.sha256)):
        session.execute(delete(table).where(digest.in_(unused)).execution_options(synchronize_session=False))
    return len(unused)


def orphans(
    session: Session, *, after: str = "", limit: int = 200, older_than_seconds: float = ORPHAN_SECONDS
) -> tuple[list[str], str | None]:
    """Look through ``limit`` blobs in the order of their digests, from the one after ``after``.

    There are some although removals take their own along: partial maps that a later one has replaced, what a
    removal passed over because it was locked, and what old batches leave. What is younger than
    ``older_than_seconds`` may be a picture of a batch that is still being accepted, and is left alone.

    Returns the digests of those to which nothing refers now, and where to go on, or None at the end.
    """
    window = session.scalars(
        select(Blob.sha256).where(Blob.sha256 > after).order_by(Blob.sha256).limit(limit)
    ).all()
    if not window:
        return [], None
    # Nearly all are in use, which the indexes know. The age lies behind the bytes: SQLite reads them for it.
    unused = session.scalars(
        select(Blob.sha256).where(Blob.sha256.in_(window), _unreferenced(Blob.sha256))
    ).all()
    found: Sequence[str] = []
    if unused:
        old = Blob.created_at < db_now(-older_than_seconds)
        found = session.scalars(select(Blob.sha256).where(Blob.sha256.in_(unused), old)).all()
    return list(found), window[-1] if len(window) == limit else None


def _unreferenced(digest: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return and_(
        ~exists().where(Job.image_sha256 == digest),
        ~exists().where(Artifact.blob_sha256 == digest),
    )


def forget_keys(session: Session) -> None:
    """Remove the idempotency keys that are older than :data:`KEY_SECONDS`."""
    session.execute(
        delete(IdempotencyKey)
        .where(IdempotencyKey.created_at < db_now(-KEY_SECONDS))
        .execution_options(synchronize_session=False)
    )
