"""How the databases find rows among many. A plan that sorts or walks the whole queue would pass every other
test and stop the service on the day of the first large batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Integer, cast, event, func, insert, select, text, update
from sqlalchemy.orm import Session

from core.database import Database
from core.jobs import (
    batch_queries,
    claims,
    completion,
    deliveries,
    delivery_log,
    places,
    queries,
    rescue,
    results,
    retention,
)
from core.jobs.states import JobState, Queue
from core.jobs.tables import Batch, Job

WAITING = 16_000
MANY = """
    INSERT INTO jobs (id, state, queue, priority, owner, source_url, metadata, options, created_at, run_after,
                      finished_at, attempt, max_attempts, event_seq)
    WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {count})
    SELECT 'job_{state}_{queue}_' || (100000 + i), '{state}', '{queue}', i % 10, 'key_' || (i % 3), 'u',
           '{{}}', '{{}}', {now}, {now}, {finished},
           CASE '{state}' WHEN 'succeeded' THEN 1 ELSE 0 END, 3, 1
    FROM numbers
"""


DELIVERIES = """
    INSERT INTO webhook_deliveries (id, target, endpoint_id, subject_id, event_seq, event_type, payload,
                                    state, attempt, next_attempt_at, created_at)
    WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {count})
    SELECT 'msg_' || (100000 + i), 'http://a.example/', NULL, 'job_' || i, 1, 'job.succeeded', '{{}}',
           CASE WHEN i % 1000 = 0 THEN 'pending' ELSE 'delivered' END, 1, {now}, {now}
    FROM numbers
