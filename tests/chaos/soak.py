"""The soak: thousands of jobs while workers, Valkey and the API are killed again and again.

Every fault notes when it was and which jobs it met. What became of those is read from the database when all
is over, by the database's own clock.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
from sqlalchemy import select

from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs.states import JobState
from core.jobs.tables import Job
from tests.chaos import invariants
from tests.chaos.aftermath import (
    Fault,
    Report,
    all_told,
    footprint,
    left_over,
    row_of_webhooks,
    rows_of,
    wrong_answers,
)
from tests.chaos.load import Load, Receiver
from tests.chaos.postgres import RestartablePostgres
from tests.chaos.rest import all_ended, database_of
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
                with suppress(ServiceUnavailable):  # the database is the fault of the moment
                    if (fault := self._kill()) is not None:
                        self.faults.append(fault)
        except BaseException as error:
            self.error = error


class Soak:
    def __init__(self, service: Service, database: Database, seed: int, away_seconds: float) -> None:
        self.service = service
        self.database = database
        self.chance = random.Random(seed)
        self.away_seconds = away_seconds  # how long Valkey stays away, the first time
        self._ways = itertools.cycle(["worker", "child", "SIGTERM"])

    def now(self) -> datetime:
        with self.database.read() as session:
            return session.scalars(select(db_now())).one()

    def kill_worker(self) -> Fault | None:
        """A whole worker or its child alone, among those that have work or wait for some; or SIGTERM."""
        self._restart_dead_workers()
        up = [name for name in WORKERS if self._has_child(name)]
        if not up:
            return None  # they are still starting
        name, at, ids = self._busiest(up)
        how = next(self._ways)
        if how == "SIGTERM":
            self.service.terminate(name)
            self.service.start_worker("predict", name)
            return Fault("worker restarted", at, self.now(), ids)
        if how == "child":
            try:
                self.service.child_of(name).kill()
            except (psutil.NoSuchProcess, ValueError):  # it went by itself in this very moment
                return None
        else:
            self.service.kill(name)
            self.service.start_worker("predict", name)
        return Fault("worker killed", at, at, ids)

    def _busiest(self, names: list[str]) -> tuple[str, datetime, frozenset[str]]:
        """One of these workers that holds jobs at this moment, or soon, and which; else any of them."""
        give_up = time.monotonic() + 2
        while True:
            name = self.chance.choice(names)
            held = select(Job.id).where(Job.lease_owner.contains(f"-{self.service.processes[name].pid}-"))
            with self.database.read() as session:
                at, ids = session.scalars(select(db_now())).one(), frozenset(session.scalars(held))
            if ids or time.monotonic() > give_up:
                return name, at, ids
            time.sleep(0.02)

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
        seconds, self.away_seconds = self.away_seconds or self.chance.uniform(0.5, 3), 0
        self.service.valkey.terminate()  # SIGKILL
        time.sleep(seconds)
        self.service.valkey.start()
        kind = "Valkey killed, empty" if seconds <= 3 else f"Valkey away for {seconds:g} s"
        return Fault(kind, at, self.now(), waiting)

    def stop_postgres(self, server: RestartablePostgres) -> Fault:
        at, unfinished = self.now(), self._unfinished()
        server.stop()
        time.sleep(self.chance.uniform(0.5, 3))
        server.start()
        return Fault("PostgreSQL restarted", at, self.now(), unfinished)

    def kill_api(self) -> Fault:
        at, unfinished = self.now(), self._unfinished()
        self.service.kill("api")
        self.service.start("api")
        eventually(self.service.workers, what="the API")
        return Fault("API killed", at, self.now(), unfinished)

    def _unfinished(self) -> frozenset[str]:
        with self.database.read() as session:
            return frozenset(session.scalars(select(Job.id).where(Job.finished_at.is_(None))))


def run(
    folder: Path,
    database_url: str,
    jobs: int,
    *,
    seed: int = 0,
    away_seconds: float = 0,
    postgres: RestartablePostgres | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Run the soak to its end. Whatever it found is in the report; nothing is raised for it.

    away_seconds: Valkey stays away for so long when it is killed first; later, and with 0, up to 3 s.
    postgres: the server of ``database_url``, to be restarted now and then.
    """
    with (
        Receiver() as receiver,
        running(folder, database_url, "predict", "io", **SETTINGS) as service,
        database_of(service) as database,
    ):
        service.start_worker("predict", WORKERS[1])
        eventually(lambda: service.workers().get("predict") == 2, seconds=60, what="both workers")
        soak = Soak(service, database, seed, away_seconds)
        pace = min(60.0, jobs / 10)
        load = Load(str(service.http.base_url), jobs, per_second=pace, webhook_url=receiver.url)
        mischief = [
            Mischief(2, soak.kill_worker, seed + 1),
            Mischief(10, soak.kill_valkey, seed + 2),
            Mischief(15, soak.kill_api, seed + 3),
        ]
        if postgres is not None:
            mischief.append(Mischief(15, lambda: soak.stop_postgres(postgres), seed + 4))
        started = time.monotonic()
        load.run(WARM_UP_REQUESTS)
        eventually(lambda: all_ended(database) and all_told(database), what="the warm-up")
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
        eventually(lambda: all_told(database), seconds=120, what="the last webhook")
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
