from __future__ import annotations

import pytest
from sqlalchemy import event, select

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import results
from core.jobs.rescue import expire
from core.jobs.results import Result
from core.jobs.states import FINAL, JobState, MethodState, Queue
from core.jobs.tables import Job, Method
from tests.core.jobs.steps import (
    PICTURE,
    RESULT,
    Lasting,
    Passing,
    claimed,
    ended,
    fetching,
    job,
    log,
    running,
    set_columns,
    submitted,
    types,
)


@pytest.mark.parametrize("partial", [False, True])
def test_succeeding_ends_the_job_with_its_result(database: Database, partial: bool) -> None:
    claim = running(database)
    with database.write() as session:
        assert results.succeed(session, claim, **RESULT, partial=partial)
    row = job(database, claim.job_id)
    assert row.state is (JobState.PARTIAL if partial else JobState.SUCCEEDED)
    assert {name: getattr(row, name) for name in RESULT} == RESULT
    assert row.finished_at is not None
    assert (row.lease_owner, row.lease_until, row.error) == (None, None, None)
    last = log(database, claim.job_id)[-1]
    assert last.type == f"job.{row.state}"
    assert last.data == {"status": str(row.state), "prediction": RESULT["prediction"]}


def test_the_prediction_is_shown_while_explanations_are_to_come(database: Database) -> None:
    claim = running(database, methods=("grad_cam",))
    with database.write() as session:
        assert results.predicted(session, claim, {"label": "dog"}, {"name": "resnet101"})
    row = job(database, claim.job_id)
    assert (row.state, row.prediction) == (JobState.RUNNING, {"label": "dog"})
    assert log(database, claim.job_id)[-1].data == {"prediction": {"label": "dog"}}


def test_a_lasting_error_is_final_at_once(database: Database) -> None:
    claim = running(database)
    with database.write() as session:
        assert results.fail(session, claim, Lasting("cannot be decoded"), retry_seconds=0)
    row = job(database, claim.job_id)
    assert (row.state, row.attempt) == (JobState.FAILED, 1)
    assert row.error == {"code": "lasting", "title": "Internal error", "detail": "cannot be decoded"}


def test_a_passing_error_is_tried_again_until_attempts_are_used_up(database: Database) -> None:
    job_id = submitted(database, max_attempts=3)
    for attempt in (1, 2, 3):
        (claim,) = claimed(database)
        assert claim.attempt == attempt
        with database.write() as session:
            assert results.fail(session, claim, Passing("not now"), retry_seconds=0)
    row = job(database, job_id)
    assert row.state is JobState.FAILED
    assert types(database, job_id) == [
        "job.created",
        *["job.started", "job.requeued"] * 2,
        "job.started",
        "job.failed",
    ]


@pytest.mark.parametrize("kind", ["run", "download"])
def test_the_pause_before_an_attempt_doubles(database: Database, kind: str) -> None:
    claim = running(database) if kind == "run" else fetching(database)
    for expected in (1000, 2000):
        with database.write() as session:
            now = session.scalar(select(db_now()))
            assert results.fail(session, claim, Passing("not now"), retry_seconds=1000)
        assert now is not None
        pause = (job(database, claim.job_id).run_after - now).total_seconds()
        assert pause == pytest.approx(expected, abs=30)  # the time between two statements
        set_columns(database, claim.job_id, run_after=now)
        (claim,) = claimed(database, Queue.PREDICT if kind == "run" else Queue.IO)


def test_a_download_that_keeps_failing_fails_the_job(database: Database) -> None:
    job_id = submitted(database, url="https://example.com/cat.jpg", max_attempts=2)
    for _ in range(2):
        (claim,) = claimed(database, Queue.IO)
        with database.write() as session:
            assert results.fail(session, claim, Passing("503"), retry_seconds=0)
    assert job(database, job_id).state is JobState.FAILED
    assert types(database, job_id) == ["job.created", "job.requeued", "job.failed"]


def test_a_downloaded_job_starts_with_all_its_attempts(database: Database) -> None:
    first = fetching(database, max_attempts=2)
    with database.write() as session:
        assert results.fail(session, first, Passing("503"), retry_seconds=0)
    (second,) = claimed(database, Queue.IO)
    with database.write() as session:
        results.fetched(session, second, PICTURE)
    row = job(database, first.job_id)
    assert (row.state, row.attempt, row.max_attempts) == (JobState.QUEUED, 0, 2)
    assert (row.lease_owner, row.lease_until) == (None, None)
    assert row.image_sha256 is not None
    assert claimed(database)[0].job_id == first.job_id


@pytest.mark.parametrize("url", [None, "https://example.com/cat.jpg"])
def test_a_waiting_job_is_canceled_at_once(database: Database, url: str | None) -> None:
    job_id = submitted(database, url=url) if url else submitted(database)
    with database.write() as session:
        assert results.cancel(session, job_id) is JobState.CANCELED
    assert types(database, job_id) == ["job.created", "job.canceled"]
    assert claimed(database) == claimed(database, Queue.IO) == []


def test_a_job_that_is_being_downloaded_is_canceled_at_once(database: Database) -> None:
    claim = fetching(database)
    with database.write() as session:
        assert results.cancel(session, claim.job_id) is JobState.CANCELED
    assert job(database, claim.job_id).lease_until is None


