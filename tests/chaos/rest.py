"""Waiting until a service has nothing left to do, and looking whether all is as it must be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import exists, select

from core.broker import MAX_HINTS, BrokerProbe
from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs.states import JobState, Queue
from core.jobs.tables import Job
from core.settings import Settings
from tests.chaos import faults, invariants
from tests.processes import Service, eventually


@contextmanager
def database_of(service: Service) -> Iterator[Database]:
    database = Database(service.environment["PAWLENS_DATABASE_URL"], pool_size=2)
    try:
        yield database
    finally:
        database.dispose()


def all_ended(database: Database) -> bool:
    try:
        with database.read() as session:
            return not session.scalar(select(exists().where(Job.finished_at.is_(None))))
    except ServiceUnavailable:  # which may be the fault of the moment
        return False


def at_rest(service: Service, accepted: Collection[str] = (), *, seconds: float = 60) -> Counter[JobState]:
    """Wait until every job has ended, check every invariant; how many jobs are in each state."""
    with database_of(service) as database:
        eventually(lambda: all_ended(database), seconds=seconds, what="the end of all jobs")
        invariants.check(database, accepted)
        hints_are_bounded(service)
        return invariants.counts(database)


def hints_are_bounded(service: Service) -> None:
    probe = BrokerProbe(settings_of(service))
    waiting = {queue: probe.hints_waiting(queue) for queue in Queue}
    probe.close()
    assert max(waiting.values()) <= MAX_HINTS, waiting


def settings_of(service: Service) -> Settings:
    return Settings(
        database_url=service.environment["PAWLENS_DATABASE_URL"],
        redis_url=f"unix://{service.folder / 'valkey.sock'}",
        data_dir=service.folder,
    )


@contextmanager
def faulty(service: Service, fault: str, **variables: str) -> Iterator[Path]:
    """Processes started in the block have the fault. The file given exists once a crash has happened."""
    before = dict(service.environment)
    once = service.folder / f"{fault}.happened"
    _set(service, before | faults.environment(fault, once) | variables)
    try:
        yield once
    finally:
        _set(service, before)


def _set(service: Service, environment: Mapping[str, str]) -> None:
    service.environment = dict(environment)


def died(service: Service, name: str, *, seconds: float = 30) -> None:
    """Wait for the end of a process that has a crash before it."""
    process = service.processes[name]
    eventually(lambda: process.poll() is not None, seconds=seconds, what=f"the crash of {name}")
    del service.processes[name]


def lines(service: Service, name: str, message: str = "") -> list[dict[str, Any]]:
    """What a process has logged that begins so."""
    log = [json.loads(line) for line in service.log(name).splitlines() if line[:1] == "{"]
    return [line for line in log if line["message"].startswith(message)]


def errors_in(service: Service) -> list[str]:
    """What an operator would have to be woken for, in the logs of all processes."""
    found = []
    for log in sorted(service.folder.glob("*.log")):
        plain = [line for line in log.read_text().splitlines() if line[:1] != "{"]
        found += [f"{log.stem}: {line}" for line in plain if "Traceback" in line or "Error" in line]
        found += [
            f"{log.stem}: {line['message']} {line.get('exception', '')}"
            for line in lines(service, log.stem)
            if line["level"] in ("ERROR", "CRITICAL")
        ]
    return found


def broker(service: Service) -> redis.Redis:
    """A connection to the service's Valkey. Close it."""
    return redis.Redis(unix_socket_path=str(service.folder / "valkey.sock"))
