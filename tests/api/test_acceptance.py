from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from sqlalchemy import event, func, inspect, select
from sqlalchemy.orm import DeclarativeBase

from api.acceptance import MAX_BYTES, Acceptance, Accepted
from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs import queries
from core.jobs.blobs import Picture
from core.jobs.submit import Idempotency, IdempotencyKeyReused, Submission
from core.jobs.tables import Blob, Event, Image, Job
from tests.processes import eventually


def picture(content: bytes = b"picture") -> Picture:
    return Picture(content, 640, 480, "image/png")


def wish(content: bytes = b"picture", **wishes: object) -> Submission:
    return Submission(picture=picture(content), **wishes)  # type: ignore[arg-type]


@pytest.fixture
def acceptance(database: Database) -> Iterator[Acceptance]:
    """Not started: what is posted before it starts is one group."""
    made = Acceptance(database, max_attempts=3)
    yield made
    if made._thread.ident is not None:
        made.stop()


def answers(acceptance: Acceptance, posted: list[Future[Accepted]]) -> list[Accepted]:
    acceptance.start()
    return [future.result(timeout=30) for future in posted]


def count(database: Database, table: type) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def commits(database: Database) -> list[int]:
    seen: list[int] = []
    event.listen(database.engine, "commit", lambda _connection: seen.append(1))
    return seen


def test_what_waits_is_written_in_one_transaction(
    acceptance: Acceptance, database: Database, commits: list[int]
) -> None:
    posted = [acceptance.post(wish(b"%d" % (i % 7))) for i in range(50)]
    made = answers(acceptance, posted)
    acceptance.stop()
    assert len(commits) == 1
    assert len({accepted.job_id for accepted in made}) == 50
    assert (count(database, Job), count(database, Event), count(database, Blob)) == (50, 50, 7)


def test_a_picture_that_was_written_is_not_kept(acceptance: Acceptance) -> None:
    """Until the next one is posted, which may take hours."""
    wished = wish(bytes(1 << 20))
    kept = weakref.ref(wished)
    posted = [acceptance.post(wished)]
    del wished
    answers(acceptance, posted)
    eventually(lambda: kept() is None, seconds=10)


def test_each_is_answered_with_its_own_job_as_it_is_in_the_database(
    acceptance: Acceptance, database: Database
) -> None:
    wishes = [
        wish(b"a", priority=5, custom_id="first", metadata={"n": 1}),
        wish(b"b", priority=9, methods=("occlusion", "grad_cam")),
        Submission(url="https://example.com/cat.jpg"),
        wish(b"a", priority=5, deadline_seconds=90),
        wish(b"c", priority=9),
    ]
    for accepted in answers(acceptance, [acceptance.post(each) for each in wishes]):
        assert accepted.record is not None
        with database.read() as session:
            stored = queries.get_job(session, accepted.job_id)
        shown = accepted.record
        assert columns(shown.job) == columns(stored.job)
        assert shown.position == stored.position
        assert what_is_shown_of(shown.image) == what_is_shown_of(stored.image)
        assert [columns(method) for method in shown.methods] == [columns(each) for each in stored.methods]


def what_is_shown_of(image: Image | Picture | None) -> tuple[object, ...] | None:
    return image and (image.sha256, image.width, image.height, image.media_type)


def columns(row: DeclarativeBase) -> dict[str, object]:
    return {attribute.key: getattr(row, attribute.key) for attribute in inspect(type(row)).column_attrs}


def test_places_count_on_behind_those_that_wait_already(acceptance: Acceptance) -> None:
    first = acceptance.post(wish())
    acceptance.start()
    first.result(timeout=30)
    priorities = [5, 9, 5, 0, 9, 5]
    posted = [acceptance.post(wish(priority=priority)) for priority in priorities]
    for future in posted:
        future.result(timeout=30)
    with acceptance._database.read() as session:
        places = [queries.get_job(session, future.result().job_id).position for future in posted]
    assert places == [4, 1, 5, 7, 2, 6]


def test_the_same_request_twice_in_one_group_makes_one_job(
    acceptance: Acceptance, database: Database
) -> None:
    once = Idempotency("key", "digest")
    posted = [acceptance.post(wish(owner="key_1"), once) for _ in range(3)]
    posted.append(acceptance.post(wish(owner="key_2"), once))
    first, second, third, other = answers(acceptance, posted)
    assert first.job_id == second.job_id == third.job_id != other.job_id
    assert [each.is_replayed for each in (first, second, third, other)] == [False, True, True, False]
    assert count(database, Job) == 2


def test_a_key_used_for_another_request_refuses_that_one_alone(
    acceptance: Acceptance, database: Database
) -> None:
    good = acceptance.post(wish(), Idempotency("key", "digest"))
    bad = acceptance.post(wish(), Idempotency("key", "another"))
    plain = acceptance.post(wish())
    acceptance.start()
    with pytest.raises(IdempotencyKeyReused, match="another request"):
        bad.result(timeout=30)
    assert good.result(timeout=30).job_id != plain.result(timeout=30).job_id
    assert count(database, Job) == 2


def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    acceptance: Acceptance, database: Database
) -> None:
    """A priority beyond the CHECK stands for whatever the checks before may have overlooked."""
    posted = [acceptance.post(wish(b"%d" % i, priority=77 if i == 2 else 5)) for i in range(5)]
    acceptance.start()
    with pytest.raises(Exception, match="priority_range"):
        posted[2].result(timeout=30)
    for i in (0, 1, 3, 4):
        assert posted[i].result(timeout=30).record is not None
    assert (count(database, Job), count(database, Blob)) == (4, 4)


def test_a_client_that_went_away_before_its_turn_makes_no_job(
    acceptance: Acceptance, database: Database
) -> None:
    gone = acceptance.post(wish())
    stays = acceptance.post(wish())
    assert gone.cancel()
    answers(acceptance, [stays])
    assert count(database, Job) == 1


def test_large_pictures_are_not_all_written_at_once(acceptance: Acceptance, commits: list[int]) -> None:
    large = bytes(MAX_BYTES // 2)
    made = answers(acceptance, [acceptance.post(wish(large + b"%d" % i)) for i in range(3)])
    acceptance.stop()
    assert len(commits) >= 2
    assert all(accepted.record for accepted in made)


def test_stopping_writes_what_was_posted_and_refuses_more(acceptance: Acceptance, database: Database) -> None:
    posted = [acceptance.post(wish()) for _ in range(120)]
    acceptance.start()
    acceptance.stop()
    assert all(future.done() for future in posted)
    assert count(database, Job) == 120
    with pytest.raises(ServiceUnavailable, match="stopping"):
        acceptance.post(wish())


def test_while_the_database_is_away_each_is_told(acceptance: Acceptance, database: Database) -> None:
    with database.write() as session:
        for table in ("artifacts", "methods", "jobs"):
            session.connection().exec_driver_sql(f"DROP TABLE {table}")
    posted = [acceptance.post(wish()) for _ in range(3)]
    acceptance.start()
    for future in posted:
        assert future.exception(timeout=30) is not None
    assert acceptance._thread.is_alive()
