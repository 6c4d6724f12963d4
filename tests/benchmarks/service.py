"""What the service itself costs, with the stand-in engine in place of the network, on SQLite."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks import queue
from tests.benchmarks.load import Load, drive
from tests.benchmarks.report import Report
from tests.benchmarks.subject import QUIET, SMALLEST
from tests.processes import Service, running

CLIENTS = 50
GOAL = 500.0
"""Posts a second that are to be taken; more are only asked for where the clients do not wait for a turn."""
AT_GOAL = f"beside a worker, asked for {GOAL:g} a second"


def run(quick: bool = False) -> Report:
    seconds = 4 if quick else 10
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), f"sqlite:///{folder}/pawlens.db", "predict", **QUIET) as service,
    ):
        one = _post(service, 1, seconds)
        queue.wait_until_empty(service)
        paced = _post(service, CLIENTS, seconds, GOAL)
        queue.wait_until_empty(service)
        before = queue.jobs(service)
        beside = _post(service, CLIENTS, seconds)
        queue.wait_until_empty(service)
        items = (queue.jobs(service) - before) / (time.monotonic() - beside.began)
        worker = service.processes["predict"].pid
        os.killpg(worker, signal.SIGSTOP)
        alone = _post(service, CLIENTS, seconds)
        os.killpg(worker, signal.SIGCONT)
    figures = {
        "clients": CLIENTS,
        "posts": {
            "one client": _figures(one),
            AT_GOAL: _figures(paced),
            "beside a worker": _figures(beside),
            "no worker running": _figures(alone),
        },
        "items_per_second": round(items, 1),
    }
    return Report([_table(figures)], figures)


def _post(service: Service, clients: int, seconds: float, per_second: float | None = None) -> Load:
    return drive(service.port, "/v1/jobs", clients, seconds, photos=[SMALLEST], ok=202, per_second=per_second)


def _figures(load: Load) -> dict[str, float]:
    return {
        "per_second": round(load.rate, 1),
        "median_ms": round(load.percentile(50), 2),
        "p99_ms": round(load.percentile(99), 2),
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table("POST to 202", "a second", "median, ms", "p99, ms", title_justify="left")
    table.title = f"Service, stand-in engine, SQLite; {CLIENTS} clients where not said otherwise"
    for name, found in figures["posts"].items():
        rate, *rest = found.values()
        table.add_row(name, f"{rate:.0f}", *(f"{milliseconds:.1f}" for milliseconds in rest))
    table.caption = (
        f"{figures['items_per_second']:.0f} items a second from the first POST to the end of the last job"
    )
    return table
