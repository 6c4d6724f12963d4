"""What the last minute was like: outcomes, seconds of each stage and method, sizes of micro-batches.

Everything here is found through an index and bounded by what happened in the window, however large the
tables are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from core.database import db_now
from core.jobs.states import FINAL, DeliveryState, JobState, MethodState, Queue
from core.jobs.tables import Job, Method, WebhookDelivery

WINDOW_SECONDS = 60
SAMPLE = 1000
"""Jobs of a queue, the newest of the window, of which times are read."""
DELIVERIES_SECONDS = 3600
"""Longer than the window: an attempt that failed is made again after minutes."""


@dataclass(frozen=True)
class Recent:
    outcomes: Counter[tuple[Queue, JobState]] = field(default_factory=Counter)
    stages: dict[tuple[Queue, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds by queue and stage: ``queued``, ``decode``, ``inference``; ``total`` from posted to ended."""
    batch_sizes: dict[Queue, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each picture, how many there were in its micro-batch."""
    methods: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of each method that was computed and not taken from an equal job."""
    method_outcomes: Counter[tuple[str, MethodState]] = field(default_factory=Counter)


def recent(session: Session) -> Recent:
    """The jobs that ended in the last :data:`WINDOW_SECONDS`, by the database's clock."""
    found = Recent()
    in_window = Job.finished_at > db_now(-WINDOW_SECONDS)
    for queue, state, count in session.execute(
        select(Job.queue, Job.state, func.count()).where(in_window).group_by(Job.queue, Job.state)
    ):
        if state in FINAL:
            found.outcomes[queue, state] = count
    for queue in {queue for queue, _ in found.outcomes}:
        newest = (
            select(Job.id, Job.timings, Job.created_at, Job.finished_at)
            .where(in_window, Job.queue == queue)
            .order_by(Job.finished_at.desc())
            .limit(SAMPLE)
        )
        explained = []
        for job_id, timings, created_at, finished_at in session.execute(newest):
            assert finished_at is not None
            found.stages[queue, "total"].append((finished_at - created_at).total_seconds())
            explained.append(job_id)
            for name, value in (timings or {}).items():
                if name.endswith("_ms"):
                    found.stages[queue, name.removesuffix("_ms")].append(value / 1000)
            if timings and "batch_size" in timings:
                found.batch_sizes[queue].append(timings["batch_size"])
        if queue is Queue.EXPLAIN:
            _read_methods(session, explained, found)
    return found


def _read_methods(session: Session, job_ids: list[str], found: Recent) -> None:
    rows = session.execute(
        select(Method.name, Method.state, Method.seconds, Method.cached).where(Method.job_id.in_(job_ids))
    )
    for name, state, seconds, cached in rows:
        found.method_outcomes[name, state] += 1
        if state is MethodState.SUCCEEDED and seconds is not None and not cached:
            found.methods[name].append(seconds)


def recent_deliveries(session: Session) -> Counter[DeliveryState]:
    """By state, the webhook deliveries that were made in the last :data:`DELIVERIES_SECONDS`."""
    now = session.scalar(select(db_now()))
    assert now is not None
    # Their ids are UUIDv7, which begin with the milliseconds since 1970: a time is a range of primary keys.
    since = f"msg_{int((now.timestamp() - DELIVERIES_SECONDS) * 1000):012x}"
    rows = session.execute(
        select(WebhookDelivery.state, func.count())
        .where(WebhookDelivery.id > since)
        .group_by(WebhookDelivery.state)
    )
    return Counter({state: count for state, count in rows})  # noqa: C416 - a Row is not a pair to mypy


def pending_deliveries(session: Session) -> int:
    """Webhook deliveries that are still to be tried, of any age (``ix_webhook_deliveries_due``)."""
    # A literal, so that the planner sees the partial index's condition.
    pending = literal(DeliveryState.PENDING, WebhookDelivery.state.type, literal_execute=True)
    counted = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.state == pending)
    return session.scalar(counted) or 0
