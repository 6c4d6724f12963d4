"""The pipeline: what happens beside the network, what never does, and what becomes of it after a failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from core.database import Database, db_now
from core.errors import DeviceFailed, ServiceUnavailable
from core.jobs import results
from core.jobs.states import JobState
from tests.core.jobs.steps import job, set_columns, types
from tests.processes import eventually
from tests.worker.bench import Bench

BATCH = 2
PICTURES = [bytes([65 + i]) for i in range(6)]


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    bench = Bench(database, tmp_path)
    bench.engine.max_batch = BATCH
    return bench


class Watch:
    """Notes what was decoded; lets a test look around while the network computes its first batches."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.decoded: list[bytes] = []
        self.computed: list[list[bytes]] = []
        bench.engine.on_prepare = self.decoded.append
        bench.engine.on_predict = self._predict

    def during(self, number: int, computing: list[bytes]) -> None:
        """Overwritten by tests; ``number`` counts from 1."""

    def _predict(self, computing: list[bytes]) -> None:
        self.computed.append(computing)
        self.during(len(self.computed), computing)

    def next_is_ready(self) -> None:
        decoded = BATCH * (len(self.computed) + 1)
        eventually(lambda: len(self.decoded) == decoded, what="the batch after this one")


def test_the_next_batch_is_made_ready_while_the_network_computes(bench: Bench) -> None:
    watch, ids, seen = Watch(bench), bench.post(*PICTURES), list[list[JobState]]()

    def look(number: int, computing: list[bytes]) -> None:
        if number == 1:
            watch.next_is_ready()
            seen.append(bench.states(ids))
            assert len(bench.keeper.held()) == 2 * BATCH

    watch.during = look  # type: ignore[method-assign]
    assert bench.drain() is False
    assert seen == [[JobState.RUNNING] * 2 * BATCH + [JobState.QUEUED] * BATCH]  # one ahead, and no more
    assert watch.computed == [PICTURES[:2], PICTURES[2:4], PICTURES[4:]]
    assert bench.states(ids) == [JobState.SUCCEEDED] * len(ids)
    assert not bench.keeper.held()
    assert all(types(bench.database, i) == ["job.created", "job.started", "job.succeeded"] for i in ids)


def test_results_are_written_while_the_network_computes(bench: Bench) -> None:
    watch, ids = Watch(bench), bench.post(*PICTURES)

    def look(number: int, computing: list[bytes]) -> None:
        if number == 2:
            first = ids[:BATCH]
            eventually(lambda: bench.states(first) == [JobState.SUCCEEDED] * BATCH, what="the first results")

    watch.during = look  # type: ignore[method-assign]
    assert bench.drain() is False
    assert len(watch.computed) == 3


def had_a_slow_batch(bench: Bench) -> None:
    """The last batch was full and took so long that the next one need not be claimed soon."""
    bench.post(b"Y", b"Z")
    assert bench.drain() is False
    last = bench.runner._predicting._last
    assert last is not None
    last.steps["compute"] = (0.0, 1000.0)


def test_it_is_claimed_as_late_as_will_do(bench: Bench) -> None:
    had_a_slow_batch(bench)
    watch, ids = Watch(bench), bench.post(*PICTURES)

    def look(number: int, computing: list[bytes]) -> None:
        if number == 1:
            time.sleep(0.3)  # in which it would be claimed, if nothing kept it from that
            assert bench.states(ids) == [JobState.RUNNING] * BATCH + [JobState.QUEUED] * 2 * BATCH
        if number == 2:
            watch.next_is_ready()  # what counts is the last batch, and that one was fast

    watch.during = look  # type: ignore[method-assign]
    bench.post(b"G", b"H")
    assert bench.drain() is False
    assert len(watch.computed) == 4
    assert bench.states(ids) == [JobState.SUCCEEDED] * len(ids)


