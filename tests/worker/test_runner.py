"""Micro-batches: what is claimed together, what fails alone, and what is never written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import event

from core import database as database_module
from core.database import Database
from core.errors import DeviceFailed, DeviceOutOfMemory, InvalidImage, ServiceUnavailable
from core.jobs import rescue, results
from core.jobs.states import JobState
from core.logs import JsonFormatter
from core.vision.stand_in import StandInEngine
from tests.core.jobs.steps import claimed, end_lease, job, types
from tests.databases import PostgresServer
from tests.worker.bench import Bench


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    return Bench(database, tmp_path)


def test_what_is_ready_runs_as_micro_batches(bench: Bench) -> None:
    bench.engine.max_batch = 4
    ids = bench.post(*(bytes([65 + i]) for i in range(6)))
    assert bench.drain() is False  # nothing is left
    assert bench.engine.batches == [4, 2]
    for number, job_id in enumerate(ids):
        found = job(bench.database, job_id)
        assert found.state is JobState.SUCCEEDED
        # Each has its own picture's answer.
        (expected,) = StandInEngine().predict([bench.engine.prepare(bytes([65 + number]))])
        assert found.prediction == {
            "label": expected.label,
            "scores": expected.scores,
            "margin": expected.margin,
        }
        assert found.model == {
            "name": "stand-in",
            "version": "1",
            "digest": bench.engine.manifest.sha256,
        }
        assert found.timings is not None
        assert found.timings["batch_size"] == (4 if number < 4 else 2)
        assert all(found.timings[name] >= 0 for name in ("queued_ms", "decode_ms", "inference_ms"))
        assert types(bench.database, job_id) == ["job.created", "job.started", "job.succeeded"]


def test_a_hint_too_many_finds_nothing(bench: Bench) -> None:
    assert bench.drain() is False
    assert bench.engine.batches == []


def test_a_worker_that_stops_takes_nothing_more(bench: Bench) -> None:
    """And says that there may be more, so that another worker is told."""
    ids = bench.post(b"a", b"b", b"c")
    bench.engine.max_batch = 2
    bench.engine.on_predict = lambda batch: bench.stopping.set()
    assert bench.drain() is True
    assert bench.states(ids) == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.QUEUED]


class TestFailingAlone:
    def test_an_undecodable_picture_at_once(self, bench: Bench) -> None:
        def refuse(data: bytes) -> None:
            if data == b"bad":
                raise InvalidImage("It is damaged.")

        bench.engine.on_prepare = refuse
        ids = bench.post(b"good", b"bad", b"fine")
        bench.drain()
        assert bench.states(ids) == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
        assert job(bench.database, ids[1]).error == {
            "code": "invalid_image",
            "title": "Invalid image",
            "detail": "It is damaged.",
        }
        assert job(bench.database, ids[1]).attempt == 1  # never again
        assert bench.engine.batches == [2]

    def test_a_picture_that_breaks_the_decoder(self, bench: Bench) -> None:
        def crash(data: bytes) -> None:
            if data == b"bad":
                raise RuntimeError("a secret of ours")

        bench.engine.on_prepare = crash
        good, bad = bench.post(b"good", b"bad")
        bench.drain()
        assert bench.states([good, bad]) == [JobState.SUCCEEDED, JobState.FAILED]
        assert bench.error(bad) == "internal_error"
        assert "secret" not in str(job(bench.database, bad).error)

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (RuntimeError("a secret of ours"), "internal_error"),
            (DeviceOutOfMemory("It does not fit."), "device_out_of_memory"),
        ],
    )
    def test_a_picture_that_breaks_the_forward(self, bench: Bench, error: Exception, code: str) -> None:
        """The batch is tried again one by one."""

        def crash(batch: list[bytes]) -> None:
            if b"bad" in batch:
                raise error

        bench.engine.on_predict = crash
        ids = bench.post(b"good", b"bad", b"fine")
        bench.drain()
        assert bench.states(ids) == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
        assert bench.error(ids[1]) == code
        assert "secret" not in str(job(bench.database, ids[1]).error)
        assert bench.engine.batches == [3, 1, 1, 1]

    def test_an_engine_that_loses_answers_is_not_trusted(self, bench: Bench) -> None:
        """Better no answer than another picture's."""
        ids = bench.post(b"a", b"b")
        bench.engine.answers_lost = 1
        bench.drain()
        assert bench.states(ids) == [JobState.FAILED, JobState.FAILED]
        assert bench.error(ids[0]) == "internal_error"


