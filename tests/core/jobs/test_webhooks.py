"""Who is told: the deliveries that are written with a job's end, and nothing without one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, update

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import results, webhook_secrets, webhooks
from core.jobs.ids import new_id
from core.jobs.rescue import expire, rescue
from core.jobs.states import FINAL, JobState
from core.jobs.tables import Batch, WebhookDelivery, WebhookEndpoint
from tests.core.jobs.steps import RESULT, Lasting, change, end_lease, ended, job, running, submitted

URL = "https://example.com/hook"


def register(database: Database, **wishes: Any) -> WebhookEndpoint:
    with database.write() as session:
        return webhooks.create_endpoint(session, URL, **{"owner": None} | wishes)


def deliveries(database: Database) -> list[WebhookDelivery]:
    with database.read() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def succeed(database: Database, **wishes: Any) -> str:
    claim = running(database, **wishes)
    with database.write() as session:
        assert results.succeed(session, claim, **RESULT)
    return claim.job_id


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that are executed in the block."""
    statements: list[str] = []

    def collect(_c: Connection, _cursor: Any, sql: str, *_: Any) -> None:
        if not sql.startswith("BEGIN"):
            statements.append(sql)

    event.listen(database.engine, "before_cursor_execute", collect)
    yield statements
    event.remove(database.engine, "before_cursor_execute", collect)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_every_end_is_told_once_with_a_thin_payload(database: Database, state: JobState) -> None:
    endpoint = register(database)
    claim = ended(database, state)
    (delivery,) = deliveries(database)
    found = job(database, claim.job_id)
    assert (delivery.target, delivery.endpoint_id) == (endpoint.id, endpoint.id)
    assert (delivery.subject_id, delivery.event_seq) == (found.id, found.event_seq)
    assert delivery.event_type == f"job.{state}"
    payload = json.loads(delivery.payload)
    assert found.finished_at is not None
    assert payload == {
        "type": f"job.{state}",
        "timestamp": found.finished_at.isoformat().replace("+00:00", "Z"),
        "data": {
            "id": found.id,
            "status": str(state),
            "custom_id": None,
            "batch_id": None,
            "sequence": found.event_seq,
            "links": {"self": f"/v1/jobs/{found.id}"},
        },
    }


def rescued_in_vain(database: Database) -> None:
    claim = running(database, max_attempts=1)
    end_lease(database, claim.job_id)
    with database.write() as session:
        assert rescue(session, retry_seconds=0).failed == 1


def canceled_while_waiting(database: Database) -> None:
    job_id = submitted(database)
    with database.write() as session:
        assert results.cancel(session, job_id) is JobState.CANCELED


def many_deadlines(database: Database) -> None:
    ids = [submitted(database, deadline_seconds=60) for _ in range(3)]
    with database.write() as session:
        for job_id in ids:
            change(session, job_id, deadline_at=db_now(-1))
        assert expire(session, limit=9) == 3


@pytest.mark.parametrize(
    ("end", "told"), [(rescued_in_vain, 1), (canceled_while_waiting, 1), (many_deadlines, 3)]
)
def test_no_way_to_an_end_leads_past_the_webhooks(
    database: Database, end: Callable[[Database], None], told: int
) -> None:
    register(database)
    end(database)
    assert len(deliveries(database)) == told


def test_the_end_and_its_deliveries_are_one_transaction(database: Database) -> None:
    register(database)
    claim = running(database)

    def succeed_and_break() -> None:
        with database.write() as session:
            assert results.succeed(session, claim, **RESULT)
            assert webhooks.written(session)
            raise RuntimeError("before the commit")

    with pytest.raises(RuntimeError, match="before the commit"):
        succeed_and_break()
    assert job(database, claim.job_id).state is JobState.RUNNING
    assert deliveries(database) == []


