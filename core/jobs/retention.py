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

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database import db_now
from core.errors import Conflict, NotFound
from core.jobs.tables import Artifact, Blob, Event, IdempotencyKey, Image, Job, Method, Table

KEY_SECONDS = 24 * 3600.0
"""So long at least an Idempotency-Key is remembered."""


def delete_job(session: Session, job_id: str, *, owner: str | None = None) -> None:
    """Remove a job that has ended, with its methods, artifacts and events.

    Raises:
        NotFound: there is no such job, or it is another owner's.
        Conflict: it has not ended yet.
    """
    found = session.execute(select(Job.state, Job.owner).where(Job.id == job_id).with_for_update()).first()
    if found is None or (owner is not None and found.owner != owner):
        raise NotFound(f"There is no job {job_id!r}. It may have been deleted already.")
    if not found.state.is_final:
        raise Conflict(
            f"The job is {found.state}. Cancel it first; only a job that has ended can be deleted."
        )
    _delete(session, [job_id])


def delete_finished(session: Session, *, older_than_seconds: float, limit: int) -> int:
    """Remove up to ``limit`` jobs that ended so long ago, the oldest first; return how many."""
    ids = session.scalars(
        select(Job.id)
        .where(Job.finished_at < db_now(-older_than_seconds))
        .order_by(Job.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if ids:
        _delete(session, ids)
    return len(ids)


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
    made = select(Artifact.blob_sha256).where(Artifact.job_id.in_(ids))
    given = select(Job.image_sha256).where(Job.id.in_(ids), Job.image_sha256.is_not(None))
    digests = session.scalars(made.union(given)).all()
    for table, column in _OF_A_JOB:
        session.execute(delete(table).where(column.in_(ids)).execution_options(synchronize_session=False))
    delete_unreferenced(session, digests)


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


def orphans(session: Session, *, after: str = "", limit: int = 200) -> tuple[list[str], str | None]:
    """Look through ``limit`` blobs in the order of their digests, from the one after ``after``.

    There are some although every removal takes its own along: partial maps that a later one has replaced, and
    what a removal passed over because it was locked.

    Returns the digests of those to which nothing refers now, and where to go on, or None at the end.
    """
    window = session.scalars(
        select(Blob.sha256).where(Blob.sha256 > after).order_by(Blob.sha256).limit(limit)
    ).all()
    if not window:
        return [], None
    found = session.scalars(
        select(Blob.sha256).where(Blob.sha256 > after, Blob.sha256 <= window[-1], _unreferenced(Blob.sha256))
    ).all()
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
