"""The real application behind a real server on loopback, over a real database.

==============  ====================================================================================
``api``         the test runs on SQLite and on PostgreSQL
``sqlite_api``  on SQLite alone, for what has nothing to do with the database
==============  ====================================================================================

A server serves one module; each test finds it without jobs. :func:`serving` makes one with other settings.
Redis is not there unless a test starts it, and jobs run when a test says so.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, func, select

from api.app import create_app
from api.server import Server
from core.database import Database
from core.jobs.states import Queue
from core.jobs.tables import Job, Table
from core.logs import JsonFormatter
from core.settings import Settings
from tests.databases import PostgresServer
from tests.processes import eventually
from worker.preflight import listen
from worker.runtime import Runtime

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.jpg"))
PHOTO = EXAMPLES[0].read_bytes()  # 500 x 333 pixels
PUBLIC_URL = "https://pictures.example.com/cat.jpg"  # never asked for: nobody downloads in these tests


class Lines(logging.Handler):
    """What the service logs, as the objects that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("test"))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


class Api:
    def __init__(self, app: FastAPI, settings: Settings, address: tuple[str, int], lines: Lines) -> None:
        self.app = app
        self.settings = settings
        self.address = address
        self.http = httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=60)
        self.database = Database(settings.database, pool_size=2)
        self._lines = lines
        self._runtime: Runtime | None = None

    def post(self, data: bytes = PHOTO, name: str = "cat.jpg", **fields: str) -> dict[str, Any]:
        """An accepted job."""
        answer = self.http.post("/v1/jobs", files={"file": (name, data)}, data=fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def post_url(self, url: str = PUBLIC_URL, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/jobs", json={"image": {"url": url}, **fields})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    @property
    def runtime(self) -> Runtime:
        """A worker of this process, with the stand-in engine."""
        if self._runtime is None:
            self._runtime = Runtime(self.settings, [Queue.PREDICT], "worker")
        return self._runtime

    def work(self) -> None:
        """Run all jobs that are ready."""
        self.runtime.drain(Queue.PREDICT, "worker/task")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run jobs as they come while the block runs."""
        runtime, done = self.runtime, threading.Event()

        def run() -> None:
            while not done.wait(0.01):
                runtime.drain(Queue.PREDICT, "worker/task")

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def count_jobs(self) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(Job)) or 0

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """The log's lines that have these fields."""
        return [line for line in self._lines.lines if fields.items() <= line.items()]

    def line(self, **fields: Any) -> dict[str, Any]:
        """The one such line; a request is logged when its answer has been sent, so it may take a moment."""
        (line,) = eventually(lambda: self.lines(**fields), what=f"a line with {fields}")
        return dict(line)

    def connect(self) -> socket.socket:
        """A raw connection, for what no client library would send."""
        return socket.create_connection(self.address, timeout=30)

    def clear(self) -> None:
        with self.database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(delete(table))
        self._lines.lines.clear()

    def close(self) -> None:
        self.http.close()
        if self._runtime is not None:
            self._runtime.stop()
        self.database.dispose()


@contextmanager
def serving(settings: Settings, *, stop_seconds: int = 1) -> Iterator[Api]:
    """The application with these settings while the block runs, served as ``pawlens api`` does."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    app = create_app(settings)
    lines = Lines()
    root.handlers[:] = [*before[1], lines]
    server = Server(app, max_connections=settings.max_connections, stop_seconds=stop_seconds)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        api = Api(app, settings, listener.getsockname(), lines)
        try:
            yield api
        finally:
            api.close()
            server.should_exit = True
            thread.join()
            root.level, root.handlers[:] = before


def settings_for(database_url: str, folder: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {"engine": "stand-in", "threads": 1, "retry_seconds": 0, "log_level": "DEBUG"}
    return Settings(database_url=database_url, data_dir=folder, **values | changes)


LIMITS = {"max_image_bytes": 1 << 20, "max_body_bytes": 2 << 20}


@contextmanager
def served_over_sqlite(template: Path, folder: Path) -> Iterator[Api]:
    shutil.copy(template, folder / "pawlens.db")
    with serving(settings_for("", folder, **LIMITS)) as running:
        yield running


@pytest.fixture(scope="module")
def sqlite_server(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with served_over_sqlite(migrated_sqlite_file, tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with served_over_sqlite(request.getfixturevalue("migrated_sqlite_file"), folder) as running:
            yield running
        return
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    name = postgres.create()
    with serving(settings_for(postgres.url(name), folder, **LIMITS)) as running:
        yield running
    postgres.drop(name)


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    yield server
    server.clear()


@pytest.fixture
def sqlite_api(sqlite_server: Api) -> Iterator[Api]:
    yield sqlite_server
    sqlite_server.clear()


def assert_problem(answer: httpx.Response, status: int, code: str | None = None, detail: str = "") -> None:
    """A problem document (RFC 9457) that says what was wrong, in this application's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:pawlens:problem:{problem['code']}"
    assert problem["title"]
    assert problem["instance"] == answer.request.url.path
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    assert len(problem["detail"]) > 10, "a detail that helps"
    assert len(answer.content) < 20_000, "an answer that does not grow with the request"
    assert float(answer.headers["x-process-time-ms"]) >= 0
    if code is not None:
        assert problem["code"] == code
    assert detail in problem["detail"]
