"""The processes that a service consists of: their commands, their environment, their time to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.jobs.states import Queue
from core.settings import ROOT, Settings
from worker.processes import Program

API_STOP_SECONDS = 12.0  # it cuts what is not answered within 10 s
GRACE_SECONDS = 5.0  # for a worker, beyond the time in which it ends by itself


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of every process of the service: ours, with the settings we have resolved.

    Processes of the service run in :data:`~core.settings.ROOT`, because Celery looks for modules in the
    working directory first, and a folder called ``worker`` is not rare. So nothing here may be a relative
    path.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_WORKER_")}
    environment = ours | settings.as_environment() | {"PAWLENS_DATABASE_URL": _absolute(settings.database)}
    if config := os.environ.get("PAWLENS_CONFIG"):
        environment["PAWLENS_CONFIG"] = str(Path(config).resolve())
    return environment


def _absolute(database_url: str) -> str:
    scheme, _, path = database_url.partition(":///")
    if not scheme.startswith("sqlite") or not path or path.startswith((":memory:", "file:")):
        return database_url
    return f"{scheme}:///{Path(path).resolve()}"


def command(*arguments: str) -> list[str]:
    """``pawlens`` with these arguments, by this very interpreter."""
    return [sys.executable, "-m", "api.cli", *arguments]


def celery_worker(
    settings: Settings, queues: Sequence[str], name: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """The command of a worker of these queues, and what it needs in its environment."""
    # The network runs in one child process, which may crash alone; downloads wait side by side in threads.
    pool = ["prefork", "1"]
    if list(queues) == [Queue.IO]:
        # Enough for both, so that receivers that hang in all places for webhooks take none from downloads.
        pool = ["threads", str(settings.fetch_concurrency + settings.webhook_concurrency)]
    arguments = [
        *("celery", "--quiet", "-A", "worker.app", "worker", "-Q", ",".join(queues)),
        *("-n", f"{name or '-'.join(queues)}@%h", "--pool", pool[0], "--concurrency", pool[1]),
        *("--without-gossip", "--without-mingle"),
    ]
    return [sys.executable, "-m", *arguments], {"PAWLENS_WORKER_QUEUE": ",".join(queues)}


def role(settings: Settings, name: str, *arguments: str, pass_fds: Sequence[int] = ()) -> Program:
    """The part of the service that ``pawlens`` with these arguments is."""
    stop_seconds = 10.0
    program, environment = command(*arguments), child_environment(settings)
    if name in list(Queue):
        # At once, without the command line, which would take a third of a second to become just this.
        program, more = celery_worker(settings, [name])
        environment |= more
        stop_seconds = settings.stop_seconds + GRACE_SECONDS
    elif name == "api":
        stop_seconds = API_STOP_SECONDS
    return Program(
        name=name,
        command=program,
        log=settings.data_dir / "logs" / f"{name}.log",
        cwd=ROOT,
        environment=environment,
        stop_seconds=stop_seconds,
        pass_fds=pass_fds,
    )
