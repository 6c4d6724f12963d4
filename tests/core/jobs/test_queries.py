from __future__ import annotations

import pytest
from sqlalchemy import insert

from core.database import Database, db_now
from core.errors import NotFound, ServiceUnavailable
from core.jobs import claims, places, queries, results
from core.jobs.blobs import store_blob
from core.jobs.queries import event_seqs, get_job, list_jobs, picture_of, queue_depths
from core.jobs.states import JobState, Queue
from core.jobs.submit import Submission, submit_all
from core.jobs.tables import Artifact, Batch
from tests.core.jobs.steps import PICTURE, ended, running, set_columns, submitted


def listed(database: Database, **filters: object) -> list[str]:
    with database.read() as session:
        return [record.job.id for record in list_jobs(session, **filters)]  # type: ignore[arg-type]


def position(database: Database, job_id: str) -> int | None:
    with database.read() as session:
        return get_job(session, job_id).position


def test_a_job_with_all_that_is_shown_of_it(database: Database) -> None:
    claim = running(database, methods=("occlusion", "grad_cam"))
    with database.write() as session:
        digest = store_blob(session, b"a heatmap")
        for name in ("overlay.png", "heatmap.png"):
            row = {"job_id": claim.job_id, "method": "grad_cam", "name": name, "media_type": "image/png"}
            session.execute(insert(Artifact).values(row | {"blob_sha256": digest, "size": 9}))
    with database.read() as session:
        record = get_job(session, claim.job_id)
    assert record.job.id == claim.job_id
    assert record.image is not None
    assert record.image.width == 640
    assert [method.name for method in record.methods] == ["occlusion", "grad_cam"]
    assert [artifact.name for artifact in record.artifacts] == ["heatmap.png", "overlay.png"]
    assert record.position is None


def test_a_session_that_has_read_a_job_before_reads_what_it_is_now(database: Database) -> None:
    job_id = submitted(database)
    with database.write() as session:
        assert get_job(session, job_id).job.state is JobState.QUEUED
        results.cancel(session, job_id)
        assert get_job(session, job_id).job.state is JobState.CANCELED
        assert list_jobs(session)[0].job.state is JobState.CANCELED


def test_an_owner_sees_only_its_own(database: Database) -> None:
    mine, other = submitted(database, owner="key_1"), submitted(database, owner="key_2")
    anonymous = submitted(database)
    assert listed(database, owner="key_1") == [mine]
    assert listed(database) == [anonymous, other, mine]
    with database.read() as session:
        assert get_job(session, mine, owner="key_1").job.id == mine
        assert picture_of(session, mine, owner="key_1")[1] == PICTURE.data
        for job_id in (other, anonymous, "job_nothing"):
            with pytest.raises(NotFound):
                get_job(session, job_id, owner="key_1")
            with pytest.raises(NotFound):
                picture_of(session, job_id, owner="key_1")


def test_the_list_is_newest_first_and_goes_on_from_a_cursor(database: Database) -> None:
    made = [submitted(database) for _ in range(5)][::-1]
    assert listed(database, limit=2) == made[:2]
    assert listed(database, limit=2, before=made[1]) == made[2:4]
    submitted(database)  # a new one in front shifts no later page
    assert listed(database, limit=2, before=made[3]) == made[4:]


def test_the_list_has_filters(database: Database) -> None:
    with database.write() as session:
        session.execute(insert(Batch).values(id="batch_1"))
    done = ended(database, JobState.SUCCEEDED).job_id
    failed = ended(database, JobState.FAILED).job_id
    explain = submitted(database, methods=("grad_cam",), custom_id="mine")
    set_columns(database, explain, batch_id="batch_1")
    assert listed(database, states=[JobState.FAILED]) == [failed]
    assert listed(database, states=[JobState.FAILED, JobState.SUCCEEDED]) == [failed, done]
    assert listed(database, kind="explain") == [explain]
    assert listed(database, custom_id="mine") == [explain]
    assert listed(database, batch_id="batch_1") == [explain]
    assert listed(database, batch_id="batch_1", kind="predict") == []


def test_the_picture_of_a_job_that_is_not_downloaded_yet(database: Database) -> None:
    job_id = submitted(database, url="https://example.com/cat.jpg")
    with pytest.raises(NotFound, match="the job is fetching"), database.read() as session:
        picture_of(session, job_id)


