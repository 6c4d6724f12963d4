"""A bulk of photos through the whole service, against the bare network at its best batch.

Three figures, because there are three questions. While the batch runs: what the worker leaves to the network.
As one batch: from the beginning of the upload to the last row of the results; nothing runs before all is
uploaded. In parts: as several batches, of which the next is uploaded while the last one runs.

All share the same processors. What decoding, the database and the API need of them, the network cannot have,
unless it falls into its own pauses: so the processors' time of each part is shown, and what it leaves.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from core.vision.manifest import read_manifest
from tests.benchmarks import bulk_tables
from tests.benchmarks.bulk_figures import arithmetic, ratios
from tests.benchmarks.memory import family
from tests.benchmarks.report import Report
from tests.benchmarks.subject import COMPARED_AT, IN_USE, weights_at
from tests.benchmarks.timeline import Batch, batches_of, timeline
from tests.chaos.rest import lines
from tests.processes import PHOTOS, Service, running

PARTS = 4
BATCHES, GPU_BATCHES = (8, 16, 32), (32, 64, 128, 256)
"""Tried of the bare network, which then has the fastest."""
BARE_BATCHES = 4
"""At a time; before and after each round, since a machine's speed changes within minutes."""
SECONDS = 3.0
LEAST, MOST = 64, 2048
"""Pictures in a bulk, for which the bare network takes about so long."""


def run(quick: bool = False) -> Report:
    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_at(Path(folder), COMPARED_AT)
        with bare_network(weights) as bare:
            figures = _measure(Path(folder) / "service", weights, bare, rounds)
    figures |= {"ratios": ratios(figures), "arithmetic": arithmetic(figures)}
    return Report(bulk_tables.tables(figures), figures)


# ---- the bare network


@contextmanager
def bare_network(weights: Path) -> Iterator[ProcessPoolExecutor]:
    """A process of its own, whose threads wait for each other as OpenMP has it by default: keeping their
    processor. Alone on a machine that is the fastest; a worker, which never is, has them wait briefly
    (core.openmp).
    """
    with ProcessPoolExecutor(1, get_context("spawn"), _load, (weights,)) as process:
        yield process


_engine: Any = None
_prepared: list[Any] = []


def _load(weights: Path) -> None:
    global _engine  # noqa: PLW0603 - what this process is there for
    from core.vision.engine import Engine

    _engine = Engine(weights)
    _prepared.extend(_engine.prepare(photo.read_bytes()) for photo in PHOTOS)


def _compute(size: int) -> dict[str, float]:
    """Pictures a second in batches of ``size``."""
    _engine.max_batch = size
    batch = [_prepared[i % len(_prepared)] for i in range(size)]
    _engine.predict(batch)
    began = time.monotonic()
    for _ in range(BARE_BATCHES):
        _engine.predict(batch)
    return {"rate": BARE_BATCHES * size / (time.monotonic() - began)}


def _device() -> tuple[str, str]:
    """Its type and its name."""
    return _engine.device.type, _engine.report["device_name"]


def _decode() -> float:
    """Seconds of a processor to decode and scale a photo."""
    used = time.process_time()
    for photo in PHOTOS:
        _engine.prepare(photo.read_bytes())
    return (time.process_time() - used) / len(PHOTOS)


def _predict() -> list[dict[str, Any]]:
    return [prediction.shown() for prediction in _engine.predict(_prepared)]


# ---- the service


def _measure(folder: Path, weights: Path, bare: ProcessPoolExecutor, rounds: int) -> dict[str, Any]:
    folder.mkdir()
    settings = IN_USE | {"weights": weights, "threads": os.cpu_count()}
    found: list[dict[str, Any]] = []
    device, device_name = bare.submit(_device).result()
    sizes = GPU_BATCHES if device == "cuda" else BATCHES
    by_batch = {size: bare.submit(_compute, size).result()["rate"] for size in sizes}
    best = max(by_batch, key=lambda size: by_batch[size])
    pictures = LEAST * round(min(MOST, max(LEAST, SECONDS * by_batch[best])) / LEAST)
    expected = bare.submit(_predict).result()
    with running(folder, f"sqlite:///{folder}/pawlens.db", "predict", **settings) as service:
        for number in range(rounds):
            speeds = [bare.submit(_compute, best).result()]
            whole = _bulk(service, 2 * number, pictures, expected)
            speeds.append(bare.submit(_compute, best).result())
            parts = _in_parts(service, 2 * number + 1, pictures)
            speeds.append(bare.submit(_compute, best).result())
            found.append({"bare": speeds, "whole": whole, "parts": parts})
        return {
            "size": read_manifest(weights).input.size,
            "device": device_name,
            "pictures": pictures,
            "processors": os.cpu_count(),
            "bare_by_batch": by_batch,
            "best_batch": best,
            "decode": bare.submit(_decode).result(),
            "memory": {name: _memory(process.pid) for name, process in service.processes.items()},
            "rounds": found,
        }