def test_a_time_limit_fails_the_batch_for_good(bench: Bench) -> None:
    def late(_batch: list[bytes]) -> None:
        raise SoftTimeLimitExceeded

    bench.engine.on_predict = late
    ids = bench.post(b"a", b"b")
    bench.drain()
    assert bench.states(ids) == [JobState.FAILED] * 2
    assert bench.error(ids[0]) == "timed_out"
    assert bench.engine.batches == [2]  # not one by one: each would take as long


def test_a_failed_device_leaves_the_jobs_to_another_process(bench: Bench) -> None:
    def fail(_batch: list[bytes]) -> None:
        raise DeviceFailed("an illegal address")

    bench.engine.on_predict = fail
    (job_id,) = bench.post(b"a")
    with pytest.raises(DeviceFailed):
        bench.drain()
    assert job(bench.database, job_id).state is JobState.RUNNING
    with bench.database.write() as session:  # what the parent does when it sees the death
        assert rescue.rescue(session, retry_seconds=0, owner="worker/task").requeued == 1
    bench.engine.on_predict = lambda batch: None
    bench.drain()
    assert (job(bench.database, job_id).state, job(bench.database, job_id).attempt) == (
        JobState.SUCCEEDED,
        2,
    )


class TestCanceled:
    def cancel(self, bench: Bench, job_id: str) -> None:
        with bench.database.write() as session:
            assert results.cancel(session, job_id) is JobState.CANCELING

    def test_before_the_forward(self, bench: Bench) -> None:
        """Known from the last heartbeat: its picture is not run, and the cancel is acknowledged."""
        ids = bench.post(b"a", b"b")

        def cancel(data: bytes) -> None:
            if data == b"b":
                self.cancel(bench, ids[0])
                bench.keeper.beat()

        bench.engine.on_prepare = cancel
        bench.drain()
        assert bench.states(ids) == [JobState.CANCELED, JobState.SUCCEEDED]
        assert bench.engine.batches == [1]

    def test_during_the_forward(self, bench: Bench) -> None:
        """The result comes too late and is dropped."""
        ids = bench.post(b"a", b"b")
        bench.engine.on_predict = lambda batch: self.cancel(bench, ids[0])
        bench.drain()
        assert bench.states(ids) == [JobState.CANCELED, JobState.SUCCEEDED]
        assert job(bench.database, ids[0]).prediction is None
        assert types(bench.database, ids[0])[-2:] == ["job.canceling", "job.canceled"]

    def test_and_failed_at_the_same_time(self, bench: Bench) -> None:
        (job_id,) = bench.post(b"a")

        def cancel_and_fail(_batch: list[bytes]) -> None:
            self.cancel(bench, job_id)
            raise DeviceOutOfMemory("It does not fit.")

        bench.engine.on_predict = cancel_and_fail
        bench.drain()
        assert bench.states([job_id]) == [JobState.CANCELED]
        assert bench.error(job_id) is None


def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    """The worker stood still; meanwhile its job was taken back and another worker has it."""
    lost, kept = bench.post(b"a", b"b")
    others = []

    def lose(_batch: list[bytes]) -> None:
        end_lease(bench.database, lost)
        with bench.database.write() as session:
            assert rescue.rescue(session, retry_seconds=0).requeued == 1
        others.extend(claimed(bench.database, owner="other"))

    bench.engine.on_predict = lose
    bench.drain()
    found = job(bench.database, lost)
    assert (found.state, found.attempt, found.lease_owner) == (JobState.RUNNING, 2, "other")
    assert (found.prediction, found.finished_at) == (None, None)
    assert bench.states([kept]) == [JobState.SUCCEEDED]  # its neighbour is not held up
    assert [claim.job_id for claim in others] == [lost]


