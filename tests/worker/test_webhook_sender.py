"""Deliveries to real receivers on loopback: good ones, slow ones, rude ones and absent ones."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook, WebhookVerificationError

from core.broker import BrokerUnavailable
from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs import deliveries, delivery_log, results, webhook_secrets, webhooks
from core.jobs.delivery_log import DeliveryRecord
from core.jobs.signatures import new_secret
from core.jobs.states import DeliveryState, Queue
from core.jobs.tables import WebhookDelivery, WebhookEndpoint
from core.settings import Settings
from tests.core.jobs.steps import RESULT, running
from tests.processes import eventually
from worker.origins import origin
from worker.webhook_sender import MAX_ANSWER_BYTES, WebhookSender
from worker.writing import write_outcome

Answer = Callable[["Handler"], None]


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent and answers each path by its script, 200 where there is none."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.closing = threading.Event()
        self.underway = self.most_underway = 0
        self.lock = threading.Lock()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.received.append((self.path, headers, body))
            self.server.underway += 1
            self.server.most_underway = max(self.server.most_underway, self.server.underway)
        try:
            self.server.answers.get(self.path, status(200))(self)
        except ConnectionError:
            pass  # a sender that has seen enough hangs up
        finally:
            with self.server.lock:
                self.server.underway -= 1

    def log_message(self, *_: Any) -> None:
        pass


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    return answer


def hang(handler: Handler) -> None:
    handler.server.closing.wait()


def a_byte_at_a_time(handler: Handler, code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b".")


def a_failure_a_byte_at_a_time(handler: Handler) -> None:
    a_byte_at_a_time(handler, 500)


def breaks_off(handler: Handler) -> None:
    handler.send_response(202)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()


def a_status_line_at_a_time(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 ")
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b"O")


def without_end(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.closing.is_set():
        handler.wfile.write(b"x" * MAX_ANSWER_BYTES)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


class Desk:
    """A sender on a database."""

    def __init__(self, database: Database, folder: Path, **settings: Any) -> None:
        self.database = database
        self.stopping = threading.Event()
        values = {"allow_private_network": True, "webhook_timeout_seconds": 1} | settings
        self.settings = Settings(data_dir=folder, **values)
        self.sender = WebhookSender(self.settings, database, self.stopping)

    def end_job(self, url: str | None = None, **wishes: Any) -> str:
        """A job that has just ended; the id of its one delivery."""
        claim = running(self.database, webhook_url=url, **wishes)
        with self.database.write() as session:
            assert results.succeed(session, claim, **RESULT)
            made = select(WebhookDelivery.id).where(WebhookDelivery.subject_id == claim.job_id)
            return session.scalars(made).one()

    def register(self, url: str) -> WebhookEndpoint:
        with self.database.write() as session:
            return webhooks.create_endpoint(session, url, owner=None)

    def record(self, delivery_id: str) -> DeliveryRecord:
        with self.database.read() as session:
            return delivery_log.get_delivery(session, delivery_id)

    def state(self, delivery_id: str) -> DeliveryState:
        return self.record(delivery_id).delivery.state

    def attempt(self, delivery_id: str) -> tuple[int | None, str | None]:
        """Status and error of the newest attempt."""
        newest = self.record(delivery_id).attempts[-1]
        return newest.status_code, newest.error

    def drain(self, **limits: float) -> bool:
        return self.sender.drain(**limits)

    def drain_when_due(self) -> None:
        with self.database.write() as session:
            session.execute(update(WebhookDelivery).values(next_attempt_at=db_now(-1)))
        self.drain()

    def secret(self) -> str:
        with self.database.write() as session:
            return webhook_secrets.own_secret(session, None).secret


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path)


@pytest.fixture
def quick(sqlite_database: Database, tmp_path: Path) -> Desk:
    """On one database, for what has to do with receivers alone."""
    return Desk(sqlite_database, tmp_path)


def test_what_arrives_is_verified_by_the_reference_implementation(desk: Desk, receiver: Receiver) -> None:
    delivery_id = desk.end_job(receiver.url())
    desk.drain()
    ((path, headers, body),) = receiver.received
    assert path == "/hook"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("Pawlens/")
    assert headers["webhook-id"] == delivery_id
    payload = Webhook(desk.secret()).verify(body, headers)
    assert body.decode() == desk.record(delivery_id).delivery.payload
    assert payload["type"] == "job.succeeded"
    assert payload["data"]["sequence"] == desk.record(delivery_id).delivery.event_seq
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(desk.secret()).verify(body.replace(b"succeeded", b"failed"), headers)
    assert desk.state(delivery_id) is DeliveryState.DELIVERED


def test_a_registered_endpoint_verifies_with_both_secrets_of_a_rotation(
    desk: Desk, receiver: Receiver
) -> None:
    old = desk.register(receiver.url())
    with desk.database.write() as session:
        new = webhook_secrets.rotate(session, old.id)
    desk.end_job()
    desk.drain()
    ((_, headers, body),) = receiver.received
    for secret in (old.secret, new.secret):
        Webhook(secret).verify(body, headers)


def test_500_three_times_and_then_200(desk: Desk, receiver: Receiver) -> None:
    answers = iter([500, 500, 500, 200])

    def next_answer(handler: Handler) -> None:
        status(next(answers))(handler)

    receiver.answers["/hook"] = next_answer
    delivery_id = desk.end_job(receiver.url())
    for _ in range(4):
        assert desk.state(delivery_id) is DeliveryState.PENDING
        desk.drain_when_due()
    assert desk.state(delivery_id) is DeliveryState.DELIVERED
    desk.drain_when_due()
    assert [a.status_code for a in desk.record(delivery_id).attempts] == [500, 500, 500, 200]
    assert {headers["webhook-id"] for _, headers, _ in receiver.received} == {delivery_id}
    assert len({body for *_, body in receiver.received}) == 1
    for _, headers, body in receiver.received:  # each attempt is signed anew, with its own time
        Webhook(desk.secret()).verify(body, headers)


def test_a_redelivery_arrives_under_the_same_id(desk: Desk, receiver: Receiver) -> None:
    delivery_id = desk.end_job(receiver.url())
    desk.drain()
    with desk.database.write() as session:
        delivery_log.redeliver(session, delivery_id)
    desk.drain()
    (_, first, body), (_, second, again) = receiver.received
    assert first["webhook-id"] == second["webhook-id"] == delivery_id
    assert body == again


def test_410_ends_it_and_disables_the_endpoint(desk: Desk, receiver: Receiver) -> None:
    receiver.answers["/hook"] = status(410)
    endpoint = desk.register(receiver.url())
    delivery_id = desk.end_job()
    desk.drain()
    assert desk.state(delivery_id) is DeliveryState.FAILED
    with desk.database.read() as session:
        assert webhooks.get_endpoint(session, endpoint.id).disabled_at is not None


LINK_LOCAL = "http://169.254.169.254/latest/meta-data/"


@pytest.mark.parametrize("location", [LINK_LOCAL, "/other", "http://[", "http://\x80"])
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_never_followed(
    quick: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, code: int, location: str
) -> None:
    connected: list[Any] = []
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: connected.append(a[0]) or connect(*a, **k)
    )
    receiver.answers["/hook"] = status(code, Location=location)
    delivery_id = quick.end_job(receiver.url())
    quick.drain()
    assert quick.attempt(delivery_id) == (
        code,
        f"The receiver answered with status {code}, not 2xx. Redirects are not followed.",
    )
    assert quick.state(delivery_id) is DeliveryState.PENDING
    assert connected == [receiver.server_address]
    assert [path for path, *_ in receiver.received] == ["/hook"]


@pytest.mark.parametrize(
    ("answer", "status_code"),
    [(hang, None), (a_failure_a_byte_at_a_time, 500), (a_status_line_at_a_time, None)],
    ids=["silent", "a byte at a time", "a status line at a time"],
)
def test_a_slow_receiver_is_left_after_the_timeout(
    quick: Desk, receiver: Receiver, answer: Answer, status_code: int | None
) -> None:
    receiver.answers["/hook"] = answer
    delivery_id = quick.end_job(receiver.url())
    quick.drain()
    assert quick.attempt(delivery_id) == (status_code, "No complete answer within 1 seconds.")
    assert quick.state(delivery_id) is DeliveryState.PENDING


@pytest.mark.parametrize(("answer", "code"), [(a_byte_at_a_time, 200), (breaks_off, 202)])
def test_what_a_receiver_has_taken_is_delivered_however_its_answer_goes_on(
    quick: Desk, receiver: Receiver, answer: Answer, code: int
) -> None:
    receiver.answers["/hook"] = answer
    delivery_id = quick.end_job(receiver.url())
    quick.drain()
    assert quick.attempt(delivery_id) == (code, None)
    assert quick.state(delivery_id) is DeliveryState.DELIVERED


def test_of_an_answer_without_end_a_little_is_read(quick: Desk, receiver: Receiver) -> None:
    receiver.answers["/hook"] = without_end
    delivery_id = quick.end_job(receiver.url())
    quick.drain()
    assert quick.attempt(delivery_id) == (200, None)
    assert quick.state(delivery_id) is DeliveryState.DELIVERED


def test_nobody_there(quick: Desk) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        delivery_id = quick.end_job(f"http://127.0.0.1:{nobody.getsockname()[1]}/hook")
        quick.drain()
    code, error = quick.attempt(delivery_id)
    assert code is None
    assert error is not None
    assert error.startswith("ConnectError: ")


def test_what_speaks_no_http(quick: Desk, receiver: Receiver) -> None:
    receiver.answers["/hook"] = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    delivery_id = quick.end_job(receiver.url())
    quick.drain()
    code, error = quick.attempt(delivery_id)
    assert code is None
    assert error is not None
    assert error.startswith("RemoteProtocolError: ")


@pytest.mark.parametrize(
    ("url", "answers"),
    [("https://hooks.example.com/", ["10.0.0.1"]), ("https://hooks.example.com/", ["93.184.215.14", "::1"])],
)
def test_a_private_address_behind_a_public_name_is_never_connected(
    sqlite_database: Database, tmp_path: Path, url: str, answers: list[str]
) -> None:
    guarded = Desk(sqlite_database, tmp_path, allow_private_network=False)
    guarded.sender = WebhookSender(
        guarded.settings, sqlite_database, guarded.stopping, resolve=lambda _host: answers
    )
    delivery_id = guarded.end_job(url)
    guarded.drain()
    code, error = guarded.attempt(delivery_id)
    assert code is None
    assert error is not None
    assert "not on the public internet" in error
    assert guarded.state(delivery_id) is DeliveryState.PENDING


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("8", 8, 8), ("3600", 8, 12), ("soon", 4, 6), ("-1", 4, 6), ("9" * 99, 8, 12)],
)
def test_retry_after_in_seconds(
    quick: Desk, receiver: Receiver, asked: str, least: float, most: float
) -> None:
    receiver.answers["/hook"] = status(503, Retry_After=asked)
    delivery_id = quick.end_job(receiver.url())
    with quick.database.write() as session:
        claim = deliveries.claim(session, lease_seconds=60)
    assert claim is not None
    outcome = quick.sender._send(claim)
    for _ in range(20):
        assert least <= (deliveries.pause(1, outcome) or 0) <= most
    assert claim.id == delivery_id


def test_retry_after_as_a_date(quick: Desk, receiver: Receiver) -> None:
    quick.end_job(receiver.url())
    with quick.database.write() as session:
        claim = deliveries.claim(session, lease_seconds=60)
    assert claim is not None
    for seconds, expected in ((100, 100), (-100, 0)):
        at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(claim.now.timestamp() + seconds))
        receiver.answers["/hook"] = status(503, Retry_After=at)
        assert quick.sender._send(claim).retry_after == pytest.approx(expected, abs=1)


def threads_draining(desk: Desk, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=desk.drain) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_a_hanging_receiver_leaves_places_for_the_others(
    database: Database, tmp_path: Path, receiver: Receiver
) -> None:
    # Longer than the test: what hangs keeps its place until the receiver lets it go.
    desk = Desk(database, tmp_path, webhook_timeout_seconds=50, webhook_concurrency=4)
    receiver.answers["/hang"] = hang
    for number in range(6):  # as one receiver, whatever the query
        desk.end_job(receiver.url(f"/hang?{number}"))
        receiver.answers[f"/hang?{number}"] = hang
    with Receiver() as other:
        serving = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        good = [desk.end_job(other.url()) for _ in range(5)]
        threads = threads_draining(desk, 4)
        eventually(
            lambda: all(desk.state(d) is DeliveryState.DELIVERED for d in good), what="the others' delivery"
        )
        assert receiver.most_underway == desk.settings.webhook_concurrency_per_receiver == 2
        desk.stopping.set()
        receiver.closing.set()
        other.shutdown()
        serving.join()
    for thread in threads:
        thread.join()


def test_many_hanging_receivers_leave_half_of_the_places_to_the_others(
    database: Database, tmp_path: Path, receiver: Receiver
) -> None:
    """Those that are known to hang, that is: at first each may take as many as any other."""
    desk = Desk(database, tmp_path, webhook_timeout_seconds=1, webhook_concurrency=4)
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        for _ in range(3):
            for one in silent:
                desk.end_job(f"http://127.0.0.1:{one.getsockname()[1]}/hook")
        for thread in threads_draining(desk, 4):
            thread.join()  # all rest now
        assert not desk.drain()
        late = desk.end_job(receiver.url())

        def sent() -> bool:
            desk.drain()
            return desk.state(late) is DeliveryState.DELIVERED

        eventually(sent, seconds=5, what="the other's delivery")


@pytest.mark.parametrize("refusal", [status(429, Retry_After="60"), hang])
def test_who_cannot_keep_up_gets_nothing_of_what_ends_afterwards(
    quick: Desk, receiver: Receiver, refusal: Answer
) -> None:
    receiver.answers["/hook"] = refusal
    for _ in range(3):
        quick.end_job(receiver.url())
        quick.drain()
    assert len(receiver.received) == 1
    other = quick.end_job(receiver.url("/hook/of/somebody/else"))  # on the same host
    quick.sender._origins._look_at = 0  # as a second later
    quick.drain()
    assert quick.state(other) is DeliveryState.DELIVERED


def test_only_so_many_send_at_once(database: Database, tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(database, tmp_path, webhook_concurrency=3, webhook_concurrency_per_receiver=8)
    both = threading.Barrier(3)
    receiver.answers["/hook"] = lambda handler: (both.wait(timeout=20), status(200)(handler))[1]
    ids = [desk.end_job(receiver.url()) for _ in range(6)]
    for thread in threads_draining(desk, 8):
        thread.join()
    assert {desk.state(delivery_id) for delivery_id in ids} == {DeliveryState.DELIVERED}
    assert receiver.most_underway == 3
    assert len(receiver.received) == 6


def test_after_its_time_it_leaves_the_rest(quick: Desk, receiver: Receiver) -> None:
    """And says so. One is sent in any case."""
    for _ in range(3):
        quick.end_job(receiver.url())
    assert quick.drain(seconds=0) is True
    assert len(receiver.received) == 1
    assert quick.drain() is False
    assert len(receiver.received) == 3


def test_it_stops_between_two_deliveries(quick: Desk, receiver: Receiver) -> None:
    receiver.answers["/hook"] = lambda handler: (quick.stopping.set(), status(200)(handler))[1]
    first, second = quick.end_job(receiver.url()), quick.end_job(receiver.url())
    assert quick.drain() is True  # there may be more, for another worker
    assert quick.state(first) is DeliveryState.DELIVERED
    assert quick.record(second).attempts == []


def test_with_nothing_due_nothing_is_written(quick: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("the write lock was taken")

    monkeypatch.setattr(quick.database, "write", fail)
    quick.drain()


def test_a_fault_of_our_own_is_an_attempt_and_not_a_stuck_lease(
    quick: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery_id = quick.end_job(receiver.url())
    monkeypatch.setattr("worker.webhook_sender._request", lambda _claim: 1 / 0)
    quick.drain()
    assert quick.attempt(delivery_id) == (None, "The sender met an error of its own.")


@pytest.mark.parametrize(
    ("url", "beginning"),
    [
        ("http://example.com/a?b", "http://example.com/"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("http://[2606:2800::1]:8080/x", "http://[2606:2800::1]:8080/"),
    ],
)
def test_the_origin_is_the_beginning_that_all_urls_of_a_receiver_share(url: str, beginning: str) -> None:
    assert origin(url) == beginning
    assert url.startswith(beginning)


def test_a_hint_follows_the_commit_when_there_is_something_to_send(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints: list[Queue] = []
    monkeypatch.setattr("worker.writing.publish", lambda _settings, queue: hints.append(queue))

    def end(**wishes: Any) -> bool:
        claim = running(quick.database, **wishes)
        return write_outcome(
            quick.settings, quick.database, lambda session: results.succeed(session, claim, **RESULT)
        )

    assert end()
    assert hints == []
    assert end(webhook_url="https://example.com/")
    assert hints == [Queue.IO]

    def fail(*_: object) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr("worker.writing.publish", fail)
    assert end(webhook_url="https://example.com/"), "the dispatcher makes it good"
    with quick.database.read() as session:
        assert deliveries.ready(session, at_most=9) == 2


def test_the_database_may_be_away_for_a_moment_when_an_answer_is_recorded(
    quick: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery_id = quick.end_job(receiver.url())
    record, failures = deliveries.record, iter([ServiceUnavailable("away")] * 2)

    def sometimes(*arguments: Any) -> Any:
        if error := next(failures, None):
            raise error
        return record(*arguments)

    monkeypatch.setattr(deliveries, "record", sometimes)
    quick.drain()
    assert quick.state(delivery_id) is DeliveryState.DELIVERED
    assert len(receiver.received) == 1, "what was answered is not sent again"
