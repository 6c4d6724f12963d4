"""Reading jobs: one, many, and the state of the queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, literal, select
from sqlalchemy.orm import Session

from core.database import db_now
from core.errors import NotFound
from core.jobs import places
from core.jobs.blobs import Picture
from core.jobs.states import FINAL, BatchState, JobState, Queue
from core.jobs.tables import Artifact, Batch, Blob, Image, Job, Method


@dataclass(frozen=True)
class JobRecord:
    """A job with all that is shown of it."""

    job: Job
    image: Image | Picture | None
    methods: Sequence[Method]
    artifacts: Sequence[Artifact]
    position: int | None
    """Jobs of the same queue that would be claimed before it, plus one; None unless it waits there.

    Up to :data:`core.jobs.places.LAST_POSITION`, which stands for every place from there on.
    """


def get_job(session: Session, job_id: str, *, owner: str | None = None) -> JobRecord:
    """The job with its picture, methods and artifacts.

    Raises:
        NotFound: there is no such job, or it is another owner's.
    """
    return _records(session, [_find(session, job_id, owner)])[0]


def _find(session: Session, job_id: str, owner: str | None) -> Job:
    # The state is written by plain UPDATEs, of which rows that the session has read before know nothing.
    job = session.get(Job, job_id, populate_existing=True)
    if job is None or (owner is not None and job.owner != owner):
        raise NotFound(
            f"There is no job {job_id!r}. Ids look like job_0192f3...; a deleted job is gone for good."
        )
    return job


def list_jobs(
    session: Session,
    *,
    owner: str | None = None,
    states: Collection[JobState] = (),
    kind: str | None = None,
    batch_id: str | None = None,
    custom_id: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[JobRecord]:
    """Jobs newest first, from the one before the id ``before``. Ids sort by time of making."""
    query = select(Job).order_by(Job.id.desc()).limit(limit).execution_options(populate_existing=True)
    if owner is not None:
        query = query.where(Job.owner == owner)
    if states:
        query = query.where(Job.state.in_(states))
    if kind is not None:
        # A literal, so that the planner sees the condition of ix_jobs_explain.
        query = query.where(Job.queue == literal(Queue(kind), Job.queue.type, literal_execute=True))
    if batch_id is not None:
        query = query.where(Job.batch_id == batch_id)
    if custom_id is not None:
        query = query.where(Job.custom_id == custom_id)
    if before is not None:
        query = query.where(Job.id < before)
    return _records(session, list(session.scalars(query)))


def records_of_new(session: Session, jobs: Sequence[Job], pictures: Mapping[str, Picture]) -> list[JobRecord]:
    """Records of jobs that this very transaction has written, with their pictures, by SHA-256."""
    return _with_methods(session, jobs, pictures, places.of_new(session, jobs))


def _records(session: Session, jobs: Sequence[Job]) -> list[JobRecord]:
    pictures = {job.image_sha256 for job in jobs if job.image_sha256}
    images = (
        {i.sha256: i for i in session.scalars(select(Image).where(Image.sha256.in_(pictures)))}
        if pictures
        else {}
    )
    return _with_methods(session, jobs, images, places.of(session, jobs))


def _with_methods(
    session: Session,
    jobs: Sequence[Job],
    images: Mapping[str, Image | Picture],
    positions: Mapping[str, int],
) -> list[JobRecord]:
    ids = [job.id for job in jobs]
    explained = [job.id for job in jobs if job.queue is Queue.EXPLAIN]
    methods: dict[str, list[Method]] = {job_id: [] for job_id in ids}
    artifacts: dict[str, list[Artifact]] = {job_id: [] for job_id in ids}
    if explained:
        for method in session.scalars(
            select(Method).where(Method.job_id.in_(explained)).order_by(Method.job_id, Method.position)
        ):
            methods[method.job_id].append(method)
        for artifact in session.scalars(
            select(Artifact)
            .where(Artifact.job_id.in_(explained))
            .order_by(Artifact.job_id, Artifact.method, Artifact.name)
        ):
            artifacts[artifact.job_id].append(artifact)
    return [
        JobRecord(
            job=job,
            image=images.get(job.image_sha256 or ""),
            methods=methods[job.id],
            artifacts=artifacts[job.id],
            position=positions.get(job.id),
        )
        for job in jobs
    ]


def picture_of(session: Session, job_id: str, *, owner: str | None = None) -> tuple[Image, bytes]:
    """The picture as it was uploaded or downloaded.

    Raises:
        NotFound: there is no such job, or its URL is not downloaded, or what was sent is no picture.
    """
    job = _find(session, job_id, owner)
    image = session.get(Image, job.image_sha256) if job.image_sha256 else None
    if image is None:
        why = "was never there" if job.state.is_final else "is not downloaded yet"
        raise NotFound(f"The picture of job {job_id} {why}: the job is {job.state}.")
    return image, picture_bytes(session, [image.sha256])[image.sha256]


def artifact_of(
    session: Session, job_id: str, method: str, name: str, *, owner: str | None = None
) -> tuple[Artifact, bytes]:
    """A file that a method has made.

    Raises:
        NotFound: there is no such job, or it has no such artifact (yet).
    """
    job = _find(session, job_id, owner)
    artifact = session.get(Artifact, (job.id, method, name))
    if artifact is None:
        raise NotFound(f"Job {job_id} has no artifact {method}/{name}; the job is {job.state}.")
    return artifact, picture_bytes(session, [artifact.blob_sha256])[artifact.blob_sha256]


_BYTES = select(Blob.sha256, Blob.data).where(Blob.sha256.in_(bindparam("digests", expanding=True)))


def picture_bytes(session: Session, digests: Collection[str]) -> dict[str, bytes]:
    rows = session.connection().execute(_BYTES, {"digests": list(digests)})
    return {sha256: data for sha256, data in rows}  # noqa: C416 - a Row is not a pair to mypy


def event_seqs(session: Session, subject_ids: Collection[str]) -> dict[str, tuple[int, bool]]:
    """For each job or batch that exists, the number of its newest event and whether it has ended."""
    found: dict[str, tuple[int, bool]] = {}
    batches = [subject_id for subject_id in subject_ids if subject_id.startswith("batch_")]
    if len(batches) < len(subject_ids):
        jobs = session.execute(select(Job.id, Job.event_seq, Job.state).where(Job.id.in_(subject_ids)))
        found |= {job_id: (seq, state in FINAL) for job_id, seq, state in jobs}
    if batches:
        rows = session.execute(select(Batch.id, Batch.event_seq, Batch.state).where(Batch.id.in_(batches)))
        found |= {batch_id: (seq, state is not BatchState.RUNNING) for batch_id, seq, state in rows}
    return found


def newest_event(session: Session, job_id: str, *, owner: str | None = None) -> tuple[int, bool]:
    """The number of the job's newest event, and whether the job has ended.

    Raises:
        NotFound: there is no such job, or it is another owner's.
    """
    job = _find(session, job_id, owner)
    return job.event_seq, job.state.is_final


@dataclass(frozen=True)
class QueueDepth:
    """``finished_last_minute`` counts what workers have run to an end: not what was canceled, expired or
    refused, and nothing for ``io``, whose jobs go on to another queue."""

    waiting: int
    running: int
    oldest_seconds: float
    finished_last_minute: int


def queue_depths(session: Session) -> dict[Queue, QueueDepth]:
    """Depth and throughput of each queue. Ages are differences of the database's own times."""
    now = session.scalar(select(db_now()))
    assert now is not None
    active = session.execute(
        select(Job.state, Job.queue, func.count(), func.min(Job.created_at))
        .where(Job.state.in_((JobState.FETCHING, JobState.QUEUED, JobState.RUNNING, JobState.CANCELING)))
        .group_by(Job.state, Job.queue)
    ).all()
    fetched_now = session.scalar(
        select(func.count()).where(Job.state == JobState.FETCHING, Job.lease_until.is_not(None))
    )
    # States are told apart here: asked for them, SQLite would walk all jobs that ever ended so.
    finished = session.execute(
        select(Job.queue, Job.state, func.count())
        .where(Job.finished_at > db_now(-60), Job.started_at.is_not(None))
        .group_by(Job.queue, Job.state)
    )
    recent: Counter[Queue] = Counter()
    for ended_in, state, count in finished:
        if state in (JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED):
            recent[ended_in] += count
    depths = {}
    for queue in Queue:
        waiting = running = 0
        oldest: datetime | None = None
        for state, job_queue, count, created in active:
            # A job that is being fetched belongs to ``io`` until its picture is there.
            if (Queue.IO if state is JobState.FETCHING else job_queue) is not queue:
                continue
            if state in (JobState.FETCHING, JobState.QUEUED):
                waiting += count
                oldest = created if oldest is None else min(oldest, created)
            else:
                running += count
        if queue is Queue.IO and fetched_now:
            waiting, running = waiting - fetched_now, fetched_now
        age = (now - oldest).total_seconds() if oldest else 0.0
        depths[queue] = QueueDepth(waiting, running, max(age, 0.0), recent[queue])
    return depths
