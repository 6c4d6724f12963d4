"""The soak: thousands of jobs while workers, Valkey and the API are killed again and again.

Every fault notes when it was and which jobs it met. What became of those is read from the database when all
is over, by the database's own clock.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil
from sqlalchemy import func, select

from core.broker import KEY_PREFIX
from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs.states import DeliveryState, JobState, Queue
from core.jobs.tables import Event, Job, WebhookDelivery
from tests.chaos import invariants
from tests.chaos.load import Load, Receiver
from tests.chaos.rest import all_ended, broker, database_of
from tests.processes import Service, eventually, running

WORKERS = ("predict", "predict-2")
WARM_UP_REQUESTS = 20
"""Before the first look at memory, and before anything is killed."""
SETTINGS = {
    "stand_in_seconds": 0.1,
    "max_batch": 16,
    "max_attempts": 20,  # a job that is killed this often is unlucky, not poison
    "allow_private_network": True,
    "log_level": "WARNING",
}


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
        return not lost and not self.violations and not any(self.left.values()) and len(self.ends) == 1


class Mischief:
    """Kills one kind of thing now and then, from a thread, until told to stop."""

    def __init__(self, mean_seconds: float, kill: Callable[[], Fault | None], seed: int) -> None:
        self._mean = mean_seconds
        self._kill = kill
        self._chance = random.Random(seed)
        self.faults: list[Fault] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._chance.expovariate(1 / self._mean)):
                if (fault := self._kill()) is not None:
                    self.faults.append(fault)
        except BaseException as error:
            self.error = error


class Soak:
    def __init__(self, service: Service, database: Database, seed: int) -> None:
        self.service = service
        self.database = database
        self.chance = random.Random(seed)

    def now(self) -> datetime:
        with self.database.read() as session:
            return session.scalars(select(db_now())).one()

    def kill_worker(self) -> Fault | None:
        """A whole worker or its child alone, among those that have work or wait for some."""
        self._restart_dead_workers()
        up = [name for name in WORKERS if self._has_child(name)]
        if not up:
            return None  # they are still starting
        name = self.chance.choice(up)
        pid = self.service.processes[name].pid
        held = select(Job.id).where(Job.lease_owner.contains(f"-{pid}-"))
        with self.database.read() as session:
            at, ids = session.scalars(select(db_now())).one(), frozenset(session.scalars(held))
        if self.chance.random() < 0.5:
            try:
                self.service.child_of(name).kill()
            except (psutil.NoSuchProcess, ValueError):  # it went by itself in this very moment
                return None
        else:
            self.service.kill(name)
            self.service.start_worker("predict", name)
        return Fault("worker killed", at, at, ids)

    def _restart_dead_workers(self) -> None:
        """As ``pawlens up`` does: a worker whose child is killed while it starts gives up."""
        for name in WORKERS:
            if self.service.processes[name].poll() is not None:
                with suppress(ProcessLookupError):  # nobody of its group is left
                    os.killpg(self.service.processes[name].pid, signal.SIGKILL)
                self.service.start_worker("predict", name)

    def _has_child(self, name: str) -> bool:
        """Whether its pool process has loaded what it needs: before that, a kill would only meet a start."""
        pid = self.service.processes[name].pid
        try:
            children = psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return False
        old = [child for child in children if time.time() - child.create_time() > 3]
        return bool(old)

    def kill_valkey(self) -> Fault:
        with self.database.read() as session:
            waiting = frozenset(session.scalars(select(Job.id).where(Job.state == JobState.QUEUED)))
        at = self.now()
        self.service.valkey.terminate()  # SIGKILL
        time.sleep(self.chance.uniform(0.5, 3))
        self.service.valkey.start()
        return Fault("Valkey killed, empty", at, self.now(), waiting)

    def kill_api(self) -> Fault:
        with self.database.read() as session:
            unfinished = frozenset(session.scalars(select(Job.id).where(Job.finished_at.is_(None))))
        at = self.now()
        self.service.kill("api")
        self.service.start("api")
        eventually(self.service.workers, what="the API")
        return Fault("API killed", at, self.now(), unfinished)


def run(
    folder: Path, database_url: str, jobs: int, *, seed: int = 0, say: Callable[[str], None] = print
) -> Report:
    """Run the soak to its end. Whatever it found is in the report; nothing is raised for it."""
    with (
        Receiver() as receiver,
        running(folder, database_url, "predict", "io", **SETTINGS) as service,
        database_of(service) as database,
    ):
        service.start_worker("predict", WORKERS[1])
        eventually(lambda: service.workers().get("predict") == 2, seconds=60, what="both workers")
        soak = Soak(service, database, seed)
        pace = min(60.0, jobs / 15)
        load = Load(str(service.http.base_url), jobs, per_second=pace, webhook_url=receiver.url)
        mischief = [
            Mischief(2, soak.kill_worker, seed + 1),
            Mischief(10, soak.kill_valkey, seed + 2),
            Mischief(15, soak.kill_api, seed + 3),
        ]
        started = time.monotonic()
        load.run(WARM_UP_REQUESTS)
        eventually(lambda: all_ended(database) and _told(database), what="the warm-up")
        before = footprint(service)
        for one in mischief:
            one.start()
        say(f"posting {jobs} jobs, {pace:.0f} a second, while things are killed")
        try:
            load.run()
            say("all accepted; the killing goes on until all have ended")
            eventually(lambda: all_ended(database), seconds=300 + jobs / 5, what="the end of all jobs")
        finally:
            for one in mischief:
                one.stop()
        eventually(lambda: _told(database), seconds=120, what="the last webhook")
        seconds = time.monotonic() - started
        faults = [fault for one in mischief for fault in one.faults]
        say("all ended; looking at what became of them")
        eventually(lambda: not any(left_over(service, database).values()), what="empty queues", seconds=30)
        return Report(
            rows=[*rows_of(database, faults), row_of_webhooks(database, load, receiver)],
            ends=invariants.counts(database),
            violations=[*invariants.violations(database, load.posted.jobs), *wrong_answers(database, load)],
            refused=load.posted.refused,
            seconds=seconds,
            before=before,
            after=footprint(service),
            left=left_over(service, database),
        )


def _told(database: Database) -> bool:
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
        if fault.kind == "worker killed":  # until the last job that it held has ended
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
