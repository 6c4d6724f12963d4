from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import func, select

from core.database import Database
from core.jobs.states import JobState, MethodState, Queue
from core.jobs.submit import Submission, submit
from core.jobs.tables import Blob, Event, Image, Job, Method
from tests.core.jobs.steps import PICTURE, job, log, submitted


def test_a_job_with_its_picture_and_first_event(database: Database) -> None:
    job_id = submitted(database, priority=7, custom_id="mine", metadata={"a": [1, None]}, owner="key_1")

    row = job(database, job_id)
    assert (row.state, row.queue, row.priority, row.attempt) == (JobState.QUEUED, Queue.PREDICT, 7, 0)
    assert (row.custom_id, row.meta, row.owner) == ("mine", {"a": [1, None]}, "key_1")
    assert row.image_sha256 == hashlib.sha256(PICTURE.data).hexdigest()
    assert row.deadline_at is None
    (event,) = log(database, job_id)
    assert (event.type, event.data) == ("job.created", {"status": "queued"})
    with database.read() as session:
        blob = session.get_one(Blob, row.image_sha256)
        image = session.get_one(Image, row.image_sha256)
    assert (blob.data, blob.size) == (PICTURE.data, len(PICTURE.data))
    assert (image.width, image.height, image.media_type) == (640, 480, "image/png")


def test_the_same_picture_is_kept_once(database: Database) -> None:
    submitted(database)
    submitted(database)
    with database.read() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Blob, Image, Job)]
    assert counts == [1, 1, 2]


def test_a_url_is_to_be_downloaded_first(database: Database) -> None:
    row = job(database, submitted(database, url="https://example.com/cat.jpg"))
    assert (row.state, row.image_sha256) == (JobState.FETCHING, None)
    assert row.source_url == "https://example.com/cat.jpg"


def test_methods_put_it_on_the_explain_queue_in_their_order(database: Database) -> None:
    job_id = submitted(database, methods=("occlusion", "grad_cam"))
    assert job(database, job_id).queue is Queue.EXPLAIN
    with database.read() as session:
        methods = session.scalars(select(Method).order_by(Method.position)).all()
    assert [(method.name, method.state) for method in methods] == [
        ("occlusion", MethodState.QUEUED),
        ("grad_cam", MethodState.QUEUED),
    ]


def test_the_deadline_is_the_databases_time_plus_seconds(database: Database) -> None:
    row = job(database, submitted(database, deadline_seconds=90))
    assert row.deadline_at is not None
    assert row.deadline_at.tzinfo is not None
    assert (row.deadline_at - row.created_at).total_seconds() == pytest.approx(90, abs=0.01)


def test_a_rollback_leaves_nothing(database: Database) -> None:
    def change_of_mind() -> None:
        with database.write() as session:
            submit(session, Submission(picture=PICTURE, methods=("kernels",)), max_attempts=3)
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        change_of_mind()
    with database.read() as session:
        for table in (Blob, Image, Job, Method, Event):
            assert session.scalar(select(func.count()).select_from(table)) == 0


@pytest.mark.parametrize("both", [True, False])
def test_a_picture_or_a_url_and_not_both(both: bool) -> None:
    with pytest.raises(ValueError, match="either a picture or a URL"):
        Submission(picture=PICTURE, url="https://example.com") if both else Submission()
