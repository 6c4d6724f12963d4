"""A batch ends exactly once, with the last of its jobs, and tells of it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select, update

from core.database import Database, db_now
from core.jobs import (
    completion,
    results,
    webhooks,
)
from core.jobs.states import BatchState, JobState
from core.jobs.tables import Batch, Job, WebhookDelivery
from tests.core.jobs.batch_steps import (
    batch_log,
    cancel,
    fail,
    finish,
    made,
    nonzero,
    record,
    state,
    succeed,
    types,
)
from tests.core.jobs.steps import RESULT, claimed
from tests.core.jobs.test_races import together


class TestCompletion:
    def test_with_the_last_job(self, database: Database) -> None:
        batch_id = made(database, 4, bad=[3])
        first, second, third = claimed(database, limit=3)
        succeed(database, first)
        fail(database, second)
        assert state(database, batch_id) is BatchState.RUNNING
        succeed(database, third)
        found = record(database, batch_id).batch
        assert (found.state, found.finished_at is None) == (BatchState.COMPLETED, False)
        written = batch_log(database, batch_id)
        assert [type_ for type_, _ in written] == ["batch.created", "batch.progress", "batch.completed"]
        for _, data in written:
            assert set(data["counts"]) == set(JobState)
            assert sum(data["counts"].values()) == 4
        assert written[-1][1]["status"] == "completed"
        assert written[-1][1]["counts"]["succeeded"] == written[-1][1]["counts"]["failed"] == 2

    def test_many_ends_in_one_transaction_are_one(self, database: Database) -> None:
        batch_id = made(database, 5)
        succeed(database, *claimed(database, limit=5))
        assert types(database, batch_id) == ["batch.created", "batch.completed"]

    def test_progress_is_not_told_more_often_than_once_a_second(self, database: Database) -> None:
        batch_id = made(database, 5)
        for claim in claimed(database, limit=3):
            succeed(database, claim)
            with database.write() as session:  # as if all were within the same second
                session.execute(update(Batch).values(progress_at=db_now(60)))
        assert types(database, batch_id) == ["batch.created", "batch.progress"]
        with database.write() as session:
            session.execute(update(Batch).values(progress_at=db_now(-2)))
        succeed(database, *claimed(database))
        assert types(database, batch_id)[2:] == ["batch.progress"]

    def test_a_rolled_back_end_is_none(self, database: Database) -> None:
        batch_id = made(database, 1)
        (claim,) = claimed(database)

        def change_of_mind() -> None:
            with database.write() as session:
                assert results.succeed(session, claim, **RESULT)
                raise RuntimeError("changed my mind")

        with pytest.raises(RuntimeError, match="changed my mind"):
            change_of_mind()
        assert types(database, batch_id) == ["batch.created"]
        succeed(database, claim)
        assert state(database, batch_id) is BatchState.COMPLETED

    def test_a_failure_at_the_look_rolls_back_the_end(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise a job would have ended of which its batch knows nothing."""
        batch_id = made(database, 1)
        (claim,) = claimed(database)
        with monkeypatch.context() as patched:
            patched.setattr(webhooks, "deliver", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                succeed(database, claim)
        assert nonzero(database, batch_id) == {"running": 1}

    @pytest.mark.parametrize("jobs", [2, 4])
    def test_the_last_ones_at_the_same_moment(self, database_url: str, jobs: int) -> None:
        databases = [Database(database_url) for _ in range(jobs)]
        for _ in range(6):
            batch_id = made(databases[0], jobs)
            claims = claimed(databases[0], limit=jobs)
            together(
                *(
                    lambda database=database, claim=claim: succeed(database, claim)
                    for database, claim in zip(databases, claims, strict=True)
                )
            )
            assert types(databases[0], batch_id).count("batch.completed") == 1
            assert state(databases[0], batch_id) is BatchState.COMPLETED
        for database in databases:
            database.dispose()

    def test_neither_of_the_last_two_misses_it(self, postgres_database: Database, postgres_url: str) -> None:
        """The first has looked and is not yet committed when the second ends its job."""
        batch_id = made(postgres_database, 2)
        first, second = claimed(postgres_database, limit=2)
        waits = Database(f"{postgres_url}&options=-c%20lock_timeout%3D200ms")
        with postgres_database.write() as session:
            assert results.succeed(session, first, **RESULT)
            completion.look_now(session)  # as at the commit
            with pytest.raises(Exception, match="lock timeout"):
                succeed(waits, second)
        assert state(postgres_database, batch_id) is BatchState.RUNNING
        succeed(waits, second)
        assert state(postgres_database, batch_id) is BatchState.COMPLETED
        waits.dispose()

    def test_two_batches_that_end_crosswise(self, postgres_url: str) -> None:
        """Each transaction ends a job of both: they take the batches' locks in one order."""
        databases = [Database(postgres_url) for _ in range(2)]
        one, two = made(databases[0], 2), made(databases[0], 2)
        claims = claimed(databases[0], limit=4)
        by_batch = {one: claims[:2], two: claims[2:]}
        together(
            lambda: succeed(databases[0], by_batch[one][0], by_batch[two][0]),
            lambda: succeed(databases[1], by_batch[two][1], by_batch[one][1]),
        )
        assert {state(databases[0], batch_id) for batch_id in by_batch} == {BatchState.COMPLETED}
        for database in databases:
            database.dispose()

    def test_a_single_cancel_may_be_the_last_end(self, database: Database) -> None:
        batch_id = made(database, 1)
        with database.read() as session:
            (job_id,) = session.scalars(select(Job.id)).all()
        with database.write() as session:
            results.cancel(session, job_id)
        assert state(database, batch_id) is BatchState.COMPLETED  # nobody asked to cancel the batch


class TestWebhooks:
    def deliveries(self, database: Database) -> list[WebhookDelivery]:
        with database.read() as session:
            return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))

    def test_the_batchs_own_receiver_and_the_registered_ones(self, database: Database) -> None:
        with database.write() as session:
            everything = webhooks.create_endpoint(session, "https://e.com/", owner=None).id
            webhooks.create_endpoint(session, "https://e.com/", owner=None, events=["batch.canceled"])
            webhooks.create_endpoint(session, "https://e.com/", owner="key_1")
        batch_id = made(database, 2, webhook_url="https://example.com/hook")
        finish(database)
        told = self.deliveries(database)
        assert {one.target for one in told} == {everything, "https://example.com/hook"}
        for delivery in told:
            payload = json.loads(delivery.payload)
            assert (delivery.event_type, payload["type"]) == ("batch.completed", "batch.completed")
            data = payload["data"]
            assert (data["id"], data["status"], data["counts"]["succeeded"]) == (batch_id, "completed", 2)
            assert data["links"] == {"self": f"/v1/batches/{batch_id}"}
            assert data["sequence"] == record(database, batch_id).batch.event_seq

    def test_a_filter_of_the_batch(self, database: Database) -> None:
        made(database, 1, webhook_url="https://e.com/", webhook_events=["batch.canceled"])
        finish(database)
        assert self.deliveries(database) == []
        cancel(database, made(database, 1, webhook_url="https://e.com/", webhook_events=["batch.canceled"]))
        assert [one.event_type for one in self.deliveries(database)] == ["batch.canceled"]

    def test_refused_items_are_told_to_those_that_name_failures(self, database: Database) -> None:
        with database.write() as session:
            webhooks.create_endpoint(session, "https://e.com/", owner=None)
            named = webhooks.create_endpoint(session, "https://e.com/", owner=None, events=["job.failed"]).id
        made(database, 4, bad=[1, 3])
        assert [(one.target, one.event_type) for one in self.deliveries(database)] == [
            (named, "job.failed")
        ] * 2
