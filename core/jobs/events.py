"""The event log of a job or batch: the one source behind polling, streaming and webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import JSON, Integer, String, insert, select, update
from sqlalchemy.orm import Session

from core.database import db_now, given_rows
from core.jobs.states import JobState
from core.jobs.tables import Event, Job


class NewEvent(NamedTuple):
    subject_id: str
    seq: int
    type: str
    data: dict[str, Any]


_given = given_rows("events", subject_id=String(), seq=Integer(), type=String(), data=JSON())
_APPEND = insert(Event.__table__).from_select(  # type: ignore[arg-type]
    [*_given.c.keys(), "created_at"], select(_given, db_now())
)


def append(session: Session, events: Iterable[NewEvent]) -> None:
    """Write events whose numbers were taken from ``event_seq`` in this same transaction."""
    if rows := [event._asdict() for event in events]:
        session.connection().execute(_APPEND, {"events": rows})


def note(session: Session, job_id: str, attempt: int, type_: str, data: dict[str, Any]) -> bool:
    """Log something that happens while a job runs and does not change its state.

    Fenced like everything a worker writes: False means that the job is no longer this attempt's.
    """
    seq = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.state == JobState.RUNNING, Job.attempt == attempt)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        return False
    append(session, [NewEvent(job_id, seq, type_, data)])
    return True


def after(session: Session, subject_id: str, seq: int, *, limit: int = 1000) -> list[Event]:
    """Events numbered above ``seq``, in order."""
    return list(
        session.scalars(
            select(Event)
            .where(Event.subject_id == subject_id, Event.seq > seq)
            .order_by(Event.seq)
            .limit(limit)
        )
    )