class TestRetries:
    """A job that was tried before may be what killed its worker."""

    def test_nothing_else_is_under_way_beside_it(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        succeed_all = results.succeed_all

        def slowly(*arguments: Any) -> set[str]:
            time.sleep(0.3)  # in which it would be run, if the results before it were not waited for
            return succeed_all(*arguments)

        monkeypatch.setattr(results, "succeed_all", slowly)
        watch, ids = Watch(bench), bench.post(*PICTURES, *(bytes([97 + i]) for i in range(6)))
        tried, *fresh = ids

        def look(number: int, computing: list[bytes]) -> None:
            if number == 1:  # it becomes due only now
                set_columns(bench.database, tried, run_after=db_now(-1))
            elif computing == PICTURES[:1]:
                time.sleep(0.3)  # in which others would be claimed, if nothing kept them from that
                states = bench.states(fresh)
                assert JobState.RUNNING not in states
                assert states.count(JobState.SUCCEEDED) == BATCH * (number - 1)
                assert [claim.job_id for claim in bench.keeper.held()] == [tried]

        watch.during = look  # type: ignore[method-assign]
        set_columns(bench.database, tried, attempt=1, run_after=db_now(3600))
        assert bench.drain() is False
        assert PICTURES[:1] in watch.computed
        assert bench.states(ids) == [JobState.SUCCEEDED] * len(ids)
        assert [job(bench.database, i).attempt for i in ids] == [2] + [1] * len(fresh)


class TestCanceledAhead:
    def test_it_is_not_run(self, bench: Bench) -> None:
        watch, ids = Watch(bench), bench.post(*PICTURES)

        def look(number: int, computing: list[bytes]) -> None:
            if number == 1:
                watch.next_is_ready()
                with bench.database.write() as session:
                    assert results.cancel(session, ids[2]) is JobState.CANCELING
                bench.keeper.beat()

        watch.during = look  # type: ignore[method-assign]
        bench.drain()
        assert watch.computed == [PICTURES[:2], PICTURES[3:4], PICTURES[4:]]
        assert bench.states(ids[2:4]) == [JobState.CANCELED, JobState.SUCCEEDED]


class TestStopping:
    def test_what_was_claimed_is_run_and_nothing_more(self, bench: Bench) -> None:
        watch, ids = Watch(bench), bench.post(*PICTURES)

        def look(number: int, computing: list[bytes]) -> None:
            if number == 1:
                watch.next_is_ready()
                bench.stopping.set()

        watch.during = look  # type: ignore[method-assign]
        assert bench.drain() is True
        assert bench.states(ids) == [JobState.SUCCEEDED] * 2 * BATCH + [JobState.QUEUED] * BATCH
        assert {job(bench.database, job_id).attempt for job_id in ids[: 2 * BATCH]} == {1}
        assert not bench.keeper.held()

    def test_who_waits_to_claim_claims_no_more(self, bench: Bench) -> None:
        had_a_slow_batch(bench)
        watch, ids = Watch(bench), bench.post(*PICTURES)
        watch.during = lambda number, computing: bench.stopping.set()  # type: ignore[method-assign]
        assert bench.drain() is True
        assert len(watch.computed) == 1
        assert bench.states(ids) == [JobState.SUCCEEDED] * BATCH + [JobState.QUEUED] * 2 * BATCH


class TestFailing:
    def test_device(self, bench: Bench) -> None:
        """What is finished is written, what was claimed ahead is put back, what failed is not touched."""
        watch, ids = Watch(bench), bench.post(*PICTURES, b"G", b"H")

        def fail(number: int, computing: list[bytes]) -> None:
            watch.next_is_ready()
            if number == 2:
                raise DeviceFailed("an illegal address")

        watch.during = fail  # type: ignore[method-assign]
        with pytest.raises(DeviceFailed):
            bench.drain()
        running, queued = [JobState.RUNNING] * BATCH, [JobState.QUEUED] * 2 * BATCH
        assert bench.states(ids) == [JobState.SUCCEEDED] * BATCH + running + queued
        ahead = job(bench.database, ids[2 * BATCH])
        assert (ahead.attempt, ahead.max_attempts, ahead.lease_owner) == (1, 4, None)
        assert types(bench.database, ahead.id)[-1] == "job.requeued"
        assert not bench.keeper.held()

    def test_device_before_the_next_batch_was_claimed(self, bench: Bench) -> None:
        had_a_slow_batch(bench)
        watch, ids = Watch(bench), bench.post(*PICTURES)

        def fail(number: int, computing: list[bytes]) -> None:
            raise DeviceFailed("an illegal address")

        watch.during = fail  # type: ignore[method-assign]
        with pytest.raises(DeviceFailed):
            bench.drain()
        assert [job(bench.database, job_id).attempt for job_id in ids] == [1] * BATCH + [0] * 2 * BATCH

    def test_writing(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever started the drain is told, and no lease is kept of what will not be written."""
        bench.post(*PICTURES)

        def fail(*_: object) -> None:
            raise ServiceUnavailable("away")

        monkeypatch.setattr(results, "succeed_all", fail)
        monkeypatch.setattr(bench.database, "write_until", lambda work, give_up_after: work(None))
        with pytest.raises(ServiceUnavailable):
            bench.drain()
        assert not bench.keeper.held()

    def test_claiming(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ahead of a batch that is whole: that one's results are not lost."""
        preparer, ids = bench.runner._predicting._preparer, bench.post(*PICTURES)
        take = preparer.take

        def fail_ahead(owner: str, *, ahead: bool = False) -> object:
            if ahead:
                raise ServiceUnavailable("away")
            return take(owner)

        monkeypatch.setattr(preparer, "take", fail_ahead)
        with pytest.raises(ServiceUnavailable):
            bench.drain()
        assert bench.states(ids) == [JobState.SUCCEEDED] * BATCH + [JobState.QUEUED] * 2 * BATCH
        assert not bench.keeper.held()


@pytest.fixture
def time_limit() -> Iterator[threading.Timer]:
    """Celery's soft time limit: a signal, whose handler raises in the main thread."""

    def late(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, late)
    timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGUSR1])
    yield timer
    timer.cancel()
    signal.signal(signal.SIGUSR1, before)


def test_a_picture_whose_decoding_never_ends_fails_its_batch_in_the_end(
    bench: Bench, time_limit: threading.Timer
) -> None:
    may_end = threading.Event()

    def hang(data: bytes) -> None:
        if data == b"B":
            time_limit.start()
            may_end.wait(60)

    bench.engine.on_prepare = hang
    ids = bench.post(*PICTURES[:BATCH])
    try:
        assert bench.drain() is False
    finally:
        may_end.set()
    assert bench.states(ids) == [JobState.FAILED] * BATCH
    assert bench.error(ids[0]) == "timed_out"
    assert bench.engine.batches == []


def test_each_batch_tells_when_its_steps_were(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bench.post(*PICTURES[:3])
    bench.drain()
    lines = [record.__dict__ for record in caplog.records if record.message == "batch run"]
    assert [(line["batch_size"], line["dropped"]) for line in lines] == [(2, 0), (1, 0)]
    for line in lines:
        assert list(line["steps"]) == ["claim", "read", "decode", "wait", "compute", "write"]
        assert all(began <= ended for began, ended in line["steps"].values())
        assert line["steps"]["decode"][1] <= line["steps"]["compute"][0]
        assert line["steps"]["compute"][1] <= line["steps"]["write"][0]
