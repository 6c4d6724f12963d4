"""A new batch: many jobs that are made together, or not at all.

An item that cannot be accepted is a job too, one that has failed from the start. So the jobs of a batch are
its items, each under its index, and whatever is said of a batch is counted from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Executable, case, insert, literal, select, type_coerce
from sqlalchemy.orm import Session

from core.database import db_now, given_rows
from core.jobs import blobs, completion, events, webhooks
from core.jobs.ids import new_id
from core.jobs.statements import pages, parameter
from core.jobs.states import BatchState, JobState, MethodState, Queue
from core.jobs.submit import Idempotency, Naming, name_request
from core.jobs.tables import Batch, Event, Job, Method


@dataclass(frozen=True)
class Item:
    """One picture of a new batch: stored already, or to be downloaded, or refused (then ``error``)."""

    index: int
    name: str | None = None
    custom_id: str | None = None
    image_sha256: str | None = None
    url: str | None = None
    error: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if [self.image_sha256, self.url].count(None) != (2 if self.error else 1):
            raise ValueError("an item has a picture, a URL or an error")

    @property
    def state(self) -> JobState:
        if self.error is not None:
            return JobState.FAILED
        return JobState.QUEUED if self.url is None else JobState.FETCHING


@dataclass(frozen=True)
class Wishes:
    """What is asked of every item, and who is told of the end."""

    methods: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 5
    deadline_seconds: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: Sequence[str] | None = None

    @property
    def queue(self) -> Queue:
        return Queue.EXPLAIN if self.methods else Queue.PREDICT


class PicturesGone(Exception):
    """Stored pictures were removed before the batch could refer to them. Store them again."""

    def __init__(self, digests: set[str]) -> None:
        super().__init__(f"{len(digests)} pictures are gone")
        self.digests = digests


def create_once(
    session: Session, batch_id: str, once: Idempotency | None, owner: str | None, **wanted: Any
) -> str:
    """As :func:`create`, unless an equal request has used the key: the answer is the id of what there is.

    Raises:
        IdempotencyKeyReused: the key was used for another request.
    """
    if once is not None:
        made = name_request(session, Naming(batch_id, once, owner))
        if made != batch_id:
            return made
    create(session, batch_id, owner=owner, **wanted)
    return batch_id


def create(
    session: Session,
    batch_id: str,
    *,
    items: Sequence[Item],
    wishes: Wishes,
    max_attempts: int,
    owner: str | None = None,
    correlation_id: str | None = None,
    retry_of: str | None = None,
) -> None:
    """Write the batch with all its jobs. It exists once the caller has committed.

    Raises:
        ValueError: every item is refused: such a batch would never end.
        PicturesGone: some of the items' pictures are not stored any more. Nothing may be committed.
    """
    if all(item.error for item in items):
        raise ValueError("a batch has at least one item that can be run")
    gone = blobs.hold(session, {item.image_sha256 for item in items if item.image_sha256})
    if gone:
        raise PicturesGone(gone)
    now = session.scalars(select(db_now())).one()
    session.execute(
        insert(Batch).values(
            id=batch_id,
            owner=owner,
            methods=list(wishes.methods),
            options=dict(wishes.options),
            priority=wishes.priority,
            deadline_seconds=wishes.deadline_seconds,
            meta=dict(wishes.metadata),
            webhook_url=wishes.webhook_url,
            webhook_events=None if wishes.webhook_events is None else list(wishes.webhook_events),
            retry_of=retry_of,
            rejected=sum(item.error is not None for item in items),
            event_seq=1,
            created_at=now,
        )
    )
    deadline = wishes.deadline_seconds and now + timedelta(seconds=wishes.deadline_seconds)
    shared = {
        "batch_id": batch_id,
        "queue": wishes.queue,
        "priority": wishes.priority,
        "owner": owner,
        "correlation_id": correlation_id,
        "options": dict(wishes.options),
        "now": now,
        "deadline_at": deadline,
        "max_attempts": max_attempts,
    }
    for some in pages([_row(item) for item in items]):
        session.connection().execute(_JOBS, {"items": some, **shared})
    for position, name in enumerate(wishes.methods):
        session.connection().execute(
            _METHODS, {"batch_id": batch_id, "name": name, "position": position, "now": now}
        )
    _log_new(session, batch_id, now)
    if any(item.error for item in items):
        webhooks.notify_of_new_failures(session, batch_id)


def _row(item: Item) -> dict[str, Any]:
    return {
        "id": new_id("job"),
        "state": item.state,
        "name": item.name,
        "custom_id": item.custom_id,
        "source_url": item.url,
        "image_sha256": item.image_sha256,
        "batch_index": item.index,
        "error": None if item.error is None else dict(item.error),
    }


def _log_new(session: Session, batch_id: str, now: datetime) -> None:
    counts = completion.counts(session, [batch_id])[batch_id]
    first = events.NewEvent(batch_id, 1, "batch.created", {"status": BatchState.RUNNING, "counts": counts})
    events.append(session, [first])
    for state in (JobState.QUEUED, JobState.FETCHING):
        given = {"batch_id": batch_id, "now": now, "of": state, "data": {"status": state}}
        session.connection().execute(_CREATED, given)
    failed = select(Job.id, Job.error).where(Job.batch_id == batch_id, Job.state == JobState.FAILED)
    events.append(
        session,
        (
            events.NewEvent(job_id, 1, "job.failed", {"status": JobState.FAILED, "error": error})
            for job_id, error in session.execute(failed)
        ),
    )


# What is the same of every item is sent once, and what follows from the jobs is made of them where they are.

_ITEM = (
    Job.id,
    Job.state,
    Job.name,
    Job.custom_id,
    Job.source_url,
    Job.image_sha256,
    Job.batch_index,
    Job.error,
)
"""The columns of :func:`_row`."""


def _inserting_jobs() -> Executable:
    given = given_rows("items", **{column.key: column.type for column in _ITEM})
    now = parameter(Job.created_at, "now")
    values: dict[Any, Any] = {column: given.c[column.key] for column in _ITEM}
    values |= {
        column: parameter(column)
        for column in (Job.batch_id, Job.queue, Job.priority, Job.owner, Job.correlation_id, Job.options)
    }
    values |= {Job.max_attempts: parameter(Job.max_attempts), Job.deadline_at: parameter(Job.deadline_at)}
    values |= {Job.created_at: now, Job.run_after: now, Job.meta: literal({}, Job.meta.type)}
    values |= {Job.attempt: literal(0), Job.event_seq: literal(1)}
    values |= {Job.finished_at: case((given.c.state == JobState.FAILED, now))}
    return insert(Job.__table__).from_select([*values], select(*values.values()))  # type: ignore[arg-type]


def _inserting_methods() -> Executable:
    now = parameter(Method.finished_at, "now")
    refused = Job.state == JobState.FAILED
    state = case((refused, MethodState.SKIPPED), else_=MethodState.QUEUED)
    values: dict[Any, Any] = {
        Method.job_id: Job.id,
        Method.name: parameter(Method.name),
        Method.position: parameter(Method.position),
        Method.state: type_coerce(state, Method.state.type),
        Method.finished_at: case((refused, now)),
        Method.options: literal({}, Method.options.type),
        Method.done: literal(0),
        Method.total: literal(0),
        Method.cached: literal(False),
    }
    those = select(*values.values()).where(Job.batch_id == parameter(Job.batch_id))
    return insert(Method.__table__).from_select([*values], those)  # type: ignore[arg-type]


def _inserting_events() -> Executable:
    values: dict[Any, Any] = {
        Event.subject_id: Job.id,
        Event.seq: literal(1),
        Event.type: literal("job.created"),
        Event.data: parameter(Event.data),
        Event.created_at: parameter(Event.created_at, "now"),
    }
    those = select(*values.values()).where(
        Job.batch_id == parameter(Job.batch_id), Job.state == parameter(Job.state, "of")
    )
    return insert(Event.__table__).from_select([*values], those)  # type: ignore[arg-type]


_JOBS, _METHODS, _CREATED = _inserting_jobs(), _inserting_methods(), _inserting_events()


def queues_of(wishes: Wishes, items: Iterable[Item]) -> dict[Queue, int]:
    """How many of the items wait in which queue first."""
    counts: dict[Queue, int] = {}
    for item in items:
        if item.error is None:
            queue = Queue.IO if item.url else wishes.queue
            counts[queue] = counts.get(queue, 0) + 1
    return counts
