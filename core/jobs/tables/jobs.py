"""Pictures, jobs, batches, and what comes of them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from core.jobs.states import FINAL, BatchState, JobState, MethodState, Queue
from core.jobs.tables.base import Json, Table, creation_time, partial_index


class Blob(Table):
    """Bytes, once each: uploaded pictures and artifacts."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = creation_time()


class Image(Table):
    """What is known of an uploaded picture; width and height are those that browsers show."""

    __tablename__ = "images"

    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), primary_key=True)
    width: Mapped[int]
    height: Mapped[int]
    media_type: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = creation_time()


class Batch(Table):
    """Many jobs that were posted together. How many are in which state is counted from the jobs."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at_iff_final"),
        CheckConstraint("state <> 'canceled' OR cancel_asked_at IS NOT NULL", name="canceled_was_asked"),
        Index("ix_batches_owner_id", "owner", "id"),
        Index("ix_batches_finished_at", "finished_at"),
    )

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    state: Mapped[BatchState] = mapped_column(insert_default=BatchState.RUNNING)
    owner: Mapped[str | None] = mapped_column(String(48))

    # What was asked, for all its jobs and for those of a retry
    methods: Mapped[list[str]] = mapped_column(insert_default=list)
    options: Mapped[Json] = mapped_column(insert_default=dict)
    priority: Mapped[int] = mapped_column(insert_default=5)
    deadline_seconds: Mapped[float | None]
    meta: Mapped[Json] = mapped_column("metadata", insert_default=dict)
    webhook_url: Mapped[str | None] = mapped_column(Text)
    webhook_events: Mapped[list[str] | None]
    retry_of: Mapped[str | None] = mapped_column(String(48))  # which may be deleted meanwhile

    rejected: Mapped[int] = mapped_column(insert_default=0)  # items that were never a job to be run
    event_seq: Mapped[int] = mapped_column(insert_default=0)
    progress_at: Mapped[datetime | None]  # when the newest batch.progress was written
    cancel_asked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = creation_time()
    finished_at: Mapped[datetime | None]


_FINAL_NAMES = ", ".join(f"'{state}'" for state in sorted(FINAL))


class Job(Table):
    """One picture to be predicted and, when methods are asked for, explained.

    ``attempt`` counts claims; with the state it is the fence that lets only the newest claim write.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            f"(state IN ({_FINAL_NAMES})) = (finished_at IS NOT NULL)", name="finished_at_iff_final"
        ),
        CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease_whole"),
        CheckConstraint(
            "state IN ('fetching', 'running', 'canceling') OR lease_until IS NULL", name="lease_in_use"
        ),
        # Without either: an item of a batch that was refused, and is there to be counted and named.
        CheckConstraint(
            "image_sha256 IS NOT NULL OR source_url IS NOT NULL OR state = 'failed'", name="has_source"
        ),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority_range"),
        # Claiming: the conditions are those of conditions.py, the columns give the order.
        partial_index(
            "ix_jobs_ready",
            ("queue", text("priority DESC"), "created_at", "id"),
            where="state = 'queued' AND attempt = 0",
        ),
        partial_index("ix_jobs_retries", ("queue", "run_after"), where="state = 'queued' AND attempt > 0"),
        # ``state`` is always the same in here. SQLite has it to see an equality: it prefers any index with
        # one, even if it must sort then, to one without.
        partial_index(
            "ix_jobs_fetching",
            ("state", text("priority DESC"), "created_at", "id"),
            where="state = 'fetching' AND lease_until IS NULL",
        ),
        # Rescue: few jobs hold a lease at any time.
        partial_index("ix_jobs_leases", ("state", "lease_until"), where="lease_until IS NOT NULL"),
        partial_index("ix_jobs_lease_owner", ("lease_owner", "state"), where="lease_owner IS NOT NULL"),
        partial_index(
            "ix_jobs_deadlines",
            ("state", "deadline_at"),
            where="deadline_at IS NOT NULL AND finished_at IS NULL",
        ),
        Index("ix_jobs_state_id", "state", "id"),
        Index("ix_jobs_owner_id", "owner", "id"),
        Index("ix_jobs_batch_id_state", "batch_id", "state"),
        Index(
            "ix_jobs_batch_id_index",
            "batch_id",
            "batch_index",
            unique=True,
            sqlite_where=text("batch_id IS NOT NULL"),
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        # Whether any is left. With an order: PostgreSQL would otherwise expect to meet one soon, anywhere.
        partial_index(
            "ix_jobs_batch_unfinished",
            ("batch_id", "batch_index"),
            where="batch_id IS NOT NULL AND finished_at IS NULL",
        ),
        partial_index(
            "ix_jobs_rejected",
            ("batch_id", "batch_index"),
            where="image_sha256 IS NULL AND source_url IS NULL",
        ),
        Index("ix_jobs_finished_at", "finished_at"),
        # Removing old ones. ``batch_id`` for SQLite's sake, as ``state`` above.
        partial_index(
            "ix_jobs_single_finished_at",
            ("batch_id", "finished_at"),
            where="batch_id IS NULL AND finished_at IS NOT NULL",
        ),
        # Among a million predictions, the few explanations.
        partial_index("ix_jobs_explain", ("queue", "id"), where="queue = 'explain'"),
    )

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    state: Mapped[JobState]
    queue: Mapped[Queue]
    priority: Mapped[int] = mapped_column(insert_default=5)
    owner: Mapped[str | None] = mapped_column(String(48))
    correlation_id: Mapped[str | None] = mapped_column(String(128))

    # What was asked
    name: Mapped[str | None] = mapped_column(String(255))
    custom_id: Mapped[str | None] = mapped_column(String(255), index=True)
    meta: Mapped[Json] = mapped_column("metadata", insert_default=dict)
    options: Mapped[Json] = mapped_column(insert_default=dict)
    source_url: Mapped[str | None] = mapped_column(Text)
    image_sha256: Mapped[str | None] = mapped_column(ForeignKey("images.sha256"), index=True)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    batch_index: Mapped[int | None]
    webhook_url: Mapped[str | None] = mapped_column(Text)
    webhook_events: Mapped[list[str] | None]

    # When
    created_at: Mapped[datetime] = creation_time()
    run_after: Mapped[datetime] = creation_time()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]

    # Who works on it
    attempt: Mapped[int] = mapped_column(insert_default=0)
    max_attempts: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None]

    # What came of it
    model: Mapped[Json | None]
    prediction: Mapped[Json | None]
    timings: Mapped[Json | None]
    error: Mapped[Json | None]
    event_seq: Mapped[int] = mapped_column(insert_default=0)


class Method(Table):
    """One explanation asked of a job, with its own state and progress."""

    __tablename__ = "methods"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    position: Mapped[int]
    state: Mapped[MethodState] = mapped_column(insert_default=MethodState.QUEUED)
    options: Mapped[Json] = mapped_column(insert_default=dict)
    done: Mapped[int] = mapped_column(insert_default=0)
    total: Mapped[int] = mapped_column(insert_default=0)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    cached: Mapped[bool] = mapped_column(insert_default=False)
    quality: Mapped[Json | None]
    provenance: Mapped[Json | None]
    error: Mapped[Json | None]
    # Equal keys mean equal results: digest of picture, weights, method and options.
    cache_key: Mapped[str | None] = mapped_column(String(64), index=True)


class Artifact(Table):
    """A file that a method has made."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    method: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(64))
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = creation_time()


class Event(Table):
    """The log of a job or batch; ``seq`` counts from 1 for each of them."""

    __tablename__ = "events"

    subject_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    data: Mapped[Json] = mapped_column(insert_default=dict)
    created_at: Mapped[datetime] = creation_time()
