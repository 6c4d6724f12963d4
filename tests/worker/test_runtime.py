from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.database import Database
from core.errors import FetchFailed
from core.jobs import results
from core.jobs.deliveries import Outcome
from core.jobs.states import DeliveryState, JobState, Queue
from core.jobs.tables import Job, WebhookDelivery
from core.settings import Settings
from tests.core.jobs.steps import RESULT, running, submitted
from worker.runtime import Runtime

Start = Callable[..., Runtime]


@pytest.fixture
def start(sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Workers on a database with three downloads, which fail, and three webhooks, which arrive."""

    def fail(*_: object, **__: object) -> None:
        raise FetchFailed("There is no such picture.")

    monkeypatch.setattr("worker.downloads.fetch", fail)
    monkeypatch.setattr("worker.webhook_sender.WebhookSender._send", lambda *_: Outcome(200, 0.1))
    monkeypatch.setattr("worker.runner.DRAIN_SECONDS", 0)
    for _ in range(3):
        claim = running(sqlite_database, webhook_url="https://example.com/hook")
        with sqlite_database.write() as session:
            assert results.succeed(session, claim, **RESULT)
    for _ in range(3):
        submitted(sqlite_database, url="https://example.com/cat.jpg")
    started = []

    def run(*queues: Queue) -> Runtime:
        started.append(Runtime(Settings(data_dir=tmp_path, engine="stand-in"), queues, "worker"))
        return started[-1]

    yield run
    for runtime in started:
        runtime.stop()


def done(database: Database) -> tuple[int, int]:
    """How many have been downloaded, and sent."""
    downloaded = select(func.count()).where(Job.state == JobState.FAILED)
    sent = select(func.count()).where(WebhookDelivery.state == DeliveryState.DELIVERED)
    with database.read() as session:
        return session.scalars(downloaded).one(), session.scalars(sent).one()


def test_downloads_and_webhooks_leave_a_worker_to_its_other_queues(
    start: Start, sqlite_database: Database
) -> None:
    """When their time is up, each having had some of it; and more of either is told."""
    runtime = start(Queue.PREDICT, Queue.IO)
    for number in (1, 2, 3):
        assert runtime.drain(Queue.IO, "worker/task") is True
        assert done(sqlite_database) == (number, number)
    assert runtime.drain(Queue.IO, "worker/task") is False

    submitted(sqlite_database, url="https://example.com/cat.jpg")
    assert runtime.drain(Queue.IO, "worker/task") is True


def test_a_worker_of_nothing_else_goes_on_to_the_end(start: Start, sqlite_database: Database) -> None:
    assert start(Queue.IO).drain(Queue.IO, "worker/task") is False
    assert done(sqlite_database) == (3, 3)
