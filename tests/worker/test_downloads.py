"""From the state ``fetching`` to ``queued``, or to an end: pictures from real servers on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from core.broker import BrokerUnavailable
from core.database import Database, db_now
from core.errors import StorageFull
from core.jobs import results
from core.jobs.states import JobState, Queue
from core.jobs.tables import Blob, Job
from core.settings import Settings
from tests.core.jobs.steps import job, set_columns, submitted, types
from tests.processes import PHOTOS, eventually
from tests.worker.test_fetcher import Server, ok, raw
from worker.downloads import Downloader
from worker.leases import LeaseKeeper

PHOTO = PHOTOS[0].read_bytes()
FAILING = raw(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
MISSING = raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


class Desk:
    """A downloader on a database, and the hints that it gives."""

    def __init__(self, database: Database, folder: Path, hints: list[Queue], **settings: Any) -> None:
        self.database = database
        self.hints = hints
        self.stopping = threading.Event()
        values = {"allow_private_network": True, "retry_seconds": 0, "fetch_timeout_seconds": 10}
        chosen = Settings(data_dir=folder, **values | settings)
        keeper = LeaseKeeper(
            database, worker_id="io", queues=[Queue.IO], lease_seconds=60, heartbeat_seconds=15
        )
        self.downloader = Downloader(chosen, database, keeper, self.stopping)

    def post(self, url: str, **wishes: Any) -> str:
        return submitted(self.database, url=url, **wishes)

    def drain(self, **limits: float) -> bool:
        return self.downloader.drain("io/task", **limits)

    def job(self, job_id: str) -> Job:
        return job(self.database, job_id)

    def error(self, job_id: str) -> str:
        error = self.job(job_id).error
        assert error is not None
        return str(error["code"])

    def count_blobs(self) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(Blob)) or 0


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[Queue]:
    given: list[Queue] = []
    monkeypatch.setattr("worker.downloads.publish", lambda _settings, queue: given.append(queue))
    return given


@pytest.fixture
def desk(database: Database, tmp_path: Path, hints: list[Queue]) -> Desk:
    return Desk(database, tmp_path, hints)


@pytest.fixture
def pictures() -> Iterator[Server]:
    with Server() as running:
        running.answers |= {"/cat.jpg": ok(PHOTO), "/missing": MISSING, "/failing": FAILING}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def test_a_picture_is_kept_and_its_job_queued(desk: Desk, pictures: Server) -> None:
    plain = desk.post(pictures.url("/cat.jpg"))
    explained = desk.post(pictures.url("/cat.jpg"), methods=("grad_cam",))
    desk.drain()
    for job_id in (plain, explained):
        found = desk.job(job_id)
        assert found.state is JobState.QUEUED
        assert found.attempt == 0  # the model workers have all their attempts
        assert found.image_sha256
        assert types(desk.database, job_id) == ["job.created", "job.fetched"]
    assert sorted(desk.hints) == [Queue.EXPLAIN, Queue.PREDICT]
    assert desk.count_blobs() == 1  # the same bytes


def test_without_a_broker_the_dispatcher_hints(
    desk: Desk, pictures: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr("worker.downloads.publish", fail)
    ids = [desk.post(pictures.url("/cat.jpg")) for _ in range(2)]
    desk.drain()
    assert [desk.job(job_id).state for job_id in ids] == [JobState.QUEUED] * 2


def test_what_will_not_pass_fails_at_once(desk: Desk, pictures: Server) -> None:
    pictures.answers |= {"/text": ok(b"just text"), "/half": ok(PHOTO[: len(PHOTO) // 2])}
    expected = {
        "/missing": "fetch_failed",
        "/text": "unsupported_media_type",
        "/half": "invalid_image",
    }
    ids = {path: desk.post(pictures.url(path)) for path in expected}
    desk.drain()
    for path, job_id in ids.items():
        found = desk.job(job_id)
        assert (found.state, found.attempt) == (JobState.FAILED, 1)
        assert desk.error(job_id) == expected[path], path
        assert types(desk.database, job_id) == ["job.created", "job.failed"]
    assert len(pictures.requests) == len(expected)
    assert desk.count_blobs() == 0
    assert not desk.hints


def test_a_picture_over_the_limits(database: Database, tmp_path: Path, pictures: Server) -> None:
    for limit, code in (
        ({"max_image_bytes": len(PHOTO) - 1}, "fetch_failed"),
        ({"max_pixels": 1000}, "invalid_image"),
    ):
        desk = Desk(database, tmp_path, [], **limit)
        job_id = desk.post(pictures.url("/cat.jpg"))
        desk.drain()
        assert desk.error(job_id) == code
        assert desk.count_blobs() == 0


def test_a_server_that_hangs_leaves_places_for_the_others(
    database: Database, tmp_path: Path, pictures: Server
) -> None:
    """Once it is known to hang. However much there is to download from it, and older than the rest."""
    desk = Desk(database, tmp_path, [], fetch_timeout_seconds=1, fetch_concurrency=4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{{}}"
        for number in range(60):  # with their attempts, a minute and a half for four threads
            desk.post(url.format(number), max_attempts=6)
        threads = [threading.Thread(target=desk.drain) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: desk.downloader._origins._slow, what="the first timeout")
            late = desk.post(pictures.url("/cat.jpg"))

            def fetched() -> bool:
                desk.drain()  # as beat's hints have it
                return desk.job(late).state is JobState.QUEUED

            eventually(fetched, what="the other's download")
        finally:
            desk.stopping.set()
            for thread in threads:
                thread.join()


def test_a_full_disk_is_not_the_pictures_fault(
    database: Database, tmp_path: Path, pictures: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("The database's disk is full.")

    desk = Desk(database, tmp_path, [], lease_seconds=0.1, heartbeat_seconds=0.05)
    job_id = desk.post(pictures.url("/cat.jpg"))
    monkeypatch.setattr(results, "fetched", full)
    desk.drain()
    assert (desk.job(job_id).state, desk.error(job_id)) == (JobState.FAILED, "insufficient_storage")


def test_what_may_pass_is_tried_again(desk: Desk, pictures: Server) -> None:
    answers = iter([FAILING, FAILING, ok(PHOTO)])

    def next_one(server: Server, connection: socket.socket) -> None:
        next(answers)(server, connection)

    pictures.answers["/moody"] = next_one
    job_id = desk.post(pictures.url("/moody"))
    desk.drain()
    assert desk.job(job_id).state is JobState.QUEUED
    assert pictures.paths() == ["/moody"] * 3
    assert desk.hints == [Queue.PREDICT]


def test_with_a_pause_that_doubles(database: Database, tmp_path: Path, pictures: Server) -> None:
    desk = Desk(database, tmp_path, [], retry_seconds=100)
    job_id = desk.post(pictures.url("/failing"))
    for attempt, pause in ((1, 100), (2, 200)):
        desk.drain()
        assert len(pictures.requests) == attempt  # it is not due again
        found = desk.job(job_id)
        with database.read() as session:
            now = session.scalar(select(db_now()))
        assert now is not None
        assert pause - 60 < (found.run_after - now).total_seconds() <= pause
        assert (found.state, found.lease_owner) == (JobState.FETCHING, None)
        set_columns(database, job_id, run_after=db_now())


def test_until_the_attempts_are_used_up(desk: Desk, pictures: Server) -> None:
    job_id = desk.post(pictures.url("/failing"), max_attempts=3)
    desk.drain()
    found = desk.job(job_id)
    assert (found.state, found.attempt) == (JobState.FAILED, 3)
    assert desk.error(job_id) == "fetch_failed"
    assert found.error is not None
    assert "status 500" in found.error["detail"]
    assert len(pictures.requests) == 3


def test_a_private_address_is_never_asked(database: Database, tmp_path: Path, pictures: Server) -> None:
    desk = Desk(database, tmp_path, [], allow_private_network=False)
    ids = [desk.post(pictures.url("/cat.jpg")), desk.post("http://169.254.169.254/latest/meta-data/")]
    desk.drain()
    for job_id in ids:
        assert (desk.job(job_id).state, desk.error(job_id)) == (JobState.FAILED, "url_blocked")
    assert pictures.requests == []


def test_an_error_of_our_own_is_tried_again_and_tells_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr("worker.downloads.fetch", crash)
    job_id = desk.post("http://127.0.0.1/")
    desk.drain()
    found = desk.job(job_id)
    assert (found.state, found.attempt) == (JobState.FAILED, 3)
    assert "secret" not in str(found.error)


def test_a_cancel_during_the_download(desk: Desk, pictures: Server) -> None:
    """Nothing of it is kept."""
    canceled: list[str] = []

    def cancel_first(server: Server, connection: socket.socket) -> None:
        with desk.database.write() as session:
            results.cancel(session, canceled[0])
        ok(PHOTO)(server, connection)

    pictures.answers["/slow"] = cancel_first
    canceled.append(desk.post(pictures.url("/slow")))
    desk.drain()
    found = desk.job(canceled[0])
    assert (found.state, found.image_sha256) == (JobState.CANCELED, None)
    assert desk.count_blobs() == 0
    assert desk.hints == []
    assert types(desk.database, canceled[0]) == ["job.created", "job.canceled"]


def test_a_cancel_during_a_download_that_fails(desk: Desk, pictures: Server) -> None:
    canceled: list[str] = []

    def cancel_first(server: Server, connection: socket.socket) -> None:
        with desk.database.write() as session:
            results.cancel(session, canceled[0])
        MISSING(server, connection)

    pictures.answers["/slow"] = cancel_first
    canceled.append(desk.post(pictures.url("/slow")))
    desk.drain()
    found = desk.job(canceled[0])
    assert (found.state, found.error) == (JobState.CANCELED, None)


def test_a_worker_that_stops_begins_no_further_download(desk: Desk, pictures: Server) -> None:
    def stop_first(server: Server, connection: socket.socket) -> None:
        desk.stopping.set()
        ok(PHOTO)(server, connection)

    pictures.answers["/last"] = stop_first
    first, second = desk.post(pictures.url("/last")), desk.post(pictures.url("/cat.jpg"))
    assert desk.drain() is True  # there may be more, for another worker
    assert desk.job(first).state is JobState.QUEUED
    found = desk.job(second)
    assert (found.state, found.attempt) == (JobState.FETCHING, 0)


def test_after_its_time_it_leaves_the_rest(desk: Desk, pictures: Server) -> None:
    """And says so. One is downloaded in any case."""
    ids = [desk.post(pictures.url("/cat.jpg")) for _ in range(3)]
    assert desk.drain(seconds=0) is True
    assert [desk.job(job_id).state for job_id in ids] == [JobState.QUEUED, *[JobState.FETCHING] * 2]
    assert desk.drain() is False
    assert {desk.job(job_id).state for job_id in ids} == {JobState.QUEUED}


def test_no_more_at_once_than_there_are_places(database: Database, tmp_path: Path, pictures: Server) -> None:
    """However many hints there are: one that finds every place taken leaves its job to those who work."""
    desk = Desk(database, tmp_path, [], fetch_concurrency=2)
    together = threading.Semaphore(0)
    go_on = threading.Event()

    def hold(server: Server, connection: socket.socket) -> None:
        together.release()
        go_on.wait(30)
        ok(PHOTO)(server, connection)

    pictures.answers["/held"] = hold
    ids = [desk.post(pictures.url("/held")) for _ in range(5)]
    threads = [threading.Thread(target=desk.drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert together.acquire(timeout=30)
    desk.drain()  # a third hint returns at once
    assert len(pictures.requests) == 2
    go_on.set()
    for thread in threads:
        thread.join()
    assert {desk.job(job_id).state for job_id in ids} == {JobState.QUEUED}
    desk.drain()  # the places are free again
    assert len(pictures.requests) == 5


def test_the_lease_is_kept_during_a_long_download(
    database: Database, tmp_path: Path, pictures: Server
) -> None:
    desk = Desk(database, tmp_path, [])
    keeper = desk.downloader._keeper
    seen: list[bool] = []

    def look(server: Server, connection: socket.socket) -> None:
        seen.append(eventually(lambda: [claim.job_id for claim in keeper.held()]) == [job_id])
        ok(PHOTO)(server, connection)

    pictures.answers["/long"] = look
    job_id = desk.post(pictures.url("/long"))
    desk.drain()
    assert seen == [True]
    assert keeper.held() == []
