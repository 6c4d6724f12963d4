"""What is due, what follows an attempt, and what an owner may do about it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import deliveries, delivery_log, webhook_secrets, webhooks
from core.jobs.deliveries import SCHEDULE, Claim, Outcome, pause
from core.jobs.delivery_log import DeliveryRecord
from core.jobs.rescue import MOST_DELIVERIES, ready
from core.jobs.states import DeliveryState, Queue
from core.jobs.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from tests.core.jobs.test_plans import SORTS, plans
from tests.core.jobs.test_webhooks import URL, register, succeed
from tests.core.jobs.test_webhooks import deliveries as all_deliveries

OK = Outcome(200, 0.01)
REFUSED = Outcome(None, 0.01, "ConnectError: refused")
LEASE = 45.0


def failed(status: int, **wishes: Any) -> Outcome:
    return Outcome(status, 0.01, f"status {status}", **wishes)


def take(database: Database, **wishes: Any) -> Claim | None:
    with database.write() as session:
        return deliveries.claim(session, lease_seconds=LEASE, **wishes)


def taken(database: Database) -> Claim:
    claim = take(database)
    assert claim is not None
    return claim


def note(database: Database, claim: Claim, outcome: Outcome) -> DeliveryState | None:
    with database.write() as session:
        return deliveries.record(session, claim, outcome)


def delivery(database: Database, delivery_id: str) -> DeliveryRecord:
    with database.read() as session:
        return delivery_log.get_delivery(session, delivery_id)


def make_due(database: Database) -> None:
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=db_now(-1)))


def seconds_until_next(database: Database, delivery_id: str) -> float:
    with database.read() as session:
        now = session.scalar(select(db_now()))
        found = session.get_one(WebhookDelivery, delivery_id)
        assert now is not None
        return (found.next_attempt_at - now).total_seconds()


def endpoint_now(database: Database, endpoint_id: str) -> WebhookEndpoint:
    with database.read() as session:
        return session.get_one(WebhookEndpoint, endpoint_id)


def set_failing_since(database: Database, seconds: float) -> None:
    with database.write() as session:
        session.execute(update(WebhookEndpoint).values(failing_since=db_now(-seconds)))


def test_what_is_due_is_claimed_once_the_oldest_first(database: Database) -> None:
    endpoint = register(database)
    ids = [succeed(database), succeed(database)]
    first, second = taken(database), taken(database)
    assert [first.subject_id, second.subject_id] == ids
    assert (first.url, first.attempt, first.secrets) == (URL, 1, (endpoint.secret,))
    assert first.event_type == json.loads(first.payload)["type"] == "job.succeeded"
    assert take(database) is None
    with database.read() as session:
        now = session.scalar(select(db_now()))
    assert now is not None
    assert timedelta() <= now - first.now < timedelta(minutes=1)


def test_what_a_dead_sender_held_is_sent_again_when_its_lease_is_over(database: Database) -> None:
    register(database)
    succeed(database)
    dead = taken(database)
    assert LEASE - 5 < seconds_until_next(database, dead.id) <= LEASE
    with database.write() as session:
        over = {"next_attempt_at": db_now(-1), "lease_until": db_now(-1)}
        session.execute(update(WebhookDelivery).values(**over))
    again = taken(database)
    assert (again.id, again.attempt) == (dead.id, 2)
    assert note(database, dead, OK) is None, "the dead one's attempt is no longer its own"
    assert note(database, again, OK) is DeliveryState.DELIVERED
    assert note(database, again, OK) is None, "and none is recorded twice"
    assert [attempt.attempt for attempt in delivery(database, again.id).attempts] == [2]


def test_a_receiver_that_is_full_lets_others_pass(database: Database) -> None:
    register(database)
    succeed(database)
    other = succeed(database, webhook_url="https://example.org/x")
    one = take(database, except_origins=["https://example.com/"])
    assert one is not None
    assert one.url == "https://example.org/x"
    assert one.subject_id == other
    assert take(database, except_origins=["https://example.com/", "https://example.org/"]) is None
    # Neither a wildcard of LIKE nor a host that merely begins alike is taken for the receiver.
    assert take(database, except_origins=["https://example_com/", "https://example.co/"]) is not None


@pytest.mark.parametrize("status", [200, 204, 299])
def test_2xx_is_delivered(database: Database, status: int) -> None:
    endpoint = register(database)
    succeed(database)
    set_failing_since(database, 60)
    claim = taken(database)
    assert note(database, claim, Outcome(status, 0.25)) is DeliveryState.DELIVERED
    make_due(database)
    assert take(database) is None
    (attempt,) = delivery(database, claim.id).attempts
    assert (attempt.attempt, attempt.status_code, attempt.error, attempt.seconds) == (1, status, None, 0.25)
    assert endpoint_now(database, endpoint.id).failing_since is None


@pytest.mark.parametrize("outcome", [REFUSED, failed(302), failed(400), failed(500), failed(200)])
def test_anything_else_is_tried_again_on_schedule_and_then_given_up(
    database: Database, outcome: Outcome
) -> None:
    register(database)
    succeed(database)
    for number, scheduled in enumerate([*SCHEDULE[1:], None], start=1):
        claim = taken(database)
        assert claim.attempt == number
        state = note(database, claim, outcome)
        if scheduled is None:
            assert state is DeliveryState.FAILED
        else:
            assert state is DeliveryState.PENDING
            assert 0.8 * scheduled - 5 < seconds_until_next(database, claim.id) <= 1.2 * scheduled
            assert take(database) is None
        make_due(database)
    assert take(database) is None
    assert len(delivery(database, claim.id).attempts) == len(SCHEDULE)


def test_the_schedule_is_the_documented_one() -> None:
    minutes = [round(seconds / 60, 2) for seconds in SCHEDULE]
    assert minutes == [0, 0.08, 5, 30, 120, 300, 600, 600]
    pauses = [pause(2, REFUSED) or 0 for _ in range(500)]
    assert 240 <= min(pauses) < 260
    assert 340 < max(pauses) <= 360


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(1, 240, 360), (450, 450, 450), (10_000, 480, 720), (None, 240, 360)]
)
def test_retry_after_lengthens_a_pause_and_at_most_doubles_it(
    asked: float | None, least: float, most: float
) -> None:
    for _ in range(50):
        seconds = pause(2, failed(503, retry_after=asked))
        assert seconds is not None
        assert least <= seconds <= most


@pytest.mark.parametrize(
    ("outcome", "waits"),
    [
        *[(failed(429), 30), (failed(502), 30), (failed(504), 30), (REFUSED, 30)],
        *[(failed(429, retry_after=45), 45), (failed(429, retry_after=999), 60)],
        *[(failed(500), 0), (failed(404), 0)],
    ],
)
def test_a_receiver_that_cannot_keep_up_gets_nothing_else_for_a_while(
    database: Database, outcome: Outcome, waits: float
) -> None:
    register(database)
    for _ in range(2):
        succeed(database)
    elsewhere = succeed(database, webhook_url="https://example.org/x")
    assert note(database, taken(database), outcome) is DeliveryState.PENDING
    claim = taken(database)
    if waits:
        assert claim.subject_id == elsewhere
        waiting = next(d for d in all_deliveries(database) if d.attempt == 0 and d.endpoint_id)
        assert waits - 5 < seconds_until_next(database, waiting.id) <= waits
    else:
        assert claim.endpoint_id is not None


def test_410_disables_the_endpoint_and_ends_what_waits_for_it(database: Database) -> None:
    endpoint = register(database)
    other = register(database)
    succeed(database)
    succeed(database)
    claims = [taken(database) for _ in range(4)]
    gone, in_flight = [claim for claim in claims if claim.endpoint_id == endpoint.id]
    succeed(database)
    assert note(database, gone, failed(410)) is DeliveryState.FAILED
    assert endpoint_now(database, endpoint.id).disabled_at is not None
    assert endpoint_now(database, other.id).disabled_at is None
    waiting = [d.endpoint_id for d in all_deliveries(database) if d.state is DeliveryState.PENDING]
    assert sorted(waiting) == sorted([endpoint.id, other.id, other.id, other.id])
    assert note(database, in_flight, failed(500)) is DeliveryState.FAILED, "there is no next attempt"


def test_410_of_a_jobs_own_url_ends_this_delivery_alone(database: Database) -> None:
    for _ in range(2):
        succeed(database, webhook_url=URL)
    assert note(database, taken(database), failed(410)) is DeliveryState.FAILED
    assert note(database, taken(database), OK) is DeliveryState.DELIVERED


def test_an_endpoint_that_fails_for_120_hours_is_disabled(database: Database) -> None:
    endpoint = register(database)
    succeed(database)
    note(database, taken(database), REFUSED)
    since = endpoint_now(database, endpoint.id).failing_since
    assert since is not None
    make_due(database)
    note(database, taken(database), REFUSED)
    assert endpoint_now(database, endpoint.id).failing_since == since, "counted from the first failure"
    for hours, disabled in ((119.9, False), (120.1, True)):
        set_failing_since(database, hours * 3600)
        make_due(database)
        note(database, taken(database), REFUSED)
        assert (endpoint_now(database, endpoint.id).disabled_at is not None) is disabled


def test_failures_with_a_quiet_time_between_them_are_no_week_of_failing(database: Database) -> None:
    """As of an endpoint to which one event a week is sent."""
    endpoint = register(database)
    succeed(database)
    note(database, taken(database), REFUSED)
    for quiet, disabled in ((deliveries.QUIET_SECONDS + 60, False), (deliveries.QUIET_SECONDS - 60, True)):
        with database.write() as session:
            days_ago = db_now(-deliveries.DISABLE_AFTER_SECONDS - 60)
            session.execute(update(WebhookEndpoint).values(failing_since=days_ago, failed_at=db_now(-quiet)))
        make_due(database)
        note(database, taken(database), REFUSED)
        assert (endpoint_now(database, endpoint.id).disabled_at is not None) is disabled


def test_both_secrets_sign_while_a_rotation_lasts(database: Database) -> None:
    endpoint = register(database)
    for _ in range(3):
        succeed(database)
    with database.write() as session:
        rotated = webhook_secrets.rotate(session, endpoint.id)
    assert taken(database).secrets == (rotated.secret, endpoint.secret)
    with database.write() as session:
        session.execute(update(WebhookEndpoint).values(previous_secret_until=db_now(-1)))
    assert taken(database).secrets == (rotated.secret,)


def test_a_jobs_own_url_is_signed_with_its_owners_secret(database: Database) -> None:
    succeed(database, webhook_url=URL, owner="key_a")
    claim = taken(database)
    with database.write() as session:
        assert claim.secrets == (webhook_secrets.own_secret(session, "key_a").secret,)
    assert (claim.url, claim.target, claim.endpoint_id) == (URL, URL, None)


def test_a_redelivery_has_the_same_id_and_body(database: Database) -> None:
    register(database)
    succeed(database)
    first = taken(database)
    with pytest.raises(Conflict, match="being sent"), database.write() as session:
        delivery_log.redeliver(session, first.id)
    note(database, first, OK)
    with database.write() as session:
        delivery_log.redeliver(session, first.id)
    again = taken(database)
    assert (again.id, again.payload, again.attempt) == (first.id, first.payload, 2)
    assert note(database, again, OK) is DeliveryState.DELIVERED


def test_a_redelivery_after_the_last_attempt_is_one_attempt(database: Database) -> None:
    succeed(database, webhook_url=URL)
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(attempt=len(SCHEDULE), state=DeliveryState.FAILED))
        delivery_log.redeliver(session, session.scalars(select(WebhookDelivery.id)).one())
    assert note(database, taken(database), REFUSED) is DeliveryState.FAILED


def test_what_waits_for_its_next_attempt_can_be_sent_now(database: Database) -> None:
    succeed(database, webhook_url=URL)
    claim = taken(database)
    note(database, claim, REFUSED)
    assert take(database) is None
    with database.write() as session:
        delivery_log.redeliver(session, claim.id)
    assert taken(database).attempt == 2


def test_nothing_is_redelivered_to_a_disabled_endpoint_before_it_is_enabled(database: Database) -> None:
    endpoint = register(database)
    succeed(database)
    claim = taken(database)
    note(database, claim, failed(410))
    for act in (delivery_log.redeliver, delivery_log.ping):
        with pytest.raises(Conflict, match="disabled"), database.write() as session:
            act(session, claim.id if act is delivery_log.redeliver else endpoint.id)
    with database.write() as session:
        webhooks.enable_endpoint(session, endpoint.id)
        delivery_log.redeliver(session, claim.id)
    assert note(database, taken(database), OK) is DeliveryState.DELIVERED


def test_pings_are_numbered_and_ask_for_no_filter(database: Database) -> None:
    endpoint = register(database, events=["job.failed"])
    with database.write() as session:
        ids = [delivery_log.ping(session, endpoint.id) for _ in range(3)]
        assert webhooks.written(session)
    found = [delivery(database, delivery_id).delivery for delivery_id in ids]
    assert [d.event_seq for d in found] == [1, 2, 3]
    assert {d.event_type for d in found} == {"webhook.test"}
    assert json.loads(found[0].payload)["data"]["id"] == endpoint.id


def test_a_delivery_is_its_owners(database: Database) -> None:
    endpoint = register(database, owner="key_a")
    succeed(database, owner="key_a")
    (made,) = all_deliveries(database)
    with database.write() as session:
        assert delivery_log.get_delivery(session, made.id, owner="key_a").delivery.id == made.id
        assert delivery_log.list_deliveries(session, owner="key_b") == []
        for act in (delivery_log.get_delivery, delivery_log.redeliver):
            with pytest.raises(NotFound):
                act(session, made.id, owner="key_b")
        with pytest.raises(NotFound):
            delivery_log.ping(session, endpoint.id, owner="key_b")


def test_the_log_is_read_in_pages(database: Database) -> None:
    endpoint = register(database)
    ids = [succeed(database, webhook_url=URL) for _ in range(3)]
    note(database, taken(database), failed(500))
    with database.read() as session:
        page = delivery_log.list_deliveries(session, endpoint_id=endpoint.id, limit=2)
        assert [r.delivery.subject_id for r in page] == [ids[2], ids[1]]
        rest = delivery_log.list_deliveries(
            session, endpoint_id=endpoint.id, before=page[-1].delivery.id, limit=2
        )
        assert [r.delivery.subject_id for r in rest] == [ids[0]]
        of_job = delivery_log.list_deliveries(session, subject_id=ids[0])
        assert {r.delivery.target for r in of_job} == {URL, endpoint.id}
        assert sum(len(r.attempts) for r in of_job) == 1


def test_deliveries_that_are_due_count_as_work_for_io(database: Database) -> None:
    with database.read() as session:
        assert ready(session, Queue.IO, at_most=100) == 0
    succeed(database, webhook_url=URL)
    with database.read() as session:
        assert ready(session, Queue.IO, at_most=100) == 1
    taken(database)
    with database.write() as session:
        assert ready(session, Queue.IO, at_most=100) == 0
        endpoint = webhooks.create_endpoint(session, URL, owner=None)
        for _ in range(MOST_DELIVERIES + 1):
            delivery_log.ping(session, endpoint.id)
    with database.read() as session:
        # A few hints are enough for any number: a sender goes on until none is left.
        assert ready(session, Queue.IO, at_most=100) == MOST_DELIVERIES
        assert ready(session, Queue.IO, at_most=1) == 1


def test_deleting_while_it_is_being_sent_leaves_nothing(database: Database) -> None:
    endpoint = register(database)
    succeed(database)
    claim = taken(database)
    with database.write() as session:
        webhooks.delete_endpoint(session, endpoint.id)
    assert note(database, claim, OK) is None
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(WebhookAttempt)) == 0


def test_what_is_due_is_found_by_its_index_however_much_was_delivered(database: Database) -> None:
    endpoint = register(database)
    with database.write() as session:
        now = session.scalar(select(db_now()))
        assert now is not None
        notices = [
            webhooks.Notice(f"job_{i}", 1, "job.succeeded", now, {}, owner=None, url=f"{URL}?{i % 50}")
            for i in range(4000)
        ]
        webhooks.deliver(session, notices)
        old = WebhookDelivery.subject_id.not_in([f"job_{i}" for i in range(20)])
        session.execute(update(WebhookDelivery).where(old).values(state=DeliveryState.DELIVERED))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    full = ["https://busy.example.com/"]
    picks, *_ = plans(database, lambda s: deliveries.claim(s, lease_seconds=60, except_origins=full))
    (count,) = plans(database, lambda s: deliveries.ready(s, at_most=1))
    for plan in (picks, count):
        assert "ix_webhook_deliveries_due" in plan
        assert not [sort for sort in SORTS if sort in plan]
    assert taken(database).endpoint_id in (endpoint.id, None)


def test_old_ones_are_forgotten_with_their_attempts(database: Database) -> None:
    register(database)
    for _ in range(4):
        succeed(database)
    old, young, waiting, again = (taken(database) for _ in range(4))
    for claim in (old, young, again):
        note(database, claim, OK)
    with database.write() as session:
        of_old = update(WebhookDelivery).where(WebhookDelivery.id != young.id)
        session.execute(of_old.values(created_at=db_now(-101)))
        delivery_log.redeliver(session, again.id)

    with database.write() as session:
        assert delivery_log.forget(session, older_than_seconds=100, limit=10) == 1
    kept = {each.id for each in all_deliveries(database)}
    assert kept == {young.id, waiting.id, again.id}
    with database.read() as session:
        attempts = session.scalars(select(WebhookAttempt.delivery_id)).all()
    assert sorted(attempts) == sorted([young.id, again.id])


def test_so_many_at_a_time_are_forgotten_the_oldest_first(database: Database) -> None:
    register(database)
    for _ in range(5):
        succeed(database)
        note(database, taken(database), OK)
    ids = sorted(each.id for each in all_deliveries(database))
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(created_at=db_now(-101)))
    left = []
    for _ in range(3):
        with database.write() as session:
            delivery_log.forget(session, older_than_seconds=100, limit=2)
        left.append(sorted(each.id for each in all_deliveries(database)))
    assert left == [ids[2:], ids[4:], []]
