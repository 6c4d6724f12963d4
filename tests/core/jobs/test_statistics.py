"""What the last minute was like, read from the jobs themselves."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, update

from core.database import Database, db_now
from core.jobs import results, statistics
from core.jobs.ids import new_id
from core.jobs.states import DeliveryState, JobState, MethodState, Queue
from core.jobs.statistics import Recent
from core.jobs.tables import Method, WebhookDelivery
from tests.core.jobs.steps import RESULT, ended, running, set_columns, submitted

TIMINGS = {"queued_ms": 250.0, "decode_ms": 5.0, "inference_ms": 40.0, "batch_size": 4}


def recent(database: Database) -> Recent:
    with database.read() as session:
        return statistics.recent(session)


def succeeded(database: Database, **wishes: object) -> str:
    claim = running(database, **wishes)
    with database.write() as session:
        assert results.succeed(session, claim, **RESULT | {"timings": TIMINGS})
    return claim.job_id


def test_of_nothing(database: Database) -> None:
    assert recent(database) == Recent()


def test_outcomes_by_queue(database: Database) -> None:
    for state in (JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED):
        ended(database, state)
    succeeded(database, methods=("grad_cam",))
    submitted(database)
    assert recent(database).outcomes == {
        (Queue.PREDICT, JobState.SUCCEEDED): 2,
        (Queue.PREDICT, JobState.FAILED): 1,
        (Queue.PREDICT, JobState.CANCELED): 1,
        (Queue.EXPLAIN, JobState.SUCCEEDED): 1,
    }


def test_what_ended_more_than_a_minute_ago_is_no_longer_there(database: Database) -> None:
    old = succeeded(database, methods=("grad_cam",))
    set_columns(database, old, finished_at=db_now(-statistics.WINDOW_SECONDS - 1))
    assert recent(database) == Recent()


def test_stages_are_in_seconds(database: Database) -> None:
    job_id = succeeded(database)
    set_columns(database, job_id, created_at=db_now(-30), finished_at=db_now(-10))
    found = recent(database)
    assert found.stages[Queue.PREDICT, "queued"] == [0.25]
    assert found.stages[Queue.PREDICT, "decode"] == [0.005]
    assert found.stages[Queue.PREDICT, "inference"] == [0.04]
    assert found.stages[Queue.PREDICT, "total"] == [pytest.approx(20, abs=1)]
    assert found.batch_sizes == {Queue.PREDICT: [4]}


def test_a_sample_is_enough(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE", 2)
    for _ in range(3):
        succeeded(database)
    found = recent(database)
    assert found.outcomes[Queue.PREDICT, JobState.SUCCEEDED] == 3
    assert len(found.stages[Queue.PREDICT, "queued"]) == 2


def test_methods_that_were_computed(database: Database) -> None:
    job_id = succeeded(database, methods=("grad_cam", "occlusion", "kernels"))
    with database.write() as session:
        for name, values in {
            "grad_cam": {"state": MethodState.SUCCEEDED, "seconds": 1.5},
            "occlusion": {"state": MethodState.SUCCEEDED, "seconds": 0.0, "cached": True},
            "kernels": {"state": MethodState.FAILED, "seconds": 0.5},
        }.items():
            session.execute(
                update(Method).where(Method.job_id == job_id, Method.name == name).values(**values)
            )
    found = recent(database)
    assert found.methods == {"grad_cam": [1.5]}
    assert found.method_outcomes == {
        ("grad_cam", MethodState.SUCCEEDED): 1,
        ("occlusion", MethodState.SUCCEEDED): 1,
        ("kernels", MethodState.FAILED): 1,
    }


def test_deliveries_of_the_last_hour(database: Database) -> None:
    states = [DeliveryState.DELIVERED, DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.PENDING]
    ids = [new_id("msg") for _ in states]
    # One whose id says that it was made in 2001, and that is still to be tried.
    rows = [*zip(ids, states, strict=True), (f"msg_{10**12:012x}{'0' * 20}", DeliveryState.PENDING)]
    with database.write() as session:
        for i, (delivery_id, state) in enumerate(rows):
            session.execute(
                insert(WebhookDelivery).values(
                    id=delivery_id,
                    target="https://example.com/",
                    subject_id="job_1",
                    event_seq=i,
                    event_type="job.succeeded",
                    payload="{}",
                    state=state,
                )
            )
    with database.read() as session:
        assert statistics.recent_deliveries(session) == {
            DeliveryState.DELIVERED: 2,
            DeliveryState.FAILED: 1,
            DeliveryState.PENDING: 1,
        }
        assert statistics.pending_deliveries(session) == 2
