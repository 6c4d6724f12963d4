"""The processes that a service consists of: their commands, their environment, their time to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.jobs.states import Queue
from core.settings import ROOT, Settings
from worker.processes import Program

API_STOP_SECONDS = 12.0  # it closes open streams within 10 s
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


def role(settings: Settings, name: str, *arguments: str, pass_fds: Sequence[int] = ()) -> Program:
    """The part of the service that ``pawlens`` with these arguments is."""
    stop_seconds = 10.0
    if name in list(Queue):
        stop_seconds = settings.stop_seconds + GRACE_SECONDS
    elif name == "api":
        stop_seconds = API_STOP_SECONDS
    return Program(
        name=name,
        command=command(*arguments),
        log=settings.data_dir / "logs" / f"{name}.log",
        cwd=ROOT,
        environment=child_environment(settings),
        stop_seconds=stop_seconds,
        pass_fds=pass_fds,
    )