def test_the_position_is_the_order_in_which_jobs_are_claimed(database: Database) -> None:
    retries = [running(database) for _ in range(2)]
    waiting = [submitted(database, priority=priority) for priority in (5, 9, 5, 0, 9)]
    submitted(database, methods=("grad_cam",))  # another queue
    for claim in retries:
        with database.write() as session:
            assert claims.give_back(session, claim)
    expected = [claim.job_id for claim in retries] + [waiting[i] for i in (1, 4, 0, 2, 3)]
    assert [position(database, job_id) for job_id in expected] == list(range(1, 8))
    order = []
    while True:
        with database.write() as session:
            taken = claims.claim(session, Queue.PREDICT, owner="w", limit=1, lease_seconds=60)
        if not taken:
            break
        order.append(taken[0].job_id)
    assert order == expected
    assert {position(database, job_id) for job_id in expected} == {None}


def test_event_numbers_of_many_jobs_at_once(database: Database) -> None:
    done, waiting = ended(database, JobState.SUCCEEDED).job_id, submitted(database)
    with database.read() as session:
        assert event_seqs(session, [waiting, done, "job_nothing"]) == {waiting: (1, False), done: (3, True)}


def test_the_depth_of_each_queue(database: Database) -> None:
    with database.read() as session:
        depths = queue_depths(session)
    assert {(depth.waiting, depth.running, depth.oldest_seconds) for depth in depths.values()} == {
        (0, 0, 0.0)
    }

    ended(database, JobState.SUCCEEDED)
    long_ago = ended(database, JobState.FAILED).job_id
    set_columns(database, long_ago, finished_at=db_now(-120))
    running(database)
    old = submitted(database)
    submitted(database, methods=("grad_cam",))
    submitted(database, url="https://example.com/cat.jpg", methods=("grad_cam",))
    set_columns(database, old, created_at=db_now(-1000))
    # What no worker has run says nothing of their pace.
    canceled = submitted(database)
    with database.write() as session:
        assert results.cancel(session, canceled) is JobState.CANCELED
    submitted(database, url="https://example.com/dog.jpg")
    with database.write() as session:
        assert len(claims.claim_fetches(session, owner="io", limit=1, lease_seconds=60)) == 1

    with database.read() as session:
        depths = queue_depths(session)
    seen = {
        queue: (depth.waiting, depth.running, depth.finished_last_minute) for queue, depth in depths.items()
    }
    assert seen == {Queue.PREDICT: (1, 1, 1), Queue.EXPLAIN: (1, 0, 0), Queue.IO: (1, 1, 0)}
    assert depths[Queue.PREDICT].oldest_seconds >= 1000
    assert depths[Queue.EXPLAIN].oldest_seconds < 900


def test_a_page_of_jobs_says_the_same_positions_as_each_job_alone(database: Database) -> None:
    first = running(database)
    with database.write() as session:  # it was tried before, so it goes first whatever its priority
        assert results.fail(session, first, ServiceUnavailable("passing"), retry_seconds=0)
    ids = [submitted(database, priority=priority) for priority in (1, 9, 5, 5)]
    ids += [submitted(database, methods=("grad_cam",), priority=priority) for priority in (0, 3)]
    with database.read() as session:
        page = {record.job.id: record.position for record in list_jobs(session)}
    assert page == {job_id: position(database, job_id) for job_id in (first.job_id, *ids)}
    assert [page[job_id] for job_id in (first.job_id, *ids)] == [1, 5, 2, 3, 4, 2, 1]


def test_places_are_counted_up_to_a_last_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LAST_POSITION", 3)
    first = running(database)
    with database.write() as session:
        assert results.fail(session, first, ServiceUnavailable("passing"), retry_seconds=0)
    ids = [first.job_id, *(submitted(database) for _ in range(4))]
    with database.read() as session:
        page = {record.job.id: record.position for record in list_jobs(session)}
    assert [page[job_id] for job_id in ids] == [1, 2, 3, 3, 3]
    assert [position(database, job_id) for job_id in ids] == [1, 2, 3, 3, 3]
    with database.write() as session:
        new = submit_all(session, {"job_a": Submission(picture=PICTURE, priority=9)}, max_attempts=3)
        new |= submit_all(session, {"job_b": Submission(picture=PICTURE)}, max_attempts=3)
        made = queries.records_of_new(session, list(new.values()), {PICTURE.sha256: PICTURE})
        assert [record.position for record in made] == [2, 3]
        assert [record.image for record in made] == [PICTURE, PICTURE]