def test_a_job_on_its_way_and_one_that_is_tried_again_tell_nothing(database: Database) -> None:
    register(database)
    claim = running(database, webhook_url=URL)
    end_lease(database, claim.job_id)
    with database.write() as session:
        assert rescue(session, retry_seconds=0).requeued == 1
        assert not webhooks.written(session)
    assert deliveries(database) == []


def test_without_webhooks_an_end_costs_no_statement_more(database: Database) -> None:
    def statements_of_an_end() -> int:
        claim = running(database)
        with database.write() as session, counted(database) as statements:
            assert results.succeed(session, claim, **RESULT)
        return len(statements)

    assert statements_of_an_end() == 2  # the state, and its event
    endpoint = register(database)
    assert statements_of_an_end() == 4  # who wants it, and the deliveries
    with database.write() as session:
        session.get_one(WebhookEndpoint, endpoint.id).disabled_at = db_now()
        webhook_secrets.own_secret(session, None)  # is no receiver
    assert statements_of_an_end() == 2


def test_an_endpoint_hears_of_what_it_asked_for(database: Database) -> None:
    everything = register(database)
    failures = register(database, events=["job.failed", "job.partial"])
    succeed(database)
    failed = running(database)
    with database.write() as session:
        results.fail(session, failed, Lasting("no"), retry_seconds=0)
    told = [(delivery.endpoint_id, delivery.event_type) for delivery in deliveries(database)]
    assert sorted(told) == sorted(
        [
            (everything.id, "job.succeeded"),
            (everything.id, "job.failed"),
            (failures.id, "job.failed"),
        ]
    )


def test_a_job_may_have_a_receiver_and_a_filter_of_its_own(database: Database) -> None:
    told = succeed(database, webhook_url=URL)
    also_told = succeed(database, webhook_url=URL, webhook_events=["job.succeeded"])
    succeed(database, webhook_url=URL, webhook_events=["job.failed"])
    found = deliveries(database)
    assert [delivery.subject_id for delivery in found] == [told, also_told]
    assert {(delivery.target, delivery.endpoint_id) for delivery in found} == {(URL, None)}


def test_an_owner_hears_of_its_own_jobs_alone(database: Database) -> None:
    by_owner = {owner: register(database, owner=owner) for owner in ("key_a", "key_b", None)}
    for owner, endpoint in by_owner.items():
        job_id = succeed(database, owner=owner)
        told = [d for d in deliveries(database) if d.subject_id == job_id]
        assert [(d.endpoint_id, d.owner) for d in told] == [(endpoint.id, owner)]


def test_jobs_of_a_batch_are_told_to_those_that_name_them(database: Database) -> None:
    register(database)
    named = register(database, events=["job.succeeded"])
    claim = running(database)
    batch_id = new_id("batch")
    with database.write() as session:
        session.add(Batch(id=batch_id))
        session.flush()
        change(session, claim.job_id, batch_id=batch_id)
        assert results.succeed(session, claim, **RESULT)
    (delivery,) = [one for one in deliveries(database) if one.subject_id == claim.job_id]
    assert delivery.endpoint_id == named.id
    assert json.loads(delivery.payload)["data"]["batch_id"] == batch_id


def test_telling_again_adds_nothing(database: Database) -> None:
    register(database)
    succeed(database)
    (delivery,) = deliveries(database)
    notice = webhooks.Notice(
        subject_id=delivery.subject_id,
        sequence=delivery.event_seq,
        type=delivery.event_type,
        at=delivery.created_at,
        data={},
        owner=None,
    )
    with database.write() as session:
        webhooks.deliver(session, [notice, notice])
    assert [d.id for d in deliveries(database)] == [delivery.id]


def test_endpoints_are_their_owners(database: Database) -> None:
    mine, theirs = register(database, owner="key_a"), register(database, owner="key_b")
    with database.write() as session:
        webhook_secrets.own_secret(session, "key_a")
        assert [e.id for e in webhooks.endpoints(session, owner="key_a")] == [mine.id]
        assert [e.id for e in webhooks.endpoints(session)] == [theirs.id, mine.id]
        for act in (
            webhooks.get_endpoint,
            webhooks.delete_endpoint,
            webhooks.enable_endpoint,
            webhook_secrets.rotate,
        ):
            with pytest.raises(NotFound):
                act(session, theirs.id, owner="key_a")
            with pytest.raises(NotFound):
                act(session, webhook_secrets.own_id("key_a"), owner="key_a")


