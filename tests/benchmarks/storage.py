"""What a job leaves behind: rows and bytes in the database, bytes on Redis. For ``pawlens bench plan``.

Real jobs through the real service; the stand-in engine takes the network's place, since what is kept of a
job does not depend on it. Sizes are those on disk, with all indexes and with what updates have left behind.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import redis
from PIL import Image
from rich.table import Table
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from core.broker import MAX_HINTS, publish
from core.database import Database
from core.explain.methods import METHODS
from core.jobs.states import Queue
from core.jobs.tables import Artifact, Blob, Method
from core.jobs.tables import Table as Tables
from core.settings import Settings
from tests.benchmarks.load import drive
from tests.benchmarks.queue import wait_until_empty
from tests.benchmarks.report import Report
from tests.benchmarks.subject import QUIET, SMALLEST
from tests.chaos.rest import database_of
from tests.databases import postgres_alone
from tests.processes import Service, running

PREDICTIONS, EXPLANATIONS = 1000, 60
# Tables of what jobs are made of; the others (workers, keys, deliveries) do not grow with them.
JOB_TABLES = ("jobs", "images", "methods", "artifacts", "events")
CLIENTS, SECONDS = 50, 8


def run(quick: bool = False) -> Report:
    parts = 4 if quick else 1
    figures: dict[str, Any] = {"databases": {}}
    for kind in ("sqlite", "postgresql"):
        with (
            tempfile.TemporaryDirectory() as folder,
            _url(kind, Path(folder)) as url,
            running(Path(folder), url, "predict", "explain", **QUIET) as service,
        ):
            figures["databases"][kind] = _kept(service, PREDICTIONS // parts, EXPLANATIONS // parts)
            if kind == "sqlite":
                figures |= _broker(service)
                load = drive(service.port, "/v1/jobs", CLIENTS, SECONDS / parts, photos=[SMALLEST], ok=202)
                figures["posts_per_second"] = round(load.rate, 1)
    return Report([_table(figures)], figures)


@contextmanager
def _url(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/pawlens.db"
        return
    with postgres_alone() as server:
        yield server.url(server.create())


def _kept(service: Service, predictions: int, explanations: int) -> dict[str, Any]:
    with database_of(service) as database:
        sizes = [_sizes(database)]
        for count, methods in ((predictions, ""), (explanations, ",".join(METHODS))):
            _post_all(service, count, methods)
            sizes.append(_sizes(database))
        with database.read() as session:
            reused = session.scalar(select(func.count()).select_from(Method).where(Method.cached)) or 0
            artifacts = int(session.scalar(select(func.sum(Artifact.size))) or 0)
            blobs = int(session.scalar(select(func.sum(Blob.size))) or 0)
    before, between, after = sizes
    return {
        "predict": _per_job(before, between, predictions),
        "explain": _per_job(between, after, explanations),
        "artifact_bytes": round(artifacts / explanations),
        "blob_overhead": round((after["blobs"]["bytes"] - before["blobs"]["bytes"]) / blobs, 4),
        "methods_reused": reused,  # kernels, which are the same for all
    }


def _per_job(before: dict[str, Any], after: dict[str, Any], jobs: int) -> dict[str, float]:
    grown = {
        what: sum(after[name][what] - before[name][what] for name in JOB_TABLES) for what in ("rows", "bytes")
    }
    grown["rows"] += after["blobs"]["rows"] - before["blobs"]["rows"]
    return {what: round(value / jobs, 1) for what, value in grown.items()}


def _post_all(service: Service, count: int, methods: str) -> None:
    """Post so many different pictures, and wait until all have ended."""
    data = {"methods": methods} if methods else {}

    def post(number: int) -> None:
        files = {"file": (f"{number}.png", _picture(f"{methods}{number}"))}
        answer = client.post("/v1/jobs", files=files, data=data)
        assert answer.status_code == 202, answer.text

    base = str(service.http.base_url)
    with httpx.Client(base_url=base, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(post, range(count)))
    wait_until_empty(service)


def _picture(seed: str) -> bytes:
    """A PNG that no other has, and that nothing can compress further."""
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 256, (32, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _sizes(database: Database) -> dict[str, dict[str, int]]:
    """Of each table: its rows, and its bytes on disk with all its indexes."""
    found = {}
    with database.read() as session:
        for table in Tables.metadata.sorted_tables:
            rows = session.scalar(select(func.count()).select_from(table)) or 0
            found[table.name] = {"rows": rows, "bytes": _bytes_of(session, table.name)}
    return found


def _bytes_of(session: Session, table: str) -> int:
    if session.get_bind().dialect.name == "sqlite":
        own = "SELECT name FROM sqlite_master WHERE tbl_name = :t"  # the table and its indexes
        query = f"SELECT sum(pgsize) FROM dbstat WHERE name IN ({own})"
    else:
        query = "SELECT pg_total_relation_size(to_regclass(:t))"
    return int(session.scalar(text(query), {"t": table}) or 0)


def _broker(service: Service) -> dict[str, Any]:
    """Bytes of an idle server, and of one hint more. Ends the workers, who would take the hints."""
    for name in ("beat", "predict", "explain"):
        service.terminate(name)
    settings = Settings(data_dir=service.folder)
    client = redis.Redis.from_url(settings.redis)
    idle = int(client.info("memory")["used_memory"])
    publish(settings, Queue.PREDICT, MAX_HINTS)
    full = int(client.info("memory")["used_memory"])
    client.close()
    return {
        "broker_bytes": idle,
        "hint_bytes": round((full - idle) / MAX_HINTS, 1),
        "most_hints": MAX_HINTS * len(Queue),
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table("what", *figures["databases"], title="What a job leaves behind", title_justify="left")
    databases = figures["databases"].values()
    for kind, name in (("predict", "prediction"), ("explain", "explanation, five methods")):
        table.add_row(f"rows, {name}", *(f"{found[kind]['rows']:.1f}" for found in databases))
        table.add_row(f"bytes, {name}", *(f"{found[kind]['bytes']:.0f}" for found in databases))
    table.add_row(
        "bytes on disk for a byte of a picture", *(f"{found['blob_overhead']:.3f}" for found in databases)
    )
    table.caption = (
        f"Redis or Valkey: {figures['broker_bytes'] / 1e6:.1f} MB idle, {figures['hint_bytes']:.0f} bytes a "
        f"hint, {figures['most_hints']} hints at most.\nOne API process, no worker beside it: "
        f"{figures['posts_per_second']:.0f} POSTs a second"
    )
    return table
