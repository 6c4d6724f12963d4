"""What became of a soak's jobs and webhooks, read from the database when all is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psutil
from sqlalchemy import func, select

from core.broker import KEY_PREFIX
from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs.states import DeliveryState, JobState, Queue
from core.jobs.tables import Event, Job, WebhookDelivery
from tests.chaos import invariants
from tests.chaos.load import Load, Receiver
from tests.chaos.rest import broker
from tests.processes import Service


@dataclass(frozen=True)
class Fault:
    """Something was killed at ``at``, was back at ``back``, and had to do with ``jobs`` then."""

    kind: str
    at: datetime
    back: datetime
    jobs: frozenset[str]


@dataclass
class Row:
    """A line of the table."""

    fault: str
    times: int
    jobs: int
    lost: int
    doubled: int
    seconds: list[float] = field(default_factory=list)


# What a part may hold more at the end than at first: pools fill up to their sizes, and allocators keep what
# they needed once. Whatever leaked with each of 10,000 jobs, or of their requests, would be more.
ROOM = {"MiB": 64.0, "connections": 32.0, "files": 64.0}


@dataclass
class Report:
    rows: list[Row]
    ends: Counter[JobState]
    violations: list[str]
    refused: Counter[str]
    seconds: float
    before: dict[str, dict[str, float]]  # by process: MiB, connections, file descriptors
    after: dict[str, dict[str, float]]
    left: dict[str, int]  # of jobs, hints and deliveries: what still waits

    @property
    def is_good(self) -> bool:
        lost = sum(row.lost + row.doubled for row in self.rows)
        wrong = lost or self.violations or any(self.left.values()) or self.grown
        return not wrong and len(self.ends) == 1

    @property
    def grown(self) -> list[str]:
        """Which part holds more of what than it had and has :data:`ROOM` for."""
        return [
            f"{name}: {what} grew from {before[what]:.0f} to {self.after[name][what]:.0f}"
            for name, before in self.before.items()
            if name in self.after
            for what, room in ROOM.items()
            if self.after[name][what] > before[what] + room
        ]


def all_told(database: Database) -> bool:
    try:
        with database.read() as session:
            pending = select(func.count()).where(WebhookDelivery.state == DeliveryState.PENDING)
            return not session.scalar(pending)
    except ServiceUnavailable:
        return False


def rows_of(database: Database, faults: Sequence[Fault]) -> list[Row]:
    ends, started, created = _times(database)
    rows: dict[str, Row] = {}
    for fault in faults:
        row = rows.setdefault(fault.kind, Row(fault.kind, 0, 0, 0, 0))
        row.times += 1
        row.jobs += len(fault.jobs)
        row.lost += sum(not ends.get(job_id) for job_id in fault.jobs)
        row.doubled += sum(len(ends.get(job_id, ())) > 1 for job_id in fault.jobs)
        if fault.kind.startswith("worker"):  # until the last job that it held has ended
            after = [max(ends[job_id]) for job_id in fault.jobs if ends.get(job_id)]
            after = [max(after)] if after else []
        else:  # until the next job is begun, or accepted, once it is back
            moments = started if fault.kind.startswith("Valkey") else created
            after = [moment for moment in moments if moment > fault.back][:1]
        row.seconds += [(moment - fault.at).total_seconds() for moment in after]
    return list(rows.values())


def _times(database: Database) -> tuple[dict[str, list[datetime]], list[datetime], list[datetime]]:
    """When each job ended, as often as it did; when jobs were begun; when they were accepted."""
    ends: dict[str, list[datetime]] = {}
    started, created = [], []
    with database.read() as session:
        log = session.execute(
            select(Event.subject_id, Event.type, Event.created_at).order_by(Event.created_at)
        )
        for subject, kind, at in log:
            if kind in invariants.ENDS:
                ends.setdefault(subject, []).append(at)
            elif kind == "job.started":
                started.append(at)
            elif kind == "job.created":
                created.append(at)
    return ends, started, created


def row_of_webhooks(database: Database, load: Load, receiver: Receiver) -> Row:
    """Doubled is what was told under two ids; the same id twice is what "at least once" allows."""
    told = receiver.subjects
    lost = sum(not told[subject] for subject in load.posted.with_webhook)
    with database.read() as session:
        written = Counter(session.scalars(select(WebhookDelivery.subject_id)))
    doubled = sum(count > 1 for count in written.values())
    subjects = len(load.posted.with_webhook)
    return Row("receiver answers 500", len(receiver.refused), subjects, lost, doubled, receiver.again_after)


def wrong_answers(database: Database, load: Load) -> list[str]:
    """Jobs that were not asked for or have another picture, and batches of another size."""
    with database.read() as session:
        jobs = session.execute(select(Job.id, Job.image_sha256, Job.batch_id)).all()
    singles = {job.id: job.image_sha256 for job in jobs if job.batch_id is None}
    sizes = Counter(job.batch_id for job in jobs if job.batch_id is not None)
    found = []
    if singles != load.posted.jobs:
        found.append(f"{len(singles)} singles are there, {len(load.posted.jobs)} were accepted")
    if sizes != load.posted.batches:
        found.append(f"{len(sizes)} batches are there, {len(load.posted.batches)} were accepted")
    return found


def left_over(service: Service, database: Database) -> dict[str, int]:
    with database.read() as session:
        jobs = session.scalar(select(func.count()).where(Job.finished_at.is_(None))) or 0
        pending = select(func.count()).where(WebhookDelivery.state == DeliveryState.PENDING)
        deliveries = session.scalar(pending) or 0
    with broker(service) as client:
        hints = sum(int(client.llen(KEY_PREFIX + queue)) for queue in Queue)
    return {"jobs": jobs, "hints": hints, "deliveries": deliveries}


def footprint(service: Service) -> dict[str, dict[str, float]]:
    """Of each part with all its children."""
    found = {}
    for name, process in service.processes.items():
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        found[name] = {
            "MiB": sum(member.memory_info().rss for member in family) / (1 << 20),
            "connections": sum(len(member.net_connections("all")) for member in family),
            "files": sum(member.num_fds() for member in family),
        }
    return found
