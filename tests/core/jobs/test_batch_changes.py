"""Canceling, repeating and removing batches."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, update

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import (
    batch_changes,
    batch_queries,
    batches,
    rescue,
    results,
    retention,
)
from core.jobs.batches import Item, Wishes
from core.jobs.claims import Claim
from core.jobs.ids import new_id
from core.jobs.states import BatchState, MethodState, Queue
from core.jobs.submit import Idempotency
from core.jobs.tables import Batch, Event, IdempotencyKey, Image, Job, Method
from tests.core.jobs.batch_steps import (
    cancel,
    count,
    fail,
    finish,
    made,
    nonzero,
    record,
    remove_batch,
    retry,
    state,
    succeed,
    types,
)
from tests.core.jobs.steps import RESULT, Lasting, Passing, claimed
from tests.core.jobs.test_races import together


class TestCancel:
    def test_what_waits_ends_and_what_runs_is_asked_to(self, database: Database) -> None:
        batch_id = made(database, 5)
        done, running = claimed(database, limit=2)
        succeed(database, done)
        cancel(database, batch_id)
        assert nonzero(database, batch_id) == {"succeeded": 1, "canceling": 1, "canceled": 3}
        assert state(database, batch_id) is BatchState.RUNNING
        cancel(database, batch_id)  # asking again changes nothing
        with database.write() as session:
            assert not results.succeed(session, running, **RESULT)
            assert results.acknowledge_cancel(session, running)
        assert state(database, batch_id) is BatchState.CANCELED
        assert types(database, batch_id)[-1] == "batch.canceled"
        with pytest.raises(Conflict, match="it is canceled"):
            cancel(database, batch_id)

    def test_of_what_only_waits_is_at_once(self, database: Database) -> None:
        batch_id = made(database, 3, methods=["grad_cam"])
        cancel(database, batch_id)
        assert types(database, batch_id) == ["batch.created", "batch.canceled"]
        with database.read() as session:
            assert set(session.scalars(select(Method.state))) == {MethodState.CANCELED}

    def test_of_downloads(self, database: Database) -> None:
        with database.write() as session:
            batch_id = new_id("batch")
            urls = [Item(i, url=f"https://example.com/{i}.jpg") for i in range(3)]
            batches.create(session, batch_id, items=urls, wishes=Wishes(), max_attempts=3)
        (claim,) = claimed(database, Queue.IO)
        cancel(database, batch_id)
        assert nonzero(database, batch_id) == {"canceled": 3}
        with database.write() as session:
            assert not results.fail(session, claim, Lasting("no"), retry_seconds=0)

    def test_leaves_other_batches_alone(self, database: Database) -> None:
        other = made(database, 2)
        cancel(database, made(database, 2))
        assert nonzero(database, other) == {"queued": 2}

    def test_of_another_owners(self, database: Database) -> None:
        batch_id = made(database, 1, owner="key_1")
        for wrong in (batch_id, "batch_0"):
            with pytest.raises(NotFound), database.write() as session:
                batch_changes.cancel(session, wrong, owner="key_2")
        assert nonzero(database, batch_id) == {"queued": 1}

    def test_while_everything_moves(self, database_url: str) -> None:
        """Workers take, finish and put back meanwhile: each job ends once, and so does the batch."""
        databases = [Database(database_url) for _ in range(3)]
        for _ in range(3):
            batch_id = made(databases[0], 30)

            def work(database: Database, batch_id: str = batch_id) -> None:
                while claims := claimed(database, limit=4):
                    for i, claim in enumerate(reversed(claims)):
                        end(database, claim, again=i == 0 and claim.attempt == 1)

            def stop(batch_id: str = batch_id) -> None:
                with suppress(Conflict):
                    databases[2].write_until(
                        lambda session: batch_changes.cancel(session, batch_id), give_up_after=20
                    )

            together(lambda: work(databases[0]), lambda: work(databases[1]), stop)
            work(databases[0])
            found = record(databases[0], batch_id)
            assert found.batch.state is not BatchState.RUNNING
            assert sum(found.counts.values()) == 30
            ends = [type_ for type_ in types(databases[0], batch_id) if type_ not in PROGRESS]
            assert len(ends) == 1
        for database in databases:
            database.dispose()


PROGRESS = ("batch.created", "batch.progress")


def end(database: Database, claim: Claim, *, again: bool) -> None:
    def write(session: Any) -> None:
        if again:
            wrote = results.fail(session, claim, Passing("once more"), retry_seconds=0)
        else:
            wrote = results.succeed(session, claim, **RESULT)
        assert wrote or results.acknowledge_cancel(session, claim)

    database.write_until(write, give_up_after=20)


class TestRetry:
    def test_what_failed_or_expired_and_has_a_picture(self, database: Database) -> None:
        wishes: dict[str, Any] = {"priority": 2, "metadata": {"a": 1}, "webhook_url": "https://e.com/"}
        batch_id = made(database, 5, bad=[0], **wishes)
        with pytest.raises(Conflict, match="is running"):
            retry(database, batch_id)
        first, second, third = claimed(database, limit=3)
        fail(database, first)
        succeed(database, second, third)
        with database.write() as session:
            session.execute(update(Job).where(Job.batch_index == 4).values(deadline_at=db_now(-1)))
            assert rescue.expire(session, limit=9) == 1
        assert nonzero(database, batch_id) == {"failed": 2, "succeeded": 2, "expired": 1}
        new = retry(database, batch_id)
        found = record(database, new).batch
        assert (found.retry_of, found.priority, found.meta) == (batch_id, 2, {"a": 1})
        assert found.webhook_url == "https://e.com/"
        with database.read() as session:
            rows = batch_queries.results(session, new)
        assert [(row.index, row.name, row.custom_id) for row in rows] == [
            (1, "1.png", "1"),
            (4, "4.png", "4"),
        ]
        finish(database)
        assert state(database, new) is BatchState.COMPLETED
        with pytest.raises(Conflict, match="could be run again"):
            retry(database, new)

    def test_a_url_that_was_not_downloaded_is_tried_again(self, database: Database) -> None:
        with database.write() as session:
            batch_id = new_id("batch")
            urls = [Item(0, url="https://example.com/0.jpg")]
            batches.create(session, batch_id, items=urls, wishes=Wishes(), max_attempts=3)
        (claim,) = claimed(database, Queue.IO)
        fail(database, claim)
        assert nonzero(database, retry(database, batch_id)) == {"fetching": 1}

    def test_of_another_owners(self, database: Database) -> None:
        batch_id = made(database, 1, owner="key_1")
        with pytest.raises(NotFound), database.write() as session:
            batch_changes.to_retry(session, batch_id, owner="key_2")


class TestRemoving:
    def test_a_batch_and_all_of_it(self, database: Database) -> None:
        batch_id = made(database, 4, bad=[0], methods=["kernels"], once=Idempotency("key", "digest"))
        kept = made(database, 1)  # of the same picture as the other's refused item: nobody else's
        cancel(database, batch_id)
        assert remove_batch(database, batch_id, limit=2) == 3  # four jobs, and then itself
        assert count(database, Method) == count(database, IdempotencyKey) == 0
        assert count(database, Batch) == count(database, Job) == count(database, Image) == 1
        with database.read() as session:
            assert set(session.scalars(select(Event.subject_id))) == {
                kept,
                *session.scalars(select(Job.id)),
            }
        with pytest.raises(NotFound):
            record(database, batch_id)

    def test_not_while_it_runs(self, database: Database) -> None:
        batch_id = made(database, 2)
        claim, other = claimed(database, limit=2)
        succeed(database, claim)
        with pytest.raises(Conflict, match="running"), database.write() as session:
            retention.delete_batch(session, batch_id, limit=9)
        with pytest.raises(Conflict, match=batch_id), database.write() as session:
            retention.delete_job(session, claim.job_id)
        succeed(database, other)
        with database.write() as session:
            retention.delete_job(session, claim.job_id)
        assert nonzero(database, batch_id) == {"succeeded": 1}

    def test_of_another_owners(self, database: Database) -> None:
        batch_id = made(database, 1, owner="key_1")
        cancel(database, batch_id)
        with pytest.raises(NotFound), database.write() as session:
            retention.delete_batch(session, batch_id, owner="key_2", limit=9)
        assert count(database, Batch) == 1

    def test_old_batches_go_with_their_jobs(self, database: Database) -> None:
        old, running = made(database, 30), made(database, 2)
        (claim,) = claimed(database)  # of the old one
        cancel(database, old)
        with database.write() as session:
            assert results.acknowledge_cancel(session, claim)
        succeed(database, *claimed(database))
        with database.write() as session:  # all jobs that have ended did so long ago
            session.execute(update(Job).where(Job.finished_at.is_not(None)).values(finished_at=db_now(-100)))

        def remove() -> int:
            with database.write() as session:
                return retention.delete_finished(session, older_than_seconds=50, limit=20)

        assert remove() == 0  # the batch ended just now
        with database.write() as session:
            session.execute(update(Batch).where(Batch.id == old).values(finished_at=db_now(-100)))
        assert [remove() for _ in range(4)] == [20, 10, 1, 0]  # the batch with none left
        assert nonzero(database, running) == {"succeeded": 1, "queued": 1}