def test_a_running_job_is_canceled_when_its_worker_has_stopped(database: Database) -> None:
    claim = running(database)
    for _ in range(2):  # asking twice is the same as once
        with database.write() as session:
            assert results.cancel(session, claim.job_id) is JobState.CANCELING
    with database.write() as session:
        assert not results.succeed(session, claim, **RESULT)  # too late
        assert results.acknowledge_cancel(session, claim)
    row = job(database, claim.job_id)
    assert (row.state, row.prediction) == (JobState.CANCELED, None)
    assert types(database, claim.job_id)[2:] == ["job.canceling", "job.canceled"]


def test_canceling_what_has_ended_is_a_conflict(database: Database) -> None:
    for state in sorted(FINAL):
        job_id = ended(database, state).job_id
        with pytest.raises(Conflict, match=f"it is {state}"), database.write() as session:
            results.cancel(session, job_id)


def test_a_session_that_has_seen_the_job_before_cancels_what_it_is_now(database: Database) -> None:
    job_id = submitted(database)
    with database.write() as session:
        seen = session.get_one(Job, job_id)
        results.cancel(session, job_id)
        assert seen.state is JobState.QUEUED  # plain UPDATEs do not touch what the session has read
        with pytest.raises(Conflict, match="it is canceled"):
            results.cancel(session, job_id)


def test_canceling_what_never_was_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound), database.write() as session:
        results.cancel(session, "job_nothing")


@pytest.mark.parametrize(
    ("end", "waiting"),
    [
        (JobState.PARTIAL, MethodState.SKIPPED),
        (JobState.FAILED, MethodState.SKIPPED),
        (JobState.CANCELED, MethodState.CANCELED),
    ],
)
def test_methods_end_with_their_job(database: Database, end: JobState, waiting: MethodState) -> None:
    claim = running(database, methods=("grad_cam", "occlusion", "kernels"))
    bystander = submitted(database, methods=("grad_cam",))
    with database.write() as session:
        done, busy, _ = session.scalars(
            select(Method).where(Method.job_id == claim.job_id).order_by(Method.position)
        )
        done.state, busy.state = MethodState.SUCCEEDED, MethodState.RUNNING
        session.flush()
        if end is JobState.PARTIAL:
            assert results.succeed(session, claim, **RESULT, partial=True)
        elif end is JobState.FAILED:
            assert results.fail(session, claim, Lasting("no"), retry_seconds=0)
        else:
            results.cancel(session, claim.job_id)
            assert results.acknowledge_cancel(session, claim)
    with database.read() as session:
        rows = session.execute(select(Method.job_id, Method.name, Method.state))
        states = {(job_id, name): state for job_id, name, state in rows}
    assert states == {
        (claim.job_id, "grad_cam"): MethodState.SUCCEEDED,
        (claim.job_id, "occlusion"): MethodState.CANCELED,
        (claim.job_id, "kernels"): waiting,
        (bystander, "grad_cam"): MethodState.QUEUED,
    }


def test_a_micro_batch_ends_with_each_job_its_own_result(database: Database) -> None:
    ids = [submitted(database) for _ in range(3)]
    found = [(claim, result(n)) for n, claim in enumerate(claimed(database, limit=3))]
    with database.write() as session:
        assert results.succeed_all(session, found[::-1]) == set(ids)
    for n, (claim, _) in enumerate(found):
        ended = job(database, claim.job_id)
        assert (ended.state, ended.prediction, ended.timings) == (
            JobState.SUCCEEDED,
            {"label": "cat", "n": n},
            {"forward": n / 3, "note": 'Käthe\'s "ä"'},
        )
        assert ended.model == {"name": "resnet101"}
        assert log(database, claim.job_id)[-1].data == {"status": "succeeded", "prediction": ended.prediction}


def result(n: int) -> Result:
    return Result({"label": "cat", "n": n}, {"name": "resnet101"}, {"forward": n / 3, "note": 'Käthe\'s "ä"'})


def test_of_a_micro_batch_only_what_is_still_held_is_written(database: Database) -> None:
    for _ in range(4):
        submitted(database)
    kept, canceled, expired, lost = claimed(database, limit=4)
    with database.write() as session:
        results.cancel(session, canceled.job_id)
    set_columns(database, expired.job_id, deadline_at=db_now(-1))
    set_columns(database, lost.job_id, attempt=2)
    with database.write() as session:
        assert expire(session, limit=9) == 1
    with database.write() as session:
        found = [(claim, result(0)) for claim in (kept, canceled, expired, lost)]
        assert results.succeed_all(session, found) == {kept.job_id}
    states = [job(database, claim.job_id).state for claim in (kept, canceled, expired, lost)]
    assert states == [JobState.SUCCEEDED, JobState.CANCELING, JobState.EXPIRED, JobState.RUNNING]
    assert [types(database, claim.job_id).count("job.succeeded") for claim, _ in found] == [1, 0, 0, 0]


def test_of_nothing_nothing_is_written(database: Database) -> None:
    with database.write() as session:
        assert results.succeed_all(session, []) == set()


def test_a_larger_micro_batch_takes_no_more_statements(database: Database) -> None:
    seen: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: seen.append(sql))
    counts = []
    for size in (2, 30):
        for _ in range(size):
            submitted(database)
        seen.clear()
        taken = claimed(database, limit=size)
        with database.write() as session:
            assert len(results.succeed_all(session, [(claim, result(0)) for claim in taken])) == size
        counts.append(len(seen))
    assert counts[0] == counts[1]