def test_one_owner_may_have_so_many(database: Database) -> None:
    for _ in range(webhooks.MAX_ENDPOINTS):
        register(database, owner="key_a")
    with pytest.raises(Conflict, match="20 webhook endpoints already"):
        register(database, owner="key_a")
    register(database, owner="key_b")


def test_deleting_an_endpoint_deletes_what_waits_for_it(database: Database) -> None:
    endpoint = register(database)
    succeed(database, webhook_url=URL)
    with database.write() as session:
        webhooks.delete_endpoint(session, endpoint.id)
    assert [delivery.target for delivery in deliveries(database)] == [URL]


def test_a_job_that_ends_while_its_endpoint_is_being_deleted_ends_well(database: Database) -> None:
    endpoint = register(database)
    claim = running(database)

    def finish() -> bool:
        with database.write() as session:
            return results.succeed(session, claim, **RESULT)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as session:
            webhooks.delete_endpoint(session, endpoint.id)
            finished = pool.submit(finish)
            time.sleep(0.3)  # in which it meets the row that is going
        assert finished.result(30)
    assert job(database, claim.job_id).state is JobState.SUCCEEDED
    assert deliveries(database) == []


def test_a_rotation_keeps_the_old_secret_for_a_day(database: Database) -> None:
    endpoint = register(database)
    with database.write() as session:
        rotated = webhook_secrets.rotate(session, endpoint.id)
        assert rotated.secret != rotated.previous_secret == endpoint.secret
        until = select(WebhookEndpoint.previous_secret_until.between(db_now(86_300), db_now(86_401)))
        assert session.scalar(until)


def test_a_rotation_that_is_repeated_keeps_the_secret_that_receivers_know(database: Database) -> None:
    endpoint = register(database)
    made = [endpoint.secret]
    for _ in range(3):
        with database.write() as session:
            made.append(webhook_secrets.rotate(session, endpoint.id).secret)
        with database.read() as session:
            now = session.scalar(select(db_now()))
            kept = webhook_secrets.old_secrets(session.get_one(WebhookEndpoint, endpoint.id), now)
        assert kept == made[-2:-4:-1]  # two at most
    with database.write() as session:
        session.execute(update(WebhookEndpoint).values(previous_secret_until=db_now(-1)))
    with database.write() as session:
        rotated = webhook_secrets.rotate(session, endpoint.id)
        assert rotated.previous_secret == made[-1]


def test_the_secret_of_jobs_own_urls_is_one_for_each_owner(database: Database) -> None:
    def secret(owner: str | None, *, renew: bool = False) -> WebhookEndpoint:
        with database.write() as session:
            return webhook_secrets.own_secret(session, owner, renew=renew)

    first = secret("key_a").secret
    assert secret("key_a").secret == first
    assert len({first, secret("key_b").secret, secret(None).secret}) == 3
    assert secret("key_a", renew=True).previous_secret == first
    assert secret("key_a").secret != first
    assert secret("k" * 48).id == webhook_secrets.own_id("k" * 48)


def test_a_disabled_endpoint_is_told_nothing_until_it_is_enabled(database: Database) -> None:
    endpoint = register(database)
    with database.write() as session:
        session.execute(update(WebhookEndpoint).values(disabled_at=db_now(), failing_since=db_now()))
    succeed(database)
    assert deliveries(database) == []
    with database.write() as session:
        enabled = webhooks.enable_endpoint(session, endpoint.id)
        assert (enabled.disabled_at, enabled.failing_since) == (None, None)
    succeed(database)
    assert len(deliveries(database)) == 1
