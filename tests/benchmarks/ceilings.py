"""What bounds the service when the network costs nothing: the database alone, and the whole path of a batch.

Rates, statements for each item, and how each step's time grows with the depth of the queue, the number of
workers and the size of a batch, on SQLite and PostgreSQL, both waiting for the disk at each commit. Single
jobs over HTTP are in service.py.
"""

from __future__ import annotations

import io
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from core.database import Database
from tests.benchmarks import ceilings_steps as steps
from tests.benchmarks.report import Report, Times
from tests.benchmarks.subject import QUIET, SMALLEST
from tests.processes import PHOTOS, eventually, running

KINDS = ("sqlite", "postgresql")
ROUNDS = 5
Made = dict[str, Any]


def run(quick: bool = False) -> Report:
    items = 2000 if quick else 5000
    depths = (10, 1000, 100_000) if quick else (10, 1000, 10_000, 100_000, 1_000_000)
    crews = (1, 4) if quick else (1, 2, 4, 8, 16)
    sizes = (1, 100, 1000) if quick else (1, 10, 100, 1000, 10_000)
    figures: dict[str, Made] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name, steps.opened(kind, Path(name)) as new:
            figures[kind] = {
                "single": _way(new(), items, batch=False),
                "batch": _way(new(), items, batch=True),
                "depth": {depth: _at_depth(new(), depth) for depth in depths},
                "workers": {crew: _with_workers(new(), crew, items) for crew in crews},
                "size": {size: _of_size(new(), size) for size in sizes},
                "whole path of a batch": _whole_path(new, 1000 if quick else 2000),
            }
    tables = [_rates(figures), _growth(figures, "depth", "jobs waiting")]
    tables += [_growth(figures, "workers", "workers"), _growth(figures, "size", "items in the batch")]
    return Report([*tables], figures)


def _way(database: Database, items: int, *, batch: bool) -> Made:
    """Items a second, and statements and commits for each, of every step of so many jobs."""
    steps.fill(database, 1)  # with the pictures
    counted, seconds, done = steps.Counted(database), dict.fromkeys(_STEPS, 0.0), dict.fromkeys(_STEPS, 0)
    statements, commits = dict.fromkeys(_STEPS, 0), dict.fromkeys(_STEPS, 0)

    def take(step: str, count: int, work: Callable[[], Any]) -> Any:
        counted.take()
        started = time.perf_counter()
        made = work()
        seconds[step] += time.perf_counter() - started
        done[step] += count
        executed, committed = counted.take()
        statements[step] += executed
        commits[step] += committed
        return made

    group = 1000 if batch else steps.GROUP
    for _ in range(items // group):
        if batch:
            take("post", group, lambda: steps.post_batch(database, group))
        else:
            take("post", group, lambda: steps.post(database))
    while held := take("claim", 0, lambda: steps.claim(database)):
        done["claim"] += len(held)
        take("finish", len(held), partial(steps.finish, database, held))
    return {
        step: {
            "per_second": round(done[step] / seconds[step]),
            "statements": round(statements[step] / done[step], 3),
            "commits": round(commits[step] / done[step], 3),
        }
        for step in _STEPS
    } | {"all_per_second": round(1 / sum(seconds[step] / done[step] for step in _STEPS))}


_STEPS = ("post", "claim", "finish")


def _at_depth(database: Database, depth: int) -> dict[str, float]:
    """Least milliseconds of each step with so many jobs waiting."""
    steps.fill(database, depth)
    times: dict[str, Times] = {}

    def take(name: str, work: Callable[[], Any]) -> Any:
        return times.setdefault(name, Times()).take(work)

    for _ in range(ROUNDS):
        take(f"{steps.GROUP} posted together", lambda: steps.post(database))
        take("1 posted", lambda: steps.post(database, 1))
        for name, read in steps.reads(database, steps.newest_job(database)).items():
            take(name, read)
        held = take(f"claim of {steps.CLAIM}", lambda: steps.claim(database))
        take("their heartbeat", partial(steps.beat, database, held))
        take("their results", partial(steps.finish, database, held))
    return {name: round(found.least * 1000, 2) for name, found in times.items()}


def _with_workers(database: Database, workers: int, items: int) -> dict[str, float]:
    steps.fill(database, items)
    seconds, done = steps.drain_with(database, workers)
    assert done == items  # each once
    return {"claimed and finished a second": round(done / seconds)}


def _of_size(database: Database, size: int) -> dict[str, float]:
    """Milliseconds for each item."""
    steps.fill(database, 1)
    steps.finish(database, steps.claim(database))
    creating, ending = Times(), Times()
    creating.take(lambda: steps.post_batch(database, size), parts=1000 / size)

    def work() -> None:
        while held := steps.claim(database):
            steps.finish(database, held)

    ending.take(work, parts=1000 / size)
    return {
        "made, ms an item": round(creating.least, 3),
        "claimed and finished, ms an item": round(ending.least, 3),
    }


def _whole_path(new: Callable[[], Database], items: int) -> float:
    """Items a second, from the POST of an archive of so many different pictures to the end of its batch."""
    url = new().engine.url.render_as_string(hide_password=False)
    photo = PHOTOS[SMALLEST].read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(items):  # bytes behind the end of a JPEG make it another picture
            packed.writestr(f"{number}.jpg", photo + b"%d" % number)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), url, "predict", **QUIET) as service,
    ):
        started = time.perf_counter()
        files = {"archive": ("photos.zip", archive.getvalue())}
        answer = service.http.post("/v1/batches", files=files, timeout=300)
        assert answer.status_code == 202, answer.text
        link = f"/v1/batches/{answer.json()['id']}"
        batch = eventually(
            lambda: (found := service.http.get(link).json())["status"] != "running" and found,
            seconds=300,
            what="the end of the batch",
        )
        seconds = time.perf_counter() - started
    assert batch["counts"]["succeeded"] == items, batch["counts"]
    return round(items / seconds, 1)


def _rates(figures: dict[str, Made]) -> Table:
    table = Table("database", "jobs", title="Items a second, and statements and commits for each")
    for step in (*_STEPS, "all three"):
        table.add_column(step, justify="right")
    for kind, found in figures.items():
        for jobs in ("single", "batch"):
            cells = [
                f"{found[jobs][step]['per_second']} ({found[jobs][step]['statements']:g}"
                f" + {found[jobs][step]['commits']:g})"
                for step in _STEPS
            ]
            table.add_row(kind, jobs, *cells, str(found[jobs]["all_per_second"]))
    paths = ", ".join(f"{kind} {found['whole path of a batch']:.0f}" for kind, found in figures.items())
    table.caption = f"whole path of a batch, from the POST of its archive to its end, items a second: {paths}"
    return table


def _growth(figures: dict[str, Made], what: str, unit: str) -> Table:
    amounts = list(figures[KINDS[0]][what])
    title = f"By {unit}" + (", milliseconds, least of several" if what == "depth" else "")
    table = Table("step", "database", title=title)
    for amount in amounts:
        table.add_column(f"{amount:,}", justify="right")
    for step in figures[KINDS[0]][what][amounts[0]]:
        for kind in KINDS:
            table.add_row(step, kind, *(f"{figures[kind][what][amount][step]:g}" for amount in amounts))
    return table
