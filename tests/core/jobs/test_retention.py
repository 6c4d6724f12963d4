"""Removing: old jobs and orphans go, and nothing goes that somebody is about to refer to."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import explanations, results, retention
from core.jobs.blobs import store_blob
from core.jobs.claims import Claim
from core.jobs.explanations import File, Finished
from core.jobs.ids import new_id
from core.jobs.queries import picture_of
from core.jobs.states import FINAL, JobState
from core.jobs.submit import Idempotency, Naming, Submission, name_requests, submit
from core.jobs.tables import Artifact, Blob, Event, IdempotencyKey, Image, Job, Method, Table
from tests.core.jobs.steps import PICTURE, RESULT, ended, job, running, set_columns, submitted
from tests.core.jobs.test_races import together

DIGEST = sha256(PICTURE.data).hexdigest()
DAY = 86_400.0
YOUNG = -1.0  # as old as whatever was stored this instant


def count(database: Database, table: type[Table]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def delete(database: Database, job_id: str) -> None:
    with database.write() as session:
        retention.delete_job(session, job_id)


def explained(database: Database, *, key: str = "key", data: bytes = b"map") -> Claim:
    """A finished job with one finished method."""
    claim = running(database, methods=("grad_cam",))
    with database.write() as session:
        assert explanations.start(session, claim, "grad_cam", key=key)
        finished = Finished({"map.png": File(data, "image/png")}, quality={}, provenance={}, seconds=1)
        assert explanations.finish(session, claim, "grad_cam", finished)
        assert results.succeed(session, claim, **RESULT)
    return claim


def finished_days_ago(database: Database, days: float, **wishes: Any) -> str:
    claim = running(database, **wishes)
    with database.write() as session:
        assert results.succeed(session, claim, **RESULT)
    set_columns(database, claim.job_id, finished_at=db_now(-days * DAY))
    return claim.job_id


class TestDelete:
    def test_leaves_nothing(self, database: Database) -> None:
        claim = explained(database)
        delete(database, claim.job_id)
        for table in (Job, Method, Artifact, Event, Image, Blob):
            assert count(database, table) == 0, table

    def test_another_owners_job_is_not_there(self, database: Database) -> None:
        claim = running(database, owner="key_1")
        with database.write() as session:
            assert results.succeed(session, claim, **RESULT)
        with database.write() as session, pytest.raises(NotFound):
            retention.delete_job(session, claim.job_id, owner="key_2")
        with database.write() as session:
            retention.delete_job(session, claim.job_id, owner="key_1")
        assert count(database, Job) == 0

    def test_a_job_that_has_not_ended_stays(self, database: Database) -> None:
        claim = running(database)
        with pytest.raises(Conflict, match="running"):
            delete(database, claim.job_id)
        assert job(database, claim.job_id).state is JobState.RUNNING

    def test_a_rollback_leaves_everything(self, database: Database) -> None:
        claim = explained(database)

        def change_of_mind() -> None:
            with database.write() as session:
                retention.delete_job(session, claim.job_id)
                raise RuntimeError("changed my mind")

        with pytest.raises(RuntimeError, match="changed my mind"):
            change_of_mind()
        assert [count(database, table) for table in (Job, Method, Artifact, Blob)] == [1, 1, 1, 2]

    def test_twice_at_once_it_is_deleted_once(self, database: Database) -> None:
        claim = ended(database, JobState.SUCCEEDED)

        def once() -> bool:
            try:
                delete(database, claim.job_id)
            except NotFound:
                return False
            return True

        assert sorted(together(once, once)) == [False, True]


class TestOldJobs:
    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_go_however_they_ended(self, sqlite_database: Database, state: JobState) -> None:
        claim = ended(sqlite_database, state)
        set_columns(sqlite_database, claim.job_id, finished_at=db_now(-8 * DAY))
        with sqlite_database.write() as session:
            assert retention.delete_finished(session, older_than_seconds=7 * DAY, limit=10) == 1
        assert count(sqlite_database, Job) == count(sqlite_database, Blob) == 0

    def test_go_oldest_first_and_in_small_batches(self, database: Database) -> None:
        young = finished_days_ago(database, 6.9)
        unfinished = submitted(database)
        set_columns(database, unfinished, created_at=db_now(-100 * DAY))
        old = [finished_days_ago(database, days, custom_id=str(days), priority=9) for days in (8, 10, 9)]
        left = []
        for _ in range(3):
            with database.write() as session:
                removed = retention.delete_finished(session, older_than_seconds=7 * DAY, limit=2)
                left.append((removed, set(session.scalars(select(Job.id)))))
        assert left == [
            (2, {young, unfinished, old[0]}),
            (1, {young, unfinished}),
            (0, {young, unfinished}),
        ]
        assert count(database, Blob) == 1  # they all had the same picture

    def test_are_shared_out_among_many_that_remove(self, database: Database) -> None:
        for _ in range(12):
            finished_days_ago(database, 8)

        def remove() -> int:
            with database.write() as session:
                return retention.delete_finished(session, older_than_seconds=7 * DAY, limit=5)

        assert sum(together(remove, remove, remove)) == 12 - count(database, Job) > 0
        while remove():
            pass
        assert count(database, Job) == count(database, Event) == 0


class TestOrphans:
    def test_partial_maps_and_whatever_nobody_has(self, database: Database) -> None:
        claim = running(database, methods=("grad_cam",))
        for i in range(3):
            with database.write() as session:
                partial = File(b"partial %d" % i, "image/png")
                assert explanations.progress(session, claim, "grad_cam", done=i, total=9, partial=partial)
        with database.write() as session:
            stray = store_blob(session, b"stray")
        with database.read() as session:
            found, more = retention.orphans(session, older_than_seconds=YOUNG)
        expected = {sha256(b"partial %d" % i).hexdigest() for i in range(2)} | {stray}
        assert (set(found), more) == (expected, None)
        with database.write() as session:
            assert retention.delete_unreferenced(session, found) == 3
        assert count(database, Blob) == 2  # the picture and the newest map

    def test_are_looked_for_in_steps(self, database: Database) -> None:
        with database.write() as session:
            strays = sorted(store_blob(session, bytes([i])) for i in range(7))
        submitted(database)
        seen: list[str] = []
        after: str | None = ""
        steps = 0
        while after is not None:
            with database.read() as session:
                found, after = retention.orphans(session, after=after, limit=2, older_than_seconds=YOUNG)
            assert len(found) <= 2
            seen += found
            steps += 1
        assert sorted(seen) == strays
        assert steps == 5  # eight blobs, and one step to see that there are no more

    def test_what_is_used_again_meanwhile_stays(self, database: Database) -> None:
        with database.write() as session:
            store_blob(session, PICTURE.data)
        with database.read() as session:
            found, _ = retention.orphans(session, older_than_seconds=YOUNG)
        assert found == [DIGEST]
        submitted(database)
        with database.write() as session:
            assert retention.delete_unreferenced(session, found) == 0
        assert count(database, Blob) == 1


def is_blocked(future: Future[Any]) -> bool:
    """Nothing but a lock holds these few statements up for so long."""
    threading.Event().wait(0.5)
    return not future.done()


class TestRaces:
    """Two transactions, each open while the other does its work: both orders, at the worst moment."""

    def test_a_picture_that_is_posted_while_its_only_job_is_deleted(self, database: Database) -> None:
        """The removal is first: the new job waits for it, and brings the picture anew."""
        old = ended(database, JobState.SUCCEEDED)
        new: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            with database.write() as session:
                retention.delete_job(session, old.job_id)
                future = pool.submit(lambda: new.append(submitted(database)))
                assert is_blocked(future)
            future.result(timeout=60)
        with database.read() as session:
            assert picture_of(session, new[0])[1] == PICTURE.data

    def test_a_job_that_is_deleted_while_its_picture_is_posted(self, database: Database) -> None:
        """The new job is first: the removal leaves what it uses, without having seen it committed."""
        old = ended(database, JobState.SUCCEEDED)
        with ThreadPoolExecutor(1) as pool:
            with database.write() as session:
                new = submit(session, Submission(picture=PICTURE), max_attempts=3)
                future = pool.submit(delete, database, old.job_id)
                # SQLite has one writer at a time; on PostgreSQL the removal passes over what is held.
                assert is_blocked(future) == database.is_sqlite
            future.result(timeout=60)
        with database.read() as session:
            assert picture_of(session, new)[1] == PICTURE.data
        assert count(database, Job) == 1

    def test_what_was_passed_over_is_found_later(self, postgres_database: Database) -> None:
        """When the new job comes to nothing after all, the picture is an orphan."""
        old = ended(postgres_database, JobState.SUCCEEDED)

        def change_of_mind(session: Session) -> None:
            submit(session, Submission(picture=PICTURE), max_attempts=3)
            delete(postgres_database, old.job_id)
            raise RuntimeError("changed my mind")

        with pytest.raises(RuntimeError, match="changed my mind"), postgres_database.write() as session:
            change_of_mind(session)
        with postgres_database.write() as session:
            found, _ = retention.orphans(session, older_than_seconds=YOUNG)
            assert found == [DIGEST]
            assert retention.delete_unreferenced(session, found) == 1
        assert count(postgres_database, Image) == 0

    def test_a_result_that_is_reused_while_its_job_is_deleted(self, database: Database) -> None:
        old = explained(database)
        claim = running(database, methods=("grad_cam",))
        with ThreadPoolExecutor(1) as pool:
            with database.write() as session:
                assert explanations.reuse(session, claim, "grad_cam", key="key")
                future = pool.submit(delete, database, old.job_id)
                assert is_blocked(future)
            future.result(timeout=60)
        with database.read() as session:
            artifact = session.get_one(Artifact, (claim.job_id, "grad_cam", "map.png"))
            assert session.get_one(Blob, artifact.blob_sha256).data == b"map"

    def test_a_job_that_is_deleted_while_its_result_would_be_reused(self, database: Database) -> None:
        old = explained(database)
        claim = running(database, methods=("grad_cam",))
        answers: list[bool | None] = []

        def reuse() -> None:
            with database.write() as session:
                answers.append(explanations.reuse(session, claim, "grad_cam", key="key"))

        with ThreadPoolExecutor(1) as pool:
            with database.write() as session:
                retention.delete_job(session, old.job_id)
                future = pool.submit(reuse)
                assert is_blocked(future)
            future.result(timeout=60)
        assert answers == [None]  # there is none any more: it is computed
        assert count(database, Artifact) == 0

    def test_posting_and_deleting_the_same_picture_all_the_time(self, database_url: str) -> None:
        databases = [Database(database_url) for _ in range(4)]

        def come_and_go(database: Database) -> None:
            for _ in range(25):
                with database.write() as session:
                    job_id = submit(session, Submission(picture=PICTURE), max_attempts=3)
                with database.read() as session:
                    assert picture_of(session, job_id)[1] == PICTURE.data
                with database.write() as session:
                    results.cancel(session, job_id)
                delete(database, job_id)

        together(*(lambda database=database: come_and_go(database) for database in databases))
        assert count(databases[0], Job) == count(databases[0], Event) == 0
        with databases[0].write() as session:
            found, _ = retention.orphans(session, older_than_seconds=YOUNG)
            retention.delete_unreferenced(session, found)
        assert count(databases[0], Blob) == count(databases[0], Image) == 0
        for database in databases:
            database.dispose()


class TestKeys:
    def once(self, database: Database, key: str = "k") -> tuple[str, bool]:
        with database.write() as session:
            job_id = new_id("job")
            (made,) = name_requests(session, [Naming(job_id, Idempotency(key, "d"), None)])
            assert isinstance(made, str)
            if made == job_id:
                submit(session, Submission(picture=PICTURE), max_attempts=3, job_id=job_id)
            return made, made != job_id

    def test_are_kept_for_a_day(self, database: Database) -> None:
        old, _ = self.once(database, "old")
        young, _ = self.once(database, "young")
        for job_id, hours in ((old, 24.1), (young, 23.9)):
            with database.write() as session:
                row = session.scalars(select(IdempotencyKey).where(IdempotencyKey.subject_id == job_id)).one()
                row.created_at = db_now(-hours * 3600)
        with database.write() as session:
            retention.forget_keys(session)
        assert self.once(database, "young") == (young, True)
        assert self.once(database, "old")[1] is False

    def test_a_key_that_is_used_while_its_job_is_deleted(self, database: Database) -> None:
        first, _ = self.once(database)
        with database.write() as session:
            results.cancel(session, first)
        with ThreadPoolExecutor(1) as pool:
            with database.write() as session:
                retention.delete_job(session, first)
                future = pool.submit(self.once, database)
                assert is_blocked(future)
            second, replayed = future.result(timeout=60)
        assert not replayed
        assert second != first
        assert job(database, second).state is JobState.QUEUED
