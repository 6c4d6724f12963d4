"""New jobs: their pictures, rows, methods and first events, in the caller's transaction.

A request that names itself by an Idempotency-Key makes its job once, however often it is sent
(draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Executable, Float, case, insert, literal, select, tuple_
from sqlalchemy.orm import Session

from core.database import db_now, given_rows, insert_new
from core.errors import PawlensError
from core.jobs import events
from core.jobs.blobs import Picture, store_pictures
from core.jobs.ids import new_id
from core.jobs.states import JobState, Queue
from core.jobs.tables import IdempotencyKey, Job, Method


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

    @property
    def state(self) -> JobState:
        """That of the new job."""
        return JobState.FETCHING if self.picture is None else JobState.QUEUED


@dataclass(frozen=True)
class Idempotency:
    """A client's name for one request, and the SHA-256 of what the request asks for."""

    key: str
    request_sha256: str


class IdempotencyKeyReused(PawlensError):
    status, code, title = 422, "idempotency_key_reused", "Idempotency key reused"


@dataclass(frozen=True)
class Naming:
    """A new thing's id, and the request that is about to make it."""

    subject_id: str
    once: Idempotency
    owner: str | None

    @property
    def key(self) -> tuple[str, str]:
        return self.owner or "", self.once.key


def name_requests(session: Session, namings: Sequence[Naming]) -> list[str | IdempotencyKeyReused]:
    """For each: what the request has made, which is the new thing's id unless an equal one came before.

    A key that was used for another request gets the refusal instead. Of two at the same instant the second
    waits for the first to commit, here on the key, and on SQLite already for its turn to write.
    """
    used: dict[tuple[str, str], tuple[str, str]] = {}
    while missing := {naming.key: naming for naming in reversed(namings) if naming.key not in used}:
        rows = [
            {
                "owner": owner,
                "key": key,
                "request_sha256": naming.once.request_sha256,
                "subject_id": naming.subject_id,
            }
            for (owner, key), naming in sorted(missing.items())  # in order: none waits for the other
        ]
        insert_new(session, IdempotencyKey.__table__, rows)  # type: ignore[arg-type]
        used |= _used(session, missing)  # without those that were there and have been deleted since
    return [_made(used[naming.key], naming.once) for naming in namings]


def name_request(session: Session, naming: Naming) -> str:
    """As :func:`name_requests` of one, but the refusal is raised.

    Raises:
        IdempotencyKeyReused: the key was used for another request.
    """
    (made,) = name_requests(session, [naming])
    if isinstance(made, IdempotencyKeyReused):
        raise made
    return made


def made_before(session: Session, once: Idempotency, *, owner: str | None) -> str | None:
    """What this very request has made already, or None when it is new.

    Raises:
        IdempotencyKeyReused: the key was used for another request.
    """
    key = owner or "", once.key
    used = _used(session, [key])
    if key not in used:
        return None
    made = _made(used[key], once)
    if isinstance(made, IdempotencyKeyReused):
        raise made
    return made


def _used(session: Session, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Of each key that is in use: what it made, and the SHA-256 of the request."""
    columns = IdempotencyKey.owner, IdempotencyKey.key
    found = session.execute(
        select(*columns, IdempotencyKey.subject_id, IdempotencyKey.request_sha256).where(
            tuple_(*columns).in_(list(keys))
        )
    )
    return {(owner, key): (subject_id, sha256) for owner, key, subject_id, sha256 in found}


def _made(used: tuple[str, str], once: Idempotency) -> str | IdempotencyKeyReused:
    subject_id, request_sha256 = used
    if request_sha256 == once.request_sha256:
        return subject_id
    return IdempotencyKeyReused(
        f"This Idempotency-Key was used for another request, which made {subject_id}. "
        "Send a new key with a new request, and the same key only to repeat a request as it was.",
        subject_id=subject_id,
    )


def submit(session: Session, submission: Submission, *, max_attempts: int, job_id: str | None = None) -> str:
    """Write the job and return its id. It exists once the caller has committed."""
    job_id = job_id or new_id("job")
    submit_all(session, {job_id: submission}, max_attempts=max_attempts)
    return job_id


def submit_all(session: Session, new: dict[str, Submission], *, max_attempts: int) -> dict[str, Job]:
    """Write the jobs, by their new ids, and return them as written. However many, it takes few statements."""
    if not new:
        return {}
    store_pictures(session, (wish.picture for wish in new.values() if wish.picture))
    jobs = _insert(session, new, max_attempts)
    methods = [
        {"job_id": job_id, "name": name, "position": position}
        for job_id, wish in new.items()
        for position, name in enumerate(wish.methods)
    ]
    if methods:
        session.connection().execute(insert(Method.__table__), methods)  # type: ignore[arg-type]
    created = (events.NewEvent(job_id, 1, "job.created", {"status": new[job_id].state}) for job_id in new)
    events.append(session, created)
    return jobs


def _insert(session: Session, new: dict[str, Submission], max_attempts: int) -> dict[str, Job]:
    rows = {job_id: _row(job_id, wish, max_attempts) for job_id, wish in new.items()}
    given = [row | {"deadline_seconds": new[job_id].deadline_seconds} for job_id, row in rows.items()]
    times = session.connection().execute(_inserting(), {"jobs": given}).all()
    # Made here, as they are there: to read them back would cost the ORM as much as all the rest.
    return {
        job_id: Job(
            **rows[job_id],
            created_at=created_at,
            run_after=run_after,
            deadline_at=deadline_at,
            attempt=0,
            event_seq=1,
        )
        for job_id, created_at, run_after, deadline_at in times
    }


@cache
def _inserting() -> Executable:
    given = given_rows("jobs", **{column.key: column.type for column in _GIVEN}, deadline_seconds=Float())
    # A deadline is a time of the database's clock.
    deadline = case((given.c.deadline_seconds.is_not(None), db_now(given.c.deadline_seconds)))
    rest: dict[Any, Any] = {Job.created_at: db_now(), Job.run_after: db_now(), Job.deadline_at: deadline}
    rest |= {Job.attempt: literal(0), Job.event_seq: literal(1)}
    values = select(*(given.c[column.key] for column in _GIVEN), *rest.values())
    return (
        insert(Job.__table__)  # type: ignore[arg-type]
        .from_select([*_GIVEN, *rest], values)
        .returning(Job.id, Job.created_at, Job.run_after, Job.deadline_at)
    )


def _row(job_id: str, wish: Submission, max_attempts: int) -> dict[str, Any]:
    return {
        "id": job_id,
        "state": wish.state,
        "queue": Queue.EXPLAIN if wish.methods else Queue.PREDICT,
        "priority": wish.priority,
        "owner": wish.owner,
        "correlation_id": wish.correlation_id,
        "name": wish.name,
        "custom_id": wish.custom_id,
        "meta": wish.metadata,
        "options": wish.options,
        "source_url": wish.url,
        "image_sha256": None if wish.picture is None else wish.picture.sha256,
        "webhook_url": wish.webhook_url,
        "webhook_events": wish.webhook_events,
        "max_attempts": max_attempts,
    }


_GIVEN = (
    *(Job.id, Job.state, Job.queue, Job.priority, Job.owner, Job.correlation_id, Job.name, Job.custom_id),
    *(Job.meta, Job.options, Job.source_url, Job.image_sha256, Job.webhook_url, Job.webhook_events),
    Job.max_attempts,
)
"""The columns of :func:`_row`."""
