"""How long a start takes: of the network in a worker, and of the whole service.

A worker's is from the end of its imports to its first prediction: at its very first start, when the weights'
check in bfloat16 is still to be made, and at the next, when the verdict is remembered in the data directory.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from core.openmp import brief_waiting
from tests.benchmarks.report import Report
from tests.processes import PHOTOS

_WORKER = """
import json, sys, time
begun = time.perf_counter()
import torch
import core.explain.run
from core.settings import Settings
from worker.engines import load
imported = time.perf_counter()
engine, _ = load(Settings(), explains=False)
loaded = time.perf_counter()
engine.predict([engine.prepare(open(sys.argv[1], "rb").read())])
ended = time.perf_counter()
print(json.dumps({"import": imported - begun, "load": loaded - imported, "first prediction": ended - loaded}))
"""


def run(quick: bool = False) -> Report:
    rounds = 1 if quick else 2
    worker: dict[str, list[dict[str, float]]] = {"first": [], "next": []}
    service: dict[str, list[float]] = {"first": [], "next": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for found in worker.values():
                found.append(_worker(Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            for taken in service.values():
                taken.append(_up(Path(folder)))
    figures = {"worker": worker, "service": service, "seconds": _seconds(worker)}
    return Report([_table(figures)], figures)


def _environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_")}
    return own | more


def _worker(folder: Path) -> dict[str, float]:
    """Seconds of each step, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(PHOTOS[0])],
        env=brief_waiting(_environment(PAWLENS_DATA_DIR=str(folder))),
        stdout=subprocess.PIPE,
        check=True,
    )
    return {name: round(seconds, 3) for name, seconds in json.loads(done.stdout).items()}


def _up(folder: Path) -> float:
    """Seconds from ``pawlens up`` until it says that it is ready, all workers included."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "up", "--port", "0", "--data", str(folder)],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if re.search(r"ready at http", line):
                return round(time.perf_counter() - started, 2)
        raise AssertionError(f"pawlens up stopped:\n{said}")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def _seconds(worker: dict[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    """From the end of the imports to the first prediction, in each round."""
    return {
        start: [round(one["load"] + one["first prediction"], 3) for one in found]
        for start, found in worker.items()
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table("what", "first start, s", "next start, s", title="Start", title_justify="left")
    worker = figures["worker"]
    for step in worker["first"][0]:
        medians = (statistics.median(one[step] for one in worker[start]) for start in worker)
        table.add_row(f"worker: {step}", *(f"{seconds:.2f}" for seconds in medians))
    table.add_row(
        "worker: imported to first prediction",
        *(f"{statistics.median(found):.2f}" for found in figures["seconds"].values()),
    )
    table.add_row(
        "pawlens up: to ready, all workers",
        *(f"{statistics.median(found):.1f}" for found in figures["service"].values()),
    )
    return table
