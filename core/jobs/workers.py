"""Which worker processes there are: each signs with every heartbeat, and is forgotten when it is silent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.database import db_now, insert_new
from core.jobs.states import Queue
from core.jobs.tables import Worker


def sign(session: Session, worker_id: str, queues: Sequence[Queue], report: Mapping[str, Any]) -> None:
    """Show that this process, a worker, is alive: one row for each queue that it serves."""
    ids = [f"{queue}@{worker_id}" for queue in queues]
    said = {**report, _PIDS: _pid_namespace()}
    rows = [
        {"id": row_id, "queue": queue, "hostname": socket.gethostname(), "pid": os.getpid(), "report": said}
        for row_id, queue in zip(ids, queues, strict=True)
    ]
    insert_new(session, Worker.__table__, rows)  # type: ignore[arg-type]
    session.execute(
        update(Worker)
        .where(Worker.id.in_(ids))
        .values(seen_at=db_now(), report=said, pid=os.getpid())
        .execution_options(synchronize_session=False)
    )


def sign_off(session: Session, worker_id: str) -> None:
    session.execute(
        delete(Worker)
        .where(Worker.id.endswith(f"@{worker_id}", autoescape=True))
        .execution_options(synchronize_session=False)
    )


def alive(session: Session, *, silent_seconds: float) -> list[Worker]:
    """Workers that were heard of within ``silent_seconds``, but for those of this machine that are dead.

    A killed worker does not sign off. Elsewhere only its silence tells; here its process can be looked for.
    """
    heard = select(Worker).where(Worker.seen_at > db_now(-silent_seconds)).order_by(Worker.id)
    return [worker for worker in session.scalars(heard) if not _is_dead(worker)]


def forget(session: Session, *, silent_seconds: float) -> None:
    """Remove the rows of workers that have not been heard of for so long."""
    session.execute(
        delete(Worker)
        .where(Worker.seen_at < db_now(-silent_seconds))
        .execution_options(synchronize_session=False)
    )


_PIDS = "pid_namespace"


@cache
def _pid_namespace() -> str | None:
    """Where a process id means something: containers may share a host's name, and count processes from 1.

    None where there is no such thing, on macOS: there the host's name says it all.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _is_dead(worker: Worker) -> bool:
    # An older version's row does not say where its number counts.
    if worker.hostname != socket.gethostname() or worker.report.get(_PIDS, "") != _pid_namespace():
        return False
    try:
        os.kill(worker.pid, 0)  # nothing is sent: whether it could be
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False