def test_a_lease_that_the_heartbeat_found_lost_is_not_even_run(bench: Bench) -> None:
    ids = bench.post(b"a", b"b")

    def lose(data: bytes) -> None:
        if data == b"b":
            end_lease(bench.database, ids[0])
            with bench.database.write() as session:
                assert rescue.rescue(session, retry_seconds=3600).requeued == 1
            bench.keeper.beat()

    bench.engine.on_prepare = lose
    bench.drain()
    assert bench.engine.batches == [1]
    assert bench.states(ids) == [JobState.QUEUED, JobState.SUCCEEDED]


class TestDatabaseAwayWhileFinishing:
    @pytest.fixture
    def impatient(self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
        monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
        opened = Database(sqlite_url)
        yield opened
        opened.dispose()

    def test_a_result_outlasts_a_short_outage(self, impatient: Database, tmp_path: Path) -> None:
        """A stranger holds SQLite's write lock for longer than one transaction waits for it."""
        bench = Bench(impatient, tmp_path)
        (job_id,) = bench.post(b"a")
        stranger = sqlite3.connect(tmp_path / "pawlens.db", isolation_level=None, check_same_thread=False)

        def lock(_batch: list[bytes]) -> None:
            stranger.execute("BEGIN IMMEDIATE")
            threading.Timer(0.5, stranger.execute, ["ROLLBACK"]).start()

        bench.engine.on_predict = lock
        bench.drain()
        stranger.close()
        assert bench.states([job_id]) == [JobState.SUCCEEDED]
        assert bench.engine.batches == [1]

    def test_an_outage_longer_than_the_lease_leaves_the_job_to_the_rescue(
        self, impatient: Database, tmp_path: Path
    ) -> None:
        bench = Bench(impatient, tmp_path, lease_seconds=0.3, heartbeat_seconds=0.1)
        (job_id,) = bench.post(b"a")
        stranger = sqlite3.connect(tmp_path / "pawlens.db", isolation_level=None)

        def lock(_batch: list[bytes]) -> None:
            stranger.execute("BEGIN IMMEDIATE")

        bench.engine.on_predict = lock
        with pytest.raises(ServiceUnavailable):
            bench.drain()
        stranger.execute("ROLLBACK")
        stranger.close()
        found = job(bench.database, job_id)
        assert (found.state, found.prediction) == (JobState.RUNNING, None)

    def test_connections_that_break_at_the_commit(
        self, postgres_database: Database, postgres_server: PostgresServer, tmp_path: Path
    ) -> None:
        bench = Bench(postgres_database, tmp_path)
        (job_id,) = bench.post(b"a")
        cuts: list[int] = []

        def cut(connection: Any) -> None:
            if bench.engine.batches and len(cuts) < 2:
                cuts.append(connection.connection.dbapi_connection.info.backend_pid)
                postgres_server.execute("SELECT pg_terminate_backend(%s)", cuts[-1])

        event.listen(postgres_database.engine, "commit", cut)
        bench.drain()
        assert len(set(cuts)) == 2
        assert bench.states([job_id]) == [JobState.SUCCEEDED]
        assert types(bench.database, job_id).count("job.succeeded") == 1


def test_every_line_about_a_job_names_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(JsonFormatter("test"))
    caplog.set_level("INFO")
    (job_id,) = bench.post(b"a")
    bench.drain()
    lines = [line for line in caplog.text.splitlines() if "job succeeded" in line]
    assert len(lines) == 1
    assert f'"job_id": "{job_id}"' in lines[0]
    assert '"correlation_id": "c"' in lines[0]
