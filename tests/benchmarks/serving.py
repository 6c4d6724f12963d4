"""Predictions a second and how long a client waits: Pawlens, and LitServe with the same network.

Both run on this machine, but never at the same time: who is not asked stands still (SIGSTOP). They take
turns, round by round. LitServe does less: it keeps neither picture nor job nor answer, and what it has
accepted is lost with its process. The memory of Pawlens' processes is looked at between the rounds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from core.explain.methods import METHODS
from core.openmp import brief_waiting
from core.vision.precision import MAX_MARGIN_ERROR
from tests.benchmarks import memory, queue, serving_tables
from tests.benchmarks.load import Load, drive
from tests.benchmarks.report import Report
from tests.benchmarks.subject import IN_USE, MANIFEST, QUIET
from tests.processes import PHOTOS, Service, _free_port, eventually, running

CLIENTS = {1: 4.0, 8: 5.0, 64: 10.0}
"""How many, and for how many seconds: many wait for long, and enough of them must be answered."""
MAX_BATCH = 16


@dataclass
class Contestant:
    """One way to ask one server. ``loads``: by number of clients, one for each round."""

    name: str
    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    loads: dict[int, list[Load]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})

    def ask(self, clients: int, seconds: float) -> None:
        self.loads[clients].append(drive(self.port, self.path, clients, seconds, headers=self.headers))

    @property
    def answers(self) -> dict[str, tuple[str, float]]:
        """By photo: label and margin."""
        found = {}
        for load in (load for loads in self.loads.values() for load in loads):
            for photo, answer in load.answers.items():
                shown = answer.get("prediction", answer)
                found[photo] = shown["label"], shown.get("meta", shown)["margin"]
        return found

    def steps(self, clients: int) -> dict[str, float]:
        """Where a job's time goes, in milliseconds: medians of the last jobs of each photo."""
        answers = [answer for load in self.loads[clients] for answer in load.answers.values()]
        timings = [answer["meta"]["timings"] for answer in answers]
        return {
            step: round(median(found[f"{step}_ms"] for found in timings), 1)
            for step in ("queued", "decode", "inference")
        }


def run(quick: bool = False) -> Report:
    rounds, explained, share = (1, 1, 0.6) if quick else (3, 4, 1.0)
    with tempfile.TemporaryDirectory() as folder, _pawlens(Path(folder)) as service, _litserve() as other:
        ours = Contestant("Pawlens, POST /predict", service.port, "/predict")
        jobs = Contestant("Pawlens, jobs, Prefer: wait", service.port, "/v1/jobs", {"Prefer": "wait=60"})
        theirs = Contestant("LitServe", other.port, "/predict")
        own = [process.pid for process in service.processes.values()]
        samples = [memory.sample(service)]
        for _ in range(rounds):
            for clients, seconds in CLIENTS.items():
                with _paused([other.group]):
                    ours.ask(clients, share * seconds)
                    jobs.ask(clients, share * seconds)
                samples.append(memory.sample(service))
                with _paused(own):
                    theirs.ask(clients, share * seconds)
        with _paused([other.group]):
            for photo in PHOTOS[:explained]:
                job = service.wait(service.post(photo, methods=",".join(METHODS))["id"], seconds=600)
                assert job["status"] == "succeeded", job
            samples.append(memory.sample(service))
            remembered = memory.figures(samples, queue.jobs(service), explained)
    ways = {
        way.name: {str(clients): _figures(way.loads[clients]) for clients in CLIENTS}
        for way in (ours, jobs, theirs)
    }
    figures = {
        "clients": ways,
        "steps": {str(clients): ours.steps(clients) for clients in CLIENTS},
        "answers": _compared(ours, theirs),
        "memory": remembered,
    }
    return Report([*serving_tables.tables(figures), memory.table(remembered)], figures)


# ---- the two servers


@contextmanager
def _pawlens(folder: Path) -> Iterator[Service]:
    settings = QUIET | IN_USE | {"threads": os.cpu_count(), "max_batch": MAX_BATCH}
    with running(folder, f"sqlite:///{folder}/pawlens.db", "predict", "explain", "io", **settings) as service:
        yield service


@dataclass(frozen=True)
class Other:
    port: int
    group: int  # of its processes


@contextmanager
def _litserve() -> Iterator[Other]:
    if find_spec("litserve") is None:
        raise RuntimeError("LitServe is not installed: make bench does it, or pip install -e '.[bench]'")
    port = _free_port()
    options = {"port": port, "weights": MANIFEST, "threads": os.cpu_count(), "max-batch": MAX_BATCH}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.litserve_server", *words],
            env=brief_waiting(os.environ),  # as worker.app has it
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            eventually(lambda: _is_up(port), seconds=120, what="LitServe")
            yield Other(port, process.pid)
        except BaseException:
            log.seek(0)
            print("--- LitServe\n", log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def _paused(groups: Sequence[int]) -> Iterator[None]:
    """These process groups stand still for the block."""
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


# ---- figures


def _figures(loads: Sequence[Load]) -> dict[str, Any]:
    """Medians of the rounds, and the rate of each."""
    return {
        "per_second": round(median(load.rate for load in loads), 2),
        "per_second_of_each_round": [round(load.rate, 2) for load in loads],
        "median_ms": round(median(load.percentile(50) for load in loads), 1),
        "p99_ms": round(median(load.percentile(99) for load in loads), 1),
        "answered": sum(len(load.seconds) for load in loads),
    }


def _compared(ours: Contestant, theirs: Contestant) -> dict[str, Any]:
    """Whether both said the same of each photo. In bfloat16 the last digits depend on the batch's size."""
    found, expected = ours.answers, theirs.answers
    photos = sorted(found.keys() & expected.keys())
    return {
        "photos": len(photos),
        "labels_equal": sum(found[photo][0] == expected[photo][0] for photo in photos),
        "max_margin_error": round(max(abs(found[photo][1] - expected[photo][1]) for photo in photos), 6),
        "bound": MAX_MARGIN_ERROR,
    }
