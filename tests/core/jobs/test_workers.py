from __future__ import annotations

import subprocess
import sys

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.jobs import workers
from core.jobs.states import Queue
from core.jobs.tables import Worker


def alive(session: Session) -> list[str]:
    return [worker.id for worker in workers.alive(session, silent_seconds=60)]


def change(session: Session, worker_id: str, **values: object) -> None:
    session.execute(update(Worker).where(Worker.id == worker_id).values(**values))


def dead_pid() -> int:
    """That of a process which has ended and was waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_worker_signs_for_each_of_its_queues(database: Database) -> None:
    for report in ({"device": "cpu"}, {"device": "cuda"}):
        with database.write() as session:
            workers.sign(session, "host-1", [Queue.PREDICT, Queue.EXPLAIN], report)
        with database.read() as session:
            assert alive(session) == ["explain@host-1", "predict@host-1"]
            assert {row.report["device"] for row in session.scalars(select(Worker))} == {report["device"]}
    with database.write() as session:
        workers.sign(session, "host-2", [Queue.IO], {})
        workers.sign_off(session, "host-1")
        assert alive(session) == ["io@host-2"]


def test_silent_workers_are_not_alive_and_then_forgotten(database: Database) -> None:
    with database.write() as session:
        for name in ("quiet", "loud"):
            workers.sign(session, name, [Queue.PREDICT], {})
        change(session, "predict@quiet", seen_at=db_now(-100))
        assert alive(session) == ["predict@loud"]
        workers.forget(session, silent_seconds=60)
        assert list(session.scalars(select(Worker.id))) == ["predict@loud"]


def test_a_worker_of_this_machine_is_not_alive_once_its_process_is_gone(sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        workers.sign(session, "killed", [Queue.PREDICT], {})
        assert alive(session) == ["predict@killed"]
        change(session, "predict@killed", pid=dead_pid())
        assert alive(session) == []


def test_of_another_machine_only_silence_tells(sqlite_database: Database) -> None:
    """There, the number may be that of no process here, or of any."""
    with sqlite_database.write() as session:
        for name in ("elsewhere", "in-a-container", "of-an-older-version"):
            workers.sign(session, name, [Queue.IO], {})
            change(session, f"io@{name}", pid=dead_pid())
        change(session, "io@elsewhere", hostname="another-host")
        change(session, "io@in-a-container", report={"pid_namespace": "pid:[1]"})
        change(session, "io@of-an-older-version", report={})
        assert alive(session) == ["io@elsewhere", "io@in-a-container", "io@of-an-older-version"]
