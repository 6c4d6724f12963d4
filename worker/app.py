"""The Celery worker: ``celery -A worker.app worker``, its queues named by ``PAWLENS_WORKER_QUEUE``.

Model queues run in a prefork pool of one process, so that a picture that kills the network kills a child and
not the worker. The parent hears of the death within milliseconds and releases the leases. Downloads alone run
in a pool of threads.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from billiard import active_children
from billiard.exceptions import WorkerLostError
from celery import Task, signals
from sqlalchemy.orm import Session

from core.broker import TASKS, BrokerUnavailable, celery_app, publish
from core.database import Database
from core.errors import DeviceFailed, ServiceUnavailable, StorageFull
from core.jobs.rescue import release_worker, rescue
from core.jobs.states import Queue
from core.logs import configure_logging
from core.openmp import brief_waiting
from core.settings import Settings

if TYPE_CHECKING:
    from worker.runtime import Runtime

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

os.environ.update(brief_waiting(os.environ))

settings = Settings()
app = celery_app(settings.redis)
queues = [Queue(name) for name in os.environ.get("PAWLENS_WORKER_QUEUE", "predict").split(",")]
service_name = f"worker-{'-'.join(queues)}"

# The child processes of a pool inherit the name, so that parent and child speak of the same leases.
WORKER_ID = os.environ.setdefault(
    "PAWLENS_WORKER_ID", f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
)

STOP_SIGNAL = signal.SIGUSR2  # from the worker to its child: take no more work; from it: I cannot start

_runtime: Runtime | None = None


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    configure_logging(service_name, level=settings.log_level, form=settings.log_format)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _start_in_child(**_: Any) -> None:
    """In the child of a prefork pool, before its first task."""
    global _runtime  # noqa: PLW0603 - one runtime a process
    # Not above: the parent of a pool keeps what it imports, and needs none of it.
    from worker.runtime import Runtime  # noqa: PLC0415

    _configure_logging()
    try:
        _runtime = Runtime(settings, queues, WORKER_ID)
    except Exception:
        # Celery would log it and go on: a worker that takes every hint and does nothing with it.
        logger.exception("the worker cannot start, leaving")
        logging.shutdown()
        if queues != [Queue.IO]:
            os.kill(os.getppid(), STOP_SIGNAL)
        os._exit(1)
    if queues != [Queue.IO]:
        signal.signal(STOP_SIGNAL, lambda *_: _runtime.stopping.set())


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _start_with_threads(**_: Any) -> None:
    """In the worker itself, before its pool of threads."""
    if queues == [Queue.IO]:
        _start_in_child()
    else:
        signal.signal(STOP_SIGNAL, _leave_with_child)


def _leave_with_child(*_: Any) -> NoReturn:
    """In the worker itself, whose child cannot start: the pool would make another at once, and for ever.

    Its supervisor sees a failure, waits a little longer each time, and tells why.
    """
    logging.shutdown()
    os._exit(1)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_soon(**_: Any) -> None:
    """On SIGTERM, in the worker itself: Celery waits for the running task, which now leaves at its next step.

    Celery's own soft shutdown is not used: it sleeps through its whole timeout, also when the task is done.
    """
    if _runtime is not None:
        _runtime.stopping.set()
    for child in active_children():
        os.kill(child.pid, STOP_SIGNAL)
    threading.Thread(target=_stop_late, name="stop-late", daemon=True).start()


def _stop_late() -> None:
    """End what has not stopped by itself, and put its jobs back."""
    time.sleep(settings.stop_seconds)
    logger.warning("still busy after %g s, leaving", settings.stop_seconds)
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    _in_parent(lambda session: release_worker(session, WORKER_ID))
    logging.shutdown()
    os._exit(1)


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _stop_child(**_: Any) -> None:
    if _runtime is not None:
        _runtime.stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _sign_off(**_: Any) -> None:
    """In the worker itself, after its pool: what could not be finished in time is put back."""
    _stop_child()
    released = _in_parent(lambda session: release_worker(session, WORKER_ID))
    if released:
        logger.info("put back", extra={"jobs": released})


@signals.task_failure.connect  # type: ignore[untyped-decorator]
def _release_leases(task_id: str, exception: BaseException, **_: Any) -> None:
    """In the worker itself, when its child died: the jobs need not wait for the end of their leases."""
    if isinstance(exception, WorkerLostError):
        owner = lease_owner(task_id)
        rescued = _in_parent(
            lambda session: rescue(session, retry_seconds=settings.retry_seconds, owner=owner)
        )
        logger.warning("worker process died", extra=vars(rescued) if rescued else {})


def _in_parent(work: Callable[[Session], Result]) -> Result | None:
    """A transaction in the parent process, which keeps no connections; None while the database is away."""
    database = Database(settings.database, pool_size=1)
    try:
        with database.write() as session:
            return work(session)
    except (ServiceUnavailable, StorageFull) as error:
        logger.warning("leases run out by themselves, the database is away: %s", error.__cause__)
        return None
    finally:
        database.dispose()


def lease_owner(task_id: str) -> str:
    """The name under which a task holds leases: its worker's and its own, so that the parent can tell."""
    return f"{WORKER_ID}/{task_id}"


def _drain(task: Task, queue: Queue) -> None:
    assert _runtime is not None
    try:
        more = _runtime.drain(queue, lease_owner(task.request.id))
    except (ServiceUnavailable, StorageFull) as error:
        logger.warning("leaving the task: %s", error.__cause__ or error)
        return
    except DeviceFailed:
        # Nothing but a new process helps. The parent sees the death and releases the leases.
        logger.exception("the device failed, leaving the process")
        logging.shutdown()
        os._exit(70)
    if more:
        try:
            publish(settings, queue)
        except BrokerUnavailable:
            logger.warning("no broker: the dispatcher will hint later")


@app.task(name=TASKS[Queue.PREDICT], bind=True)  # type: ignore[untyped-decorator]
def predict(self: Task) -> None:
    _drain(self, Queue.PREDICT)


@app.task(name=TASKS[Queue.EXPLAIN], bind=True)  # type: ignore[untyped-decorator]
def explain(self: Task) -> None:
    _drain(self, Queue.EXPLAIN)


@app.task(name=TASKS[Queue.IO], bind=True)  # type: ignore[untyped-decorator]
def io(self: Task) -> None:
    _drain(self, Queue.IO)