"""
ENDED = "job_succeeded_predict_"  # before the number in such a job's id


@pytest.fixture(scope="module")
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Twenty thousand waiting jobs, a few thousand downloads and a batch that has ended.

    On SQLite without statistics: nothing gathers any in the service, and with them its plans are better.
    """
    if request.param.startswith("sqlite"):
        file = tmp_path_factory.mktemp("crowded") / "pawlens.db"
        file.write_bytes(request.getfixturevalue("migrated_sqlite_file").read_bytes())
        database = Database(f"sqlite:///{file}")
    else:
        server = request.getfixturevalue("postgres_server")
        name = server.create()
        database = Database(server.url(name))
    now = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now')" if database.is_sqlite else "now()"
    with database.write() as session:
        for state, queue, count, finished in (
            ("queued", "predict", WAITING, "NULL"),
            ("queued", "explain", WAITING // 4, "NULL"),
            ("fetching", "predict", WAITING // 4, "NULL"),
            ("succeeded", "predict", WAITING // 4, now),
        ):
            session.execute(
                text(MANY.format(state=state, queue=queue, count=count, finished=finished, now=now))
            )
        session.execute(text(DELIVERIES.format(count=WAITING // 4, now=now)))
        session.execute(insert(Batch).values(id="batch_1", rejected=1))
        session.execute(
            update(Job)
            .where(Job.state == JobState.SUCCEEDED)
            .values(batch_id="batch_1", batch_index=cast(func.substr(Job.id, len(ENDED) + 1), Integer))
        )
    if request.param != "sqlite":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    yield database
    database.dispose()
    if request.param == "postgresql":
        server.drop(name)


def plans(database: Database, work: Callable[[Session], object]) -> list[str]:
    """The plans of all statements that ``work`` executes. Its changes are rolled back."""
    statements: list[tuple[str, Any]] = []

    def collect(_c: Connection, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and sql.split(maxsplit=1)[0] in ("SELECT", "UPDATE", "WITH") and "INSERT" not in sql:
            statements.append((sql, parameters))

    event.listen(database.engine, "before_cursor_execute", collect)
    with database.engine.connect() as connection, Session(connection) as session:
        work(session)
        session.rollback()
    event.remove(database.engine, "before_cursor_execute", collect)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN (COSTS OFF) "
    found = []
    with database.engine.connect() as connection:
        for sql, parameters in statements:
            rows = connection.exec_driver_sql(explain + sql, parameters)
            found.append("\n".join(str(row[-1]) for row in rows))
    assert found
    return found


def last_of_the_queue(session: Session) -> str:
    query = select(Job.id).where(Job.state == JobState.QUEUED, Job.queue == Queue.PREDICT, Job.priority == 0)
    found = session.scalar(query.order_by(Job.id.desc()).limit(1))
    assert found is not None
    return found


both = pytest.mark.parametrize(
    "crowded", ["sqlite", "sqlite with statistics", "postgresql"], indirect=True, scope="module"
)
SORTS = ("TEMP B-TREE", "Sort")


@both
def test_a_claim_walks_its_index_and_sorts_nothing(crowded: Database) -> None:
    found = plans(crowded, lambda s: claims.claim(s, Queue.PREDICT, owner="w", limit=16, lease_seconds=60))
    retry, fresh = found
    assert "ix_jobs_retries" in retry
    assert "ix_jobs_ready" in fresh
    assert not [plan for plan in (retry, fresh) for sort in SORTS if sort in plan]


@both
def test_a_claim_of_downloads_walks_its_index_and_sorts_nothing(crowded: Database) -> None:
    found = plans(crowded, lambda s: claims.claim_fetches(s, owner="w", limit=8, lease_seconds=60))
    (pick,) = found
    assert "ix_jobs_fetching" in pick
    assert not [sort for sort in SORTS if sort in pick]


@pytest.mark.parametrize("queue", [Queue.PREDICT, Queue.IO])
def test_a_claim_goes_to_its_jobs_when_the_statistics_know_of_none(
    postgres_database: Database, queue: Queue
) -> None:
    """As in the first minute of a burst: by an index of the state it would walk through the whole queue."""
    with postgres_database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE jobs")
    state = "fetching" if queue is Queue.IO else "queued"
    with postgres_database.write() as session:
        many = MANY.format(state=state, queue="predict", count=2000, finished="NULL", now="now()")
        session.execute(text(many))
        taken = claims_of(session, queue)
    found = plans(postgres_database, lambda session: claims_of(session, queue))
    if queue is Queue.PREDICT:
        results_of = [(claim, results.Result({}, {}, {})) for claim in taken]
        found += plans(postgres_database, lambda session: results.succeed_all(session, results_of))
    for plan in found:  # what chooses the jobs stands there as jobs_1
        assert set(re.findall(r"using (\w+) on jobs$", plan, re.MULTILINE)) <= {"pk_jobs"}, plan


def claims_of(session: Session, queue: Queue) -> list[claims.Claim]:
    if queue is Queue.IO:
        return claims.claim_fetches(session, owner="w", limit=16, lease_seconds=60)
    return claims.claim(session, queue, owner="w", limit=16, lease_seconds=60)


@both
def test_rescue_looks_only_at_leases_and_expire_only_at_deadlines(crowded: Database) -> None:
    for plan in plans(crowded, lambda s: rescue.rescue(s, retry_seconds=1)):
        assert "ix_jobs_leases" in plan
    for plan in plans(crowded, lambda s: rescue.expire(s, limit=9)):
        assert "ix_jobs_deadlines" in plan


@both
def test_what_is_ready_is_counted_in_its_index(crowded: Database) -> None:
    for queue, names in (
        (Queue.PREDICT, ["ix_jobs_ready", "ix_jobs_retries"]),
        (Queue.IO, ["ix_jobs_fetching", "ix_webhook_deliveries_due"]),
    ):
        found = plans(crowded, lambda s, queue=queue: rescue.ready(s, queue, at_most=1000))  # type: ignore[misc]
        for plan, name in zip(found, names, strict=True):
            assert name in plan


@both
def test_old_jobs_are_found_among_themselves(crowded: Database) -> None:
    found = plans(crowded, lambda s: retention.delete_finished(s, older_than_seconds=-60, limit=20))
    # All that have ended here are of a batch, which PostgreSQL knows of none in particular.
    assert "ix_jobs_single_finished_at" in found[0] or not crowded.is_sqlite
    assert not [sort for sort in SORTS if sort in found[0]]
    if crowded.is_sqlite:  # of the one batch that there is PostgreSQL reads the table
        assert "ix_batches_finished_at" in found[1]


@both
def test_the_depths_look_at_the_last_minute_and_not_at_all_that_ever_ended(crowded: Database) -> None:
    assert "ix_jobs_finished_at" in plans(crowded, queries.queue_depths)[-1]


@both
def test_few_explanations_are_found_among_many_predictions(crowded: Database) -> None:
    (plan, *_) = plans(crowded, lambda s: queries.list_jobs(s, kind="explain", limit=20))
    assert not [sort for sort in SORTS if sort in plan]
    if crowded.is_sqlite:  # here a fifth are explanations, and PostgreSQL walks back from the newest job
        assert "ix_jobs_explain" in plan


@both
def test_a_receiver_is_throttled_by_what_waits_for_it(crowded: Database) -> None:
    """And not by all that was ever sent to it."""
    refusal = deliveries.Outcome(429, 0.1, "busy")
    (plan,) = plans(crowded, lambda s: deliveries._throttle(s, "http://a.example/", refusal))
    assert "ix_webhook_deliveries_due" in plan


@both
def test_the_deliveries_of_an_endpoint_are_read_by_the_page(crowded: Database) -> None:
    (plan,) = plans(crowded, lambda s: delivery_log.list_deliveries(s, endpoint_id="we_1"))
    assert "ix_webhook_deliveries_endpoint_id_id" in plan
    assert not [sort for sort in SORTS if sort in plan]


@both
def test_the_position_is_counted_in_the_index(crowded: Database) -> None:
    with crowded.read() as session:
        last = last_of_the_queue(session)
        job = session.get_one(Job, last)
        middle = session.scalar(select(Job).where(Job.queue == Queue.PREDICT, Job.priority == 8).limit(1))
        assert queries.get_job(session, last).position == places.LAST_POSITION < WAITING
    assert middle is not None
    assert job.priority == 0
    plan = plans(crowded, lambda s: queries.get_job(s, middle.id))[-1]
    assert "ix_jobs_ready" in plan
    assert "ix_jobs_retries" in plan


@both
def test_the_list_reads_a_page_and_not_all(crowded: Database) -> None:
    filters: list[dict[str, Any]] = [{}, {"owner": "key_1"}, {"states": [JobState.SUCCEEDED]}]
    for one in filters:
        plan = plans(crowded, lambda s, one=one: queries.list_jobs(s, limit=20, **one))[0]  # type: ignore[misc]
        assert not [sort for sort in SORTS if sort in plan], (one, plan)


@both
def test_a_page_of_results_reads_a_page_and_not_the_batch(crowded: Database) -> None:
    (plan,) = plans(crowded, lambda s: batch_queries.results(s, "batch_1", after=101_000, limit=500))
    assert "ix_jobs_batch_id_index" in plan
    assert not [sort for sort in SORTS if sort in plan]


@both
def test_whether_a_batch_has_ended_is_one_look_into_an_index(crowded: Database) -> None:
    found = plans(crowded, lambda s: completion.look(s, ["batch_1"]))
    assert "ix_jobs_batch_unfinished" in found[1]
    assert not [sort for sort in SORTS if sort in found[1]]


@both
def test_refused_items_are_found_among_themselves(crowded: Database) -> None:
    found = plans(crowded, lambda s: batch_queries.get_batch(s, "batch_1"))
    assert "ix_jobs_rejected" in found[-1]
    assert not [sort for sort in SORTS if sort in found[-1]]
