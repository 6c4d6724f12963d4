"""Faults at exact places of real processes.

A process gets one through its environment (:func:`environment`): Python runs ``site/sitecustomize.py`` before
anything else, which calls :func:`install`. A crash is SIGKILL to the whole process group, as the kernel does
it when memory runs out, and happens once: the first process to create the file named by ``CHAOS_ONCE`` dies.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FAULTS: dict[str, Callable[[], None]] = {}


def environment(fault: str, once: Path) -> dict[str, str]:
    """Variables under which a process has this fault; ``once`` appears when a crash has happened."""
    path = os.pathsep.join([str(HERE / "site"), str(HERE.parents[1])])
    return {"PYTHONPATH": path, "CHAOS_FAULT": fault, "CHAOS_ONCE": str(once)}


def install(name: str) -> None:
    from tests.chaos import guards

    (FAULTS | guards.REMOVALS)[name]()


def _fault(put_in: Callable[[], None]) -> Callable[[], None]:
    FAULTS[put_in.__name__.replace("_", "-")] = put_in
    return put_in


def _crash() -> None:
    with suppress(FileExistsError):
        os.close(os.open(os.environ["CHAOS_ONCE"], os.O_CREAT | os.O_EXCL))
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _before(owner: Any, name: str, happens: Callable[..., None]) -> None:
    """Let something happen before each call of ``owner.name``."""
    original = getattr(owner, name)

    def replacement(*arguments: Any, **named: Any) -> Any:
        happens(*arguments)
        return original(*arguments, **named)

    setattr(owner, name, replacement)


def _at_commit_of(owner: Any, name: str, moment: str) -> None:
    """Crash before or after the commit of the transaction in which ``owner.name`` has been called."""
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    _before(owner, name, lambda session, *_: session.info.update(chaos=True))
    event.listen(Session, moment, lambda session: _crash() if session.info.get("chaos") else None)


# Crashes of a worker, in the order in which a job meets them.


@_fault
def message_append() -> None:
    """The message is popped and not yet in Redis's list of those that are unacknowledged."""
    from kombu.transport.redis import QoS

    _before(QoS, "append", lambda *_: _crash())


@_fault
def after_claim() -> None:
    from worker.leases import LeaseKeeper

    _before(LeaseKeeper, "holding", lambda *_: _crash())


@_fault
def mid_inference() -> None:
    from core.vision.stand_in import StandInEngine

    _before(StandInEngine, "predict", lambda *_: _crash())


@_fault
def before_commit() -> None:
    """The result is written and not committed."""
    from core.jobs import results

    _at_commit_of(results, "succeed_all", "before_commit")


@_fault
def after_commit() -> None:
    """The result is committed and the message not acknowledged."""
    from core.jobs import results

    _at_commit_of(results, "succeed_all", "after_commit")


# Other faults


@_fault
def api_after_commit() -> None:
    """The job is committed; neither its client nor a worker is told."""
    from api import acceptance

    _at_commit_of(acceptance, "submit_all", "after_commit")


@_fault
def poison() -> None:
    """The picture whose SHA-256 is in ``CHAOS_POISON`` aborts the process that predicts it, each time."""
    from core.vision.stand_in import StandInEngine

    digest = bytes.fromhex(os.environ["CHAOS_POISON"])

    def abort(_engine: Any, batch: Any) -> None:
        if any(picture.reshape(-1)[:32].tobytes() == digest for picture in batch):
            os.abort()

    _before(StandInEngine, "predict", abort)


@_fault
def clock_ahead() -> None:
    """The process's clock is an hour ahead of the database's."""
    import datetime as module

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    class Ahead(module.datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> module.datetime:  # type: ignore[override]
            return real.now(tz) + module.timedelta(hours=1)

    real, clock = module.datetime, time.time
    Ahead.__module__, Ahead.__qualname__ = real.__module__, real.__qualname__  # drivers know it by its name
    module.datetime = Ahead  # type: ignore[misc]
    time.time = lambda: clock() + 3600


@_fault
def disk_full() -> None:
    """While the file ``CHAOS_FULL`` exists, SQLite's file cannot grow; what fits into its pages may come."""
    from sqlalchemy import Connection, Engine, event

    flag = Path(os.environ["CHAOS_FULL"])

    def limit(connection: Connection) -> None:
        pages = 1 if flag.exists() else 1_000_000  # SQLite takes the present size if that is larger
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "begin", limit)
