"""Batches are made whole, or not at all."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update

from core.database import Database, db_now
from core.jobs import (
    batches,
    rescue,
    retention,
)
from core.jobs.batches import Item, PicturesGone, Wishes
from core.jobs.blobs import store_pictures
from core.jobs.ids import new_id
from core.jobs.states import BatchState, MethodState, Queue
from core.jobs.submit import Idempotency, IdempotencyKeyReused
from core.jobs.tables import Batch, Blob, Event, Job, Method
from tests.core.jobs.batch_steps import ERROR, batch_log, count, items, made, nonzero, pictures, record, state
from tests.core.jobs.steps import claimed, log


class TestMaking:
    def test_each_item_is_a_job(self, database: Database) -> None:
        batch_id = made(database, 4, bad=[2], priority=7, methods=["grad_cam"], metadata={"album": 1})
        found = record(database, batch_id)
        assert (found.batch.state, found.batch.meta, found.batch.rejected) == (
            BatchState.RUNNING,
            {"album": 1},
            1,
        )
        assert nonzero(database, batch_id) == {"queued": 3, "failed": 1}
        with database.read() as session:
            jobs = session.scalars(select(Job).order_by(Job.batch_index)).all()
            states = session.execute(select(Method.job_id, Method.state, Method.finished_at)).all()
        assert [(job.batch_index, job.name, job.custom_id) for job in jobs] == [
            (i, f"{i}.png", str(i)) for i in range(4)
        ]
        assert {(job.priority, job.queue, job.batch_id) for job in jobs} == {(7, Queue.EXPLAIN, batch_id)}
        assert [job.id for job in jobs] == sorted(job.id for job in jobs)  # the order of claims
        bad = jobs[2]
        assert (bad.error, bad.finished_at is None) == (ERROR, False)
        assert [(state, at is None) for job_id, state, at in states if job_id == bad.id] == [
            (MethodState.SKIPPED, False)
        ]
        assert [event.type for event in log(database, jobs[0].id)] == ["job.created"]
        (event,) = log(database, bad.id)
        assert (event.type, event.data) == ("job.failed", {"status": "failed", "error": ERROR})
        ((type_, data),) = batch_log(database, batch_id)
        assert (type_, data["status"], sum(data["counts"].values())) == ("batch.created", "running", 4)

    def test_a_url_is_fetched_first(self, database: Database) -> None:
        with database.write() as session:
            batch_id = new_id("batch")
            urls = [Item(i, url=f"https://example.com/{i}.jpg") for i in range(2)]
            batches.create(session, batch_id, items=urls, wishes=Wishes(), max_attempts=3)
        assert nonzero(database, batch_id) == {"fetching": 2}
        assert len(claimed(database, Queue.IO, limit=5)) == 2

    def test_an_item_is_one_thing(self) -> None:
        for wrong in ({}, {"image_sha256": "a", "url": "u"}, {"url": "u", "error": ERROR}):
            with pytest.raises(ValueError, match="a picture, a URL or an error"):
                Item(0, **wrong)

    def test_one_without_a_good_item_would_never_end(self, sqlite_database: Database) -> None:
        with pytest.raises(ValueError, match="at least one item"):
            made(sqlite_database, 2, bad=[0, 1])
        assert count(sqlite_database, Batch) == 0

    def test_pictures_that_are_gone_make_nothing(self, database: Database) -> None:
        with database.write() as session:
            store_pictures(session, pictures(3)[1:])

        def make() -> None:
            with database.write() as session:
                batches.create(session, new_id("batch"), items=items(3), wishes=Wishes(), max_attempts=3)

        with pytest.raises(PicturesGone) as gone:
            make()
        assert gone.value.digests == {pictures(1)[0].sha256}
        assert count(database, Batch) == count(database, Job) == count(database, Event) == 0

    def test_a_crash_before_the_commit_makes_nothing(self, database: Database) -> None:
        with database.write() as session:
            store_pictures(session, pictures(3))

        def crash() -> None:
            with database.write() as session:
                batches.create(session, new_id("batch"), items=items(3), wishes=Wishes(), max_attempts=3)
                raise RuntimeError("the power is gone")

        with pytest.raises(RuntimeError, match="the power is gone"):
            crash()
        assert count(database, Batch) == count(database, Job) == count(database, Event) == 0
        with database.write() as session:
            found, _ = retention.orphans(session, older_than_seconds=-1)
            assert retention.delete_unreferenced(session, found) == 3

    def test_a_young_orphan_may_belong_to_a_batch_to_come(self, database: Database) -> None:
        with database.write() as session:
            store_pictures(session, pictures(1))
            assert retention.orphans(session) == ([], None)
            session.execute(update(Blob).values(created_at=db_now(-retention.ORPHAN_SECONDS - 1)))
            assert retention.orphans(session) == ([pictures(1)[0].sha256], None)

    def test_a_key_makes_one_batch(self, database: Database) -> None:
        once = Idempotency("key", "digest")
        first = made(database, once=once)
        assert made(database, once=once) == first
        assert made(database, once=once, owner="key_1") != first
        with pytest.raises(IdempotencyKeyReused):
            made(database, once=Idempotency("key", "another"))
        assert count(database, Batch) == 2

    def test_a_deadline_is_that_of_every_job(self, database: Database) -> None:
        batch_id = made(database, deadline_seconds=100)
        with database.write() as session:
            passed = select(func.count()).where(Job.deadline_at.between(db_now(80), db_now(101)))
            assert session.scalar(passed) == 3
            session.execute(update(Job).values(deadline_at=db_now(-1)))
            assert rescue.expire(session, limit=9) == 3
        assert state(database, batch_id) is BatchState.COMPLETED
        assert nonzero(database, batch_id) == {"expired": 3}
