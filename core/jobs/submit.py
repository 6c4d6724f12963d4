"""A new job: its picture, its row, its methods and its first event, in the caller's transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from core.database import db_now, insert_new
from core.jobs import events
from core.jobs.ids import new_id
from core.jobs.states import JobState, Queue
from core.jobs.tables import Blob, Image, Job, Method


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

    def __post_init__(self) -> None:
        if (self.picture is None) == (self.url is None):
            raise ValueError("a submission has either a picture or a URL")


def submit(session: Session, submission: Submission, *, max_attempts: int) -> str:
    """Write the job and return its id. It exists once the caller has committed."""
    queue = Queue.EXPLAIN if submission.methods else Queue.PREDICT
    image = None if submission.picture is None else store_picture(session, submission.picture)
    state = JobState.FETCHING if image is None else JobState.QUEUED
    job_id = new_id("job")
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
    """Keep the bytes unless they are there already; return their SHA-256 in hexadecimal."""
    digest = hashlib.sha256(data).hexdigest()
    insert_new(session, Blob.__table__, [{"sha256": digest, "size": len(data), "data": data}])  # type: ignore[arg-type]
    return digest
