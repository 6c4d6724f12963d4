"""Reading batches: one, many, their refused items and their results."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, select, type_coerce
from sqlalchemy.orm import Session

from core.errors import NotFound
from core.jobs.completion import Counts, counts
from core.jobs.states import BatchState, JobState
from core.jobs.tables import Artifact, Batch, Job, Method

MAX_ERRORS = 100
"""Refused items that are shown with a batch; its results name all of them."""

PANEL = "panel.png"

_INDEX = type_coerce(Job.batch_index, Integer)  # every job of a batch has one


@dataclass(frozen=True)
class Rejected:
    """An item that was refused when the batch was made."""

    index: int
    name: str | None
    custom_id: str | None
    error: dict[str, Any]


@dataclass(frozen=True)
class BatchRecord:
    """A batch with what is counted from its jobs."""

    batch: Batch
    counts: Counts
    rejected: Sequence[Rejected]


@dataclass(frozen=True)
class Result:
    """What is known of one item now."""

    index: int
    name: str | None
    custom_id: str | None
    job_id: str
    status: JobState
    prediction: dict[str, Any] | None
    error: dict[str, Any] | None


def find(session: Session, batch_id: str, *, owner: str | None = None, lock: bool = False) -> Batch:
    """Raises NotFound when there is no such batch, or it is another owner's."""
    batch = session.get(Batch, batch_id, populate_existing=True, with_for_update=lock)
    if batch is None or (owner is not None and batch.owner != owner):
        raise NotFound(
            f"There is no batch {batch_id!r}. Ids look like batch_0192f3...; a deleted one is gone for good."
        )
    return batch


def get_batch(session: Session, batch_id: str, *, owner: str | None = None) -> BatchRecord:
    """Raises NotFound when there is no such batch, or it is another owner's."""
    return _records(session, [find(session, batch_id, owner=owner)])[0]


def list_batches(
    session: Session,
    *,
    owner: str | None = None,
    states: Collection[BatchState] = (),
    before: str | None = None,
    limit: int = 20,
) -> list[BatchRecord]:
    """Batches newest first, from the one before the id ``before``. Ids sort by time of making."""
    query = select(Batch).order_by(Batch.id.desc()).limit(limit).execution_options(populate_existing=True)
    if owner is not None:
        query = query.where(Batch.owner == owner)
    if states:
        query = query.where(Batch.state.in_(states))
    if before is not None:
        query = query.where(Batch.id < before)
    return _records(session, list(session.scalars(query)))


def _records(session: Session, batches: Sequence[Batch]) -> list[BatchRecord]:
    counted = counts(session, [batch.id for batch in batches])
    return [
        BatchRecord(batch, counted[batch.id], _rejected(session, batch.id) if batch.rejected else [])
        for batch in batches
    ]


def _rejected(session: Session, batch_id: str) -> list[Rejected]:
    rows = session.execute(
        select(_INDEX, Job.name, Job.custom_id, Job.error)
        .where(Job.batch_id == batch_id, Job.image_sha256.is_(None), Job.source_url.is_(None))
        .order_by(Job.batch_index)
        .limit(MAX_ERRORS)
    )
    return [Rejected(index, name, custom_id, error or {}) for index, name, custom_id, error in rows]


def newest_event(session: Session, batch_id: str, *, owner: str | None = None) -> tuple[int, bool]:
    """The number of the batch's newest event, and whether the batch has ended.

    Raises:
        NotFound: there is no such batch, or it is another owner's.
    """
    batch = find(session, batch_id, owner=owner)
    return batch.event_seq, batch.state is not BatchState.RUNNING


def results(session: Session, batch_id: str, *, after: int = -1, limit: int = 500) -> list[Result]:
    """A page of the items in the order of their indexes, from the one after the index ``after``."""
    rows = session.execute(
        select(_INDEX, Job.name, Job.custom_id, Job.id, Job.state, Job.prediction, Job.error)
        .where(Job.batch_id == batch_id, Job.batch_index > after)
        .order_by(Job.batch_index)
        .limit(limit)
    )
    return [Result(*row) for row in rows]


def panels(session: Session, job_ids: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Job, method and digest of the picture of each explanation that has ended, job by job."""
    rows = session.execute(
        select(Artifact.job_id, Artifact.method, Artifact.blob_sha256)
        .join(Method, (Method.job_id == Artifact.job_id) & (Method.name == Artifact.method))
        .where(Artifact.job_id.in_(job_ids), Artifact.name == PANEL)
        .order_by(Artifact.job_id, Method.position)
    ).all()
    return ((job_id, method, digest) for job_id, method, digest in rows)
