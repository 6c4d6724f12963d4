"""Webhook deliveries as their owner sees them: the log of attempts, redelivery, a test ping, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.database import db_now, rows_changed
from core.errors import Conflict, NotFound
from core.jobs import webhooks
from core.jobs.states import DeliveryState
from core.jobs.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint

PING = "webhook.test"


@dataclass(frozen=True)
class DeliveryRecord:
    """A delivery with all its attempts, the first one first."""

    delivery: WebhookDelivery
    attempts: Sequence[WebhookAttempt]


def list_deliveries(
    session: Session,
    *,
    owner: str | None = None,
    endpoint_id: str | None = None,
    subject_id: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[DeliveryRecord]:
    """Deliveries newest first, from the one before the id ``before``. Ids sort by time of making."""
    query = select(WebhookDelivery).order_by(WebhookDelivery.id.desc()).limit(limit)
    if owner is not None:
        query = query.where(WebhookDelivery.owner == owner)
    if endpoint_id is not None:
        query = query.where(WebhookDelivery.endpoint_id == endpoint_id)
    if subject_id is not None:
        query = query.where(WebhookDelivery.subject_id == subject_id)
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    return _records(session, list(session.scalars(query.execution_options(populate_existing=True))))


def get_delivery(session: Session, delivery_id: str, *, owner: str | None = None) -> DeliveryRecord:
    """Raises NotFound when there is none of that id, or it is another owner's."""
    return _records(session, [_find(session, delivery_id, owner)])[0]


def redeliver(session: Session, delivery_id: str, *, owner: str | None = None) -> None:
    """Send it again now, under the same ``webhook-id``; or send now what still waits for its next attempt.

    Should it fail, the schedule goes on where it stood; after its end there is just this one attempt.

    Raises:
        NotFound: there is no such delivery, or it is another owner's.
        Conflict: it is being sent at this moment, or its endpoint is disabled.
    """
    delivery = _find(session, delivery_id, owner, lock=True)
    in_flight = select(WebhookDelivery.lease_until > db_now()).where(WebhookDelivery.id == delivery.id)
    if session.scalar(in_flight):
        raise Conflict("The delivery is being sent at this moment. Look at its attempts, then ask again.")
    if delivery.endpoint_id is not None:
        _check_enabled(webhooks.get_endpoint(session, delivery.endpoint_id))
    delivery.state = DeliveryState.PENDING
    delivery.next_attempt_at = db_now()
    session.flush()


def ping(session: Session, endpoint_id: str, *, owner: str | None = None) -> str:
    """Send the endpoint an event of the type ``webhook.test``, whatever its filter; the delivery's id.

    Raises:
        NotFound: there is no such endpoint, or it is another owner's.
        Conflict: it is disabled.
    """
    endpoint = webhooks.get_endpoint(session, endpoint_id, owner=owner, lock=True)  # it numbers its pings
    _check_enabled(endpoint)
    earlier = select(func.max(WebhookDelivery.event_seq)).where(
        WebhookDelivery.target == endpoint.id, WebhookDelivery.subject_id == endpoint.id
    )
    now = session.scalar(select(db_now()))
    assert now is not None
    notice = webhooks.Notice(
        subject_id=endpoint.id,
        sequence=(session.scalar(earlier) or 0) + 1,
        type=PING,
        at=now,
        data={},
        owner=endpoint.owner,
    )
    return webhooks.write(session, [(notice, endpoint.id, endpoint.id)])[0]


def forget(session: Session, *, older_than_seconds: float, limit: int) -> int:
    """Remove up to ``limit`` deliveries, the oldest first, that were made so long ago and are not pending.

    Returns how many.
    """
    oldest = (
        select(WebhookDelivery.id, WebhookDelivery.created_at)
        .where(WebhookDelivery.state != DeliveryState.PENDING)
        .order_by(WebhookDelivery.id)  # ids sort by time: nothing young is looked at while there is older
        .limit(limit)
        .subquery()
    )
    ids = session.scalars(select(oldest.c.id).where(oldest.c.created_at < db_now(-older_than_seconds))).all()
    # The state once more: somebody may have asked for it again meanwhile.
    gone = session.execute(
        delete(WebhookDelivery)
        .where(WebhookDelivery.id.in_(ids), WebhookDelivery.state != DeliveryState.PENDING)
        .execution_options(synchronize_session=False)
    )
    return rows_changed(gone)


def _check_enabled(endpoint: WebhookEndpoint) -> None:
    if endpoint.disabled_at is not None:
        raise Conflict(f"The endpoint is disabled. Enable it first: POST /v1/webhooks/{endpoint.id}/enable.")


def _find(session: Session, delivery_id: str, owner: str | None, *, lock: bool = False) -> WebhookDelivery:
    delivery = session.get(WebhookDelivery, delivery_id, populate_existing=True, with_for_update=lock)
    if delivery is None or (owner is not None and delivery.owner != owner):
        raise NotFound(f"There is no delivery {delivery_id!r}. Ids look like msg_0192f3...")
    return delivery


def _records(session: Session, deliveries: list[WebhookDelivery]) -> list[DeliveryRecord]:
    attempts: dict[str, list[WebhookAttempt]] = {delivery.id: [] for delivery in deliveries}
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id.in_(attempts))
    if deliveries:
        for attempt in session.scalars(query.order_by(WebhookAttempt.delivery_id, WebhookAttempt.attempt)):
            attempts[attempt.delivery_id].append(attempt)
    return [DeliveryRecord(delivery, attempts[delivery.id]) for delivery in deliveries]
