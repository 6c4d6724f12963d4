"""What the service itself costs, with the stand-in engine in place of the network."""

from __future__ import annotations

import http.client
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.table import Table

from tests.processes import PHOTOS, Service, eventually, running

CLIENTS = 50
SECONDS = 10


def run() -> Table:
    table = Table("what", "figure", title="Service, stand-in engine, SQLite", title_justify="left")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"lease_seconds": 60, "heartbeat_seconds": 15, "log_level": "WARNING"}
        with running(Path(folder), f"sqlite:///{folder}/pawlens.db", "predict", **settings) as service:
            alone = _post_repeatedly(service.port, 1)
            together = _post_from_processes(service.port)
            started = time.perf_counter()
            eventually(lambda: _waiting(service) == 0, seconds=300, what="an empty queue")
            behind = time.perf_counter() - started
            table.add_row("POST to 202, one client, median", f"{statistics.median(alone) * 1000:.1f} ms")
            table.add_row(f"POST to 202, {CLIENTS} clients, median", f"{_percentile(together, 50):.0f} ms")
            table.add_row(f"POST to 202, {CLIENTS} clients, p99", f"{_percentile(together, 99):.0f} ms")
            table.add_row(f"POSTs a second, {CLIENTS} clients", f"{len(together) / SECONDS:.0f}")
            table.add_row("the queue was empty after the last POST in", f"{behind:.1f} s")
    return table


def _post_from_processes(port: int, processes: int = 2) -> list[float]:
    # One process of clients would be slower than the server that it measures.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        parts = pool.starmap(_post_repeatedly, [(port, CLIENTS // processes)] * processes)
    return [seconds for part in parts for seconds in part]


def _post_repeatedly(port: int, clients: int) -> list[float]:
    """Seconds of each POST by so many clients at once, each posting again as soon as it has its answer."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(clients) as pool:
        return [seconds for part in pool.map(_client, [port] * clients) for seconds in part]


def _client(port: int) -> list[float]:
    # Prepared once and sent by the plainest client: a comfortable one would cost as much as the server does.
    data = min(PHOTOS, key=lambda photo: photo.stat().st_size).read_bytes()
    request = httpx.Request("POST", "http://127.0.0.1/v1/jobs", files={"file": ("photo.jpg", data)})
    body, kind = request.read(), {"Content-Type": request.headers["content-type"]}
    taken = []
    deadline = time.perf_counter() + SECONDS
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while (started := time.perf_counter()) < deadline:
        connection.request("POST", "/v1/jobs", body, kind)
        answer = connection.getresponse()
        answered = answer.read()
        assert answer.status == 202, answered
        taken.append(time.perf_counter() - started)
    connection.close()
    return taken


def _waiting(service: Service) -> int:
    queues = service.http.get("/v1/queue").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)


def _percentile(seconds: Sequence[float], percent: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000
