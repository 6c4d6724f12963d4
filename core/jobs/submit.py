"""A new job: its picture, its row, its methods and its first event, in the caller's transaction.

A request that names itself by an Idempotency-Key makes its job once, however often it is sent
(draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from core.database import db_now, insert_new
from core.errors import PawlensError
from core.jobs import events
from core.jobs.ids import new_id
from core.jobs.states import JobState, Queue
from core.jobs.tables import Blob, IdempotencyKey, Image, Job, Method


@dataclass(frozen=True)
class Picture:
    """An uploaded picture that was found to be decodable. Width and height after EXIF orientation."""

    data: bytes = field(repr=False)
    width: int
    height: int
    media_type: str


@dataclass(frozen=True)
class Submission:
    """What a client asks for. Exactly one of ``picture`` and ``url`` is given."""

    picture: Picture | None = None
    url: str | None = None
    name: str | None = None
    methods: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    priority: int = 5
    deadline_seconds: float | None = None
    custom_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None
    correlation_id: str | None = None
    webhook_url: str | None = None
    webhook_events: list[str] | None = None  # None: every end

    def __post_init__(self) -> None:
        if (self.picture is None) == (self.url is None):
            raise ValueError("a submission has either a picture or a URL")


@dataclass(frozen=True)
class Idempotency:
    """A client's name for one request, and the SHA-256 of what the request asks for."""

    key: str
    request_sha256: str


class IdempotencyKeyReused(PawlensError):
    status, code, title = 422, "idempotency_key_reused", "Idempotency key reused"


def submit_once(
    session: Session, submission: Submission, once: Idempotency, *, max_attempts: int
) -> tuple[str, bool]:
    """As :func:`submit`, unless an equal request of the same owner has used the key: then that one's job.

    Returns the job's id and whether it was there before. Of two at the same instant the second waits for the
    first to commit, here on the key, and on SQLite already for its turn to write.

    Raises:
        IdempotencyKeyReused: the key was used for another request.
    """
    job_id = new_id("job")
    row = {
        "owner": submission.owner or "",
        "key": once.key,
        "request_sha256": once.request_sha256,
        "subject_id": job_id,
    }
    while True:
        insert_new(session, IdempotencyKey.__table__, [row])  # type: ignore[arg-type]
        made = made_before(session, once, owner=submission.owner)
        if made is not None:  # None: another's was there and has been deleted since
            break
    if made != job_id:
        return made, True
    return submit(session, submission, max_attempts=max_attempts, job_id=job_id), False


def made_before(session: Session, once: Idempotency, *, owner: str | None) -> str | None:
    """What this very request has made already, or None when it is new.

    Raises:
        IdempotencyKeyReused: the key was used for another request.
    """
    used = session.execute(
        select(IdempotencyKey.subject_id, IdempotencyKey.request_sha256).where(
            IdempotencyKey.owner == (owner or ""), IdempotencyKey.key == once.key
        )
    ).first()
    if used is None:
        return None
    subject_id, request_sha256 = used
    if request_sha256 != once.request_sha256:
        raise IdempotencyKeyReused(
            f"This Idempotency-Key was used for another request, which made {subject_id}. "
            "Send a new key with a new request, and the same key only to repeat a request as it was.",
            subject_id=subject_id,
        )
    return str(subject_id)


def submit(session: Session, submission: Submission, *, max_attempts: int, job_id: str | None = None) -> str:
    """Write the job and return its id. It exists once the caller has committed."""
    queue = Queue.EXPLAIN if submission.methods else Queue.PREDICT
    image = None if submission.picture is None else store_picture(session, submission.picture)
    state = JobState.FETCHING if image is None else JobState.QUEUED
    job_id = job_id or new_id("job")
    deadline = submission.deadline_seconds
    session.execute(
        insert(Job).values(
            id=job_id,
            state=state,
            queue=queue,
            priority=submission.priority,
            owner=submission.owner,
            correlation_id=submission.correlation_id,
            name=submission.name,
            custom_id=submission.custom_id,
            meta=submission.metadata,
            options=submission.options,
            source_url=submission.url,
            image_sha256=image,
            webhook_url=submission.webhook_url,
            webhook_events=submission.webhook_events,
            deadline_at=None if deadline is None else db_now(deadline),
            max_attempts=max_attempts,
            event_seq=1,
        )
    )
    if submission.methods:
        session.execute(
            insert(Method),
            [{"job_id": job_id, "name": name, "position": i} for i, name in enumerate(submission.methods)],
        )
    events.append(session, [events.NewEvent(job_id, 1, "job.created", {"status": state})])
    return job_id


def store_picture(session: Session, picture: Picture) -> str:
    """Keep the picture unless the very same bytes are there already; return its SHA-256."""
    digest = store_blob(session, picture.data)
    row = {
        "sha256": digest,
        "width": picture.width,
        "height": picture.height,
        "media_type": picture.media_type,
    }
    insert_new(session, Image.__table__, [row])  # type: ignore[arg-type]
    return digest


def store_blob(session: Session, data: bytes) -> str:
    """Keep the bytes unless they are there already; return their SHA-256 in hexadecimal.

    Whether new or found, they stay until the caller's transaction has ended: a lock on the row keeps
    :mod:`core.jobs.retention` away, until what refers to them is committed.
    """
    digest = hashlib.sha256(data).hexdigest()
    row = {"sha256": digest, "size": len(data), "data": data}
    held = select(Blob.sha256).where(Blob.sha256 == digest).with_for_update(read=True, key_share=True)
    while True:
        insert_new(session, Blob.__table__, [row])  # type: ignore[arg-type]
        if session.scalar(held) is not None:  # None: it was there, and was removed before it could be locked
            return digest
