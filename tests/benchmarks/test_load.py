"""The clients, against a server that keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.benchmarks import load
from tests.benchmarks.load import Load, drive
from tests.processes import PHOTOS


class Receiver(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.status = 200


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers.items()))
        time.sleep(0.05)
        with self.server.lock:
            self.server.now -= 1
        answer = json.dumps({"path": self.path}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(load, "WARM_SECONDS", 0.0)
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_as_many_at_once_as_there_are_clients_and_every_picture_is_new(receiver: Receiver) -> None:
    found = drive(receiver.server_port, "/there", 5, 0.5, headers={"Prefer": "wait=9"}, photos=[0, 1])
    assert receiver.most == 5
    assert len(set(receiver.bodies)) == len(receiver.bodies) >= len(found.seconds) > 0
    photos = [PHOTOS[number].read_bytes() for number in (0, 1)]
    assert all(any(photo in body for photo in photos) for body in receiver.bodies)
    assert all(headers["Prefer"] == "wait=9" for headers in receiver.headers)
    assert set(found.answers) <= {PHOTOS[0].stem, PHOTOS[1].stem}
    assert found.answers[PHOTOS[0].stem] == {"path": "/there"}
    assert min(found.seconds) >= 0.05


def test_at_a_given_rate_a_request_that_had_to_wait_for_its_turn_is_late(receiver: Receiver) -> None:
    few = drive(receiver.server_port, "/", 4, 1.0, per_second=20)
    assert 15 < len(few.seconds) <= 21
    assert few.percentile(50) < 150
    many = drive(receiver.server_port, "/", 1, 1.0, per_second=100)  # of which it can answer 20
    assert many.rate < 21
    assert many.percentile(50) > 350  # the tenth is due after 0.1 s and answered after 0.5 s


def test_another_answer_than_expected_is_an_error(receiver: Receiver) -> None:
    receiver.status = 503
    with pytest.raises(AssertionError, match="503"):
        drive(receiver.server_port, "/", 1, 0.2)


def test_rate_and_percentiles() -> None:
    found = Load(window=10.0, seconds=[0.1] * 99 + [1.1])
    assert found.rate == 10
    assert found.percentile(50) == pytest.approx(100)
    assert 100 < found.percentile(99) < 1100
    assert Load(1.0, seconds=[0.5]).percentile(99) == 500
