"""What is claimed ahead and what is not, and micro-batches that are given up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.database import Database, db_now
from core.errors import InvalidImage, ServiceUnavailable
from core.jobs import queries
from core.jobs.states import JobState
from tests.core.jobs.steps import job, set_columns, types
from tests.processes import eventually
from tests.worker.bench import Bench
from worker.preparing import MicroBatch, Preparer

BATCH = 2


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    bench = Bench(database, tmp_path)
    bench.engine.max_batch = BATCH
    return bench


@pytest.fixture
def preparer(bench: Bench) -> Preparer:
    return bench.runner._predicting._preparer


def ids_of(batch: MicroBatch | None) -> list[str]:
    return [] if batch is None else [claim.job_id for claim in batch.claims]


def test_pictures_are_decoded_and_leases_kept_until_the_release(bench: Bench, preparer: Preparer) -> None:
    ids = bench.post(b"a", b"b", b"c")
    batch = preparer.take("worker/task")
    assert batch is not None
    assert ids_of(batch) == ids[:BATCH]
    assert [bytes(future.result()[:1]) for future in batch.decoding] == [b"a", b"b"]
    assert bench.keeper.held() == batch.claims
    began = [batch.steps[step][0] for step in ("claim", "read", "decode")]
    assert began == sorted(began)
    for _ in range(2):
        batch.release()
    assert not bench.keeper.held()


def test_nothing_is_ready(preparer: Preparer) -> None:
    assert preparer.take("worker/task") is None


@pytest.mark.parametrize(("posted", "taken"), [(2 * BATCH - 1, 0), (2 * BATCH, BATCH)])
def test_a_full_batch_is_left_to_others(bench: Bench, preparer: Preparer, posted: int, taken: int) -> None:
    """Of few jobs none is claimed ahead: another worker could begin at once what would wait here."""
    ids = bench.post(*(bytes([65 + i]) for i in range(posted)))
    assert ids_of(preparer.take("worker/task", ahead=True)) == ids[:taken]
    assert bench.states(ids) == [JobState.RUNNING] * taken + [JobState.QUEUED] * (posted - taken)


def test_a_job_that_was_tried_before_is_never_claimed_ahead(bench: Bench, preparer: Preparer) -> None:
    """It may be what killed its worker. The claim is undone without a trace."""
    tried, *ids = bench.post(*(bytes([65 + i]) for i in range(2 * BATCH + 1)))
    set_columns(bench.database, tried, attempt=1, run_after=db_now(-1))
    assert preparer.take("worker/task", ahead=True) is None
    found = job(bench.database, tried)
    assert (found.state, found.attempt, found.lease_owner) == (JobState.QUEUED, 1, None)
    assert types(bench.database, tried) == ["job.created"]
    assert bench.states(ids) == [JobState.QUEUED] * len(ids)
    batch = preparer.take("worker/task")
    assert batch is not None
    assert (ids_of(batch), batch.is_retry) == ([tried], True)
    fresh = preparer.take("worker/task", ahead=True)
    assert fresh is not None
    assert (ids_of(fresh), fresh.is_retry) == (ids[:BATCH], False)


def test_what_is_given_up_is_not_decoded(bench: Bench, preparer: Preparer) -> None:
    """The bench has one decoder: the second picture waits for the first."""
    may_end, begun = threading.Event(), list[bytes]()

    def hang(data: bytes) -> None:
        begun.append(data)
        may_end.wait(60)

    bench.engine.on_prepare = hang
    bench.post(b"a", b"b")
    batch = preparer.take("worker/task")
    assert batch is not None
    eventually(lambda: begun, what="the first picture's decoding")
    batch.release()
    may_end.set()
    assert [future.cancelled() for future in batch.decoding] == [False, True]
    batch.decoding[0].result()
    assert begun == [b"a"]


def test_a_picture_that_cannot_be_decoded_says_why(bench: Bench, preparer: Preparer) -> None:
    def refuse(data: bytes) -> None:
        raise InvalidImage("It is damaged.") if data == b"b" else RuntimeError("a fault of ours")

    bench.engine.on_prepare = refuse
    bench.post(b"a", b"b")
    batch = preparer.take("worker/task")
    assert batch is not None
    assert [future.result().code for future in batch.decoding] == ["internal_error", "invalid_image"]


class TestPicturesThatCannotBeRead:
    def failing(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def fail(*_: object) -> dict[str, bytes]:
            raise error

        monkeypatch.setattr(queries, "picture_bytes", fail)

    def test_because_the_database_is_away(
        self, bench: Bench, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lease runs out by itself: nobody keeps it."""
        (job_id,) = bench.post(b"a")
        self.failing(monkeypatch, ServiceUnavailable("away"))
        with pytest.raises(ServiceUnavailable):
            preparer.take("worker/task")
        assert not bench.keeper.held()
        assert bench.states([job_id]) == [JobState.RUNNING]

    def test_for_a_reason_of_ours(
        self, bench: Bench, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The jobs fail for good; trying again would not help, and nobody would learn of it."""
        ids = bench.post(b"a", b"b")
        self.failing(monkeypatch, RuntimeError("a secret of ours"))
        assert bench.drain() is False
        assert bench.states(ids) == [JobState.FAILED] * 2
        assert {bench.error(job_id) for job_id in ids} == {"internal_error"}


def test_seconds_go_from_one_step_to_another(preparer: Preparer, bench: Bench) -> None:
    bench.post(b"a")
    batch = preparer.take("worker/task")
    assert batch is not None
    batch.steps |= {"claim": (1.0, 1.5), "decode": (1.75, 3.0)}
    assert batch.seconds("claim", "decode") == 2.0
    assert batch.seconds("decode", "decode") == 1.25