def _bulk(service: Service, number: int, pictures: int, expected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch from its upload to its results, which are looked at."""
    files, used, began = _files(number, pictures), _processors(service), time.monotonic()
    batch = _post(service, files)
    accepted, used_by_upload = time.monotonic(), _processors(service)
    _wait(service, batch)
    ended, used_in_all = time.monotonic(), _processors(service)
    rows = service.http.get(f"{batch['links']['self']}/results?format=jsonl", timeout=60).text.splitlines()
    downloaded = time.monotonic()
    under_way = _batches(service, accepted, ended)
    return {
        "seconds": {
            "upload": accepted - began,
            "run": ended - accepted,
            "download": downloaded - ended,
            "all": downloaded - began,
        },
        "processor": {
            "upload": _difference(used_by_upload, used, pictures),
            "run": _difference(used_in_all, used_by_upload, pictures),
        },
        "timeline": timeline(under_way, accepted, ended),
        "farthest_score": _compare(rows, expected, pictures),
    }


def _in_parts(service: Service, number: int, pictures: int) -> dict[str, Any]:
    """As many pictures in several batches, one uploaded after the other while the worker runs."""
    files, size, began = _files(number, pictures), pictures // PARTS, time.monotonic()
    batches = [_post(service, files[part * size : (part + 1) * size]) for part in range(PARTS)]
    uploaded = time.monotonic()
    for batch in batches:
        _wait(service, batch)
    for batch in batches:
        service.http.get(f"{batch['links']['self']}/results?format=jsonl", timeout=60).raise_for_status()
    ended = time.monotonic()
    return {"seconds": {"upload": uploaded - began, "all": ended - began}}


def _files(number: int, pictures: int) -> list[tuple[str, tuple[str, bytes, str]]]:
    """As many different files, by a comment behind the first marker of a JPEG (ITU-T T.81, B.2.4.5)."""
    data = [photo.read_bytes() for photo in PHOTOS]
    files = []
    for i in range(pictures):
        whole, comment = data[i % len(data)], f"{number}/{i}".encode()
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        files.append(("files", (f"{i}.jpg", whole[:2] + segment + whole[2:], "image/jpeg")))
    return files


def _post(service: Service, files: list[tuple[str, tuple[str, bytes, str]]]) -> dict[str, Any]:
    answer = service.http.post("/v1/batches", files=files, timeout=300)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def _wait(service: Service, batch: dict[str, Any]) -> None:
    while True:
        now = service.http.get(batch["links"]["self"], params={"wait": 60}, timeout=90).json()
        if now["status"] != "running":
            assert now["counts"]["succeeded"] == now["total"], now
            return


def _compare(rows: Sequence[str], expected: Sequence[dict[str, Any]], pictures: int) -> float:
    """The largest difference of a score from what the bare network says of the photo in another batch."""
    assert len(rows) == pictures
    farthest = 0.0
    for row in map(json.loads, rows):
        scores = expected[row["index"] % len(expected)]["scores"]
        given = row["prediction"]["scores"]
        farthest = max(farthest, *(abs(given[label] - score) for label, score in scores.items()))
    return farthest


def _batches(service: Service, begin: float, end: float) -> list[Batch]:
    """Those that the worker has logged, and of which something lies within this time."""
    return batches_of((line["steps"] for line in lines(service, "predict", "batch run")), begin, end)


def _processors(service: Service) -> dict[str, float]:
    """The processors' seconds that each part of the service has used so far."""
    return {name: _family_seconds(process.pid) for name, process in service.processes.items()}


def _family_seconds(pid: int) -> float:
    seconds = 0.0
    for process in family(pid):
        times = process.cpu_times()
        seconds += times.user + times.system
    return seconds


def _memory(pid: int) -> list[int]:
    """Resident bytes of the process and of each of its children."""
    return [process.memory_info().rss for process in family(pid)]


def _difference(after: dict[str, float], before: dict[str, float], pictures: int) -> dict[str, float]:
    """For each picture."""
    return {name: (after[name] - before[name]) / pictures for name in after}
