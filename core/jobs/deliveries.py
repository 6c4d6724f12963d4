"""Sending webhooks: what is due, what came of an attempt, and when the next one is.

::

    pending ──(claimed under a lease, sent)──> delivered            any 2xx
       ^                 │
       └──(next attempt)─┴───────────────────> failed               410, or no attempt is left

Delivery is at least once: a sender that dies after the receiver has answered sends again. The id, which the
receiver sees as ``webhook-id``, stays the same through every attempt and redelivery.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from core.database import db_now
from core.jobs import webhook_secrets
from core.jobs.statements import begins_with_none
from core.jobs.states import DeliveryState
from core.jobs.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint

SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
"""Seconds before the first attempt, the second, ...: about 30 hours in all."""
JITTER = 0.2
"""Of each pause, so that what failed together does not come back together."""
DISABLE_AFTER_SECONDS = 120 * 3600.0
"""An endpoint that has answered nothing with 2xx for so long is disabled."""
QUIET_SECONDS = 2 * max(SCHEDULE)
"""After so long without a failure, longer than any pause, the next one begins to count anew: where next to
nothing is sent, two that lie a week apart are no week of failing."""

GONE = 410
_THROTTLING = frozenset({429, 502, 504, None})  # None: no answer at all
THROTTLE_SECONDS = 30.0
"""So long a receiver that cannot keep up gets nothing else either."""

_PENDING = WebhookDelivery.state == literal(
    DeliveryState.PENDING, WebhookDelivery.state.type, literal_execute=True
)


@dataclass(frozen=True)
class Claim:
    """A delivery that this sender may send once before the lease ends."""

    id: str
    attempt: int
    endpoint_id: str | None
    target: str
    url: str
    payload: str
    subject_id: str
    event_type: str
    secrets: tuple[str, ...]
    now: datetime  # by the database's clock


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: the answer's status, or None and why there was no answer.

    ``retry_after`` is what the receiver asked for, in seconds.
    """

    status_code: int | None
    seconds: float
    error: str | None = None
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        return self.error is None and self.status_code is not None and 200 <= self.status_code < 300


def _due() -> tuple[ColumnElement[bool], ...]:
    # A claim moves next_attempt_at to the end of its lease, so that one comparison finds both what waits
    # and what a dead sender has left.
    return _PENDING, WebhookDelivery.next_attempt_at <= db_now()


def ready(
    session: Session, *, at_most: int, except_origins: Collection[str] = (), except_urls: Collection[str] = ()
) -> int:
    """How many deliveries could be sent now, counted up to ``at_most``, but for those to these receivers."""
    due = select(literal(1)).select_from(WebhookDelivery).where(*_due())
    some = _to_others(due, except_origins, except_urls)
    return session.scalar(select(func.count()).select_from(some.limit(at_most).subquery())) or 0


def _to_others(due: Select[Any], origins: Collection[str], urls: Collection[str]) -> Select[Any]:
    """Those of them whose URL begins with none of ``origins`` and is none of ``urls``."""
    if not origins and not urls:
        return due
    url = func.coalesce(WebhookEndpoint.url, WebhookDelivery.target)
    with_url = due.outerjoin(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
    return with_url.where(*begins_with_none(url, origins), url.not_in(urls))


def claim(
    session: Session,
    *,
    lease_seconds: float,
    except_origins: Collection[str] = (),
    except_urls: Collection[str] = (),
) -> Claim | None:
    """Take what has been due the longest, unless its URL begins with one of ``except_origins``, or is one of
    ``except_urls``.
    """
    picked = session.scalar(
        _to_others(select(WebhookDelivery.id).where(*_due()), except_origins, except_urls)
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    )
    if picked is None:
        return None
    taken = session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == picked)
        .values(
            attempt=WebhookDelivery.attempt + 1,
            lease_until=db_now(lease_seconds),
            next_attempt_at=db_now(lease_seconds),
        )
        .returning(
            WebhookDelivery.id,
            WebhookDelivery.attempt,
            WebhookDelivery.endpoint_id,
            WebhookDelivery.target,
            WebhookDelivery.payload,
            WebhookDelivery.subject_id,
            WebhookDelivery.event_type,
            WebhookDelivery.owner,
        )
        .execution_options(synchronize_session=False)
    ).one()
    if taken.endpoint_id is None:
        webhook_secrets.own_secret(session, taken.owner)
    signer = session.get_one(WebhookEndpoint, taken.endpoint_id or webhook_secrets.own_id(taken.owner))
    now = session.scalar(select(db_now()))
    assert now is not None
    return Claim(
        id=taken.id,
        attempt=taken.attempt,
        endpoint_id=taken.endpoint_id,
        target=taken.target,
        url=signer.url or taken.target,
        payload=taken.payload,
        subject_id=taken.subject_id,
        event_type=taken.event_type,
        secrets=(signer.secret, *webhook_secrets.old_secrets(signer, now)),
        now=now,
    )


def record(session: Session, claim: Claim, outcome: Outcome) -> DeliveryState | None:
    """Log the attempt and decide what follows; the new state, or None if it is no longer this claim's."""
    held = select(WebhookDelivery.id).where(
        WebhookDelivery.id == claim.id,
        WebhookDelivery.attempt == claim.attempt,
        WebhookDelivery.lease_until.is_not(None),
    )
    if session.scalar(held.with_for_update()) is None:
        return None
    session.execute(
        insert(WebhookAttempt).values(
            delivery_id=claim.id,
            attempt=claim.attempt,
            status_code=outcome.status_code,
            error=outcome.error,
            seconds=outcome.seconds,
        )
    )
    disabled = claim.endpoint_id is not None and _note_health(session, claim.endpoint_id, outcome)
    final = outcome.delivered or outcome.status_code == GONE or disabled
    retry_in = None if final else pause(claim.attempt, outcome)
    changes: dict[str, Any] = {"state": DeliveryState.FAILED, "lease_until": None}
    if outcome.delivered:
        changes["state"] = DeliveryState.DELIVERED
    elif retry_in is not None:
        changes |= {"state": DeliveryState.PENDING, "next_attempt_at": db_now(retry_in)}
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == claim.id)
        .values(**changes)
        .execution_options(synchronize_session=False)
    )
    if throttled_for(outcome):
        _throttle(session, claim.target, outcome)
    state: DeliveryState = changes["state"]
    return state


def pause(attempt: int, outcome: Outcome) -> float | None:
    """Seconds from the failure of attempt 1, 2, ... to the next; None when there is none.

    The receiver's Retry-After counts, but never shortens the pause, nor more than doubles it.
    """
    if attempt >= len(SCHEDULE):
        return None
    scheduled = SCHEDULE[attempt] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    return min(max(outcome.retry_after or 0.0, scheduled), 2 * scheduled)


def throttled_for(outcome: Outcome) -> float:
    """Seconds for which a receiver that has answered so should get nothing else either; mostly 0."""
    if outcome.delivered or outcome.status_code not in _THROTTLING:
        return 0.0
    return min(max(outcome.retry_after or 0.0, THROTTLE_SECONDS), 2 * THROTTLE_SECONDS)


def _throttle(session: Session, target: str, outcome: Outcome) -> None:
    """Let the receiver's other deliveries that wait already wait longer."""
    seconds = throttled_for(outcome)
    session.execute(
        update(WebhookDelivery)
        .where(
            # No index of the target is to be taken: behind it lies all that was ever sent there.
            WebhookDelivery.target.concat("") == target,
            _PENDING,
            WebhookDelivery.lease_until.is_(None),
            WebhookDelivery.attempt == 0,  # later attempts have a pause of their own
            WebhookDelivery.next_attempt_at < db_now(seconds),
        )
        .values(next_attempt_at=db_now(seconds))
        .execution_options(synchronize_session=False)
    )


def _note_health(session: Session, endpoint_id: str, outcome: Outcome) -> bool:
    """Keep since when the endpoint fails, and disable it when it says so or has failed for too long.

    True when it is disabled: then what waits for it has failed, and can be redelivered.
    """
    of_endpoint = (
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id)
        .execution_options(synchronize_session=False)
    )
    failing_since = WebhookEndpoint.failing_since
    if outcome.delivered:
        session.execute(of_endpoint.where(failing_since.is_not(None)).values(failing_since=None))
        return False
    was_quiet = or_(failing_since.is_(None), WebhookEndpoint.failed_at < db_now(-QUIET_SECONDS))
    session.execute(of_endpoint.where(was_quiet).values(failing_since=db_now()))
    session.execute(of_endpoint.values(failed_at=db_now()))
    hopeless = [] if outcome.status_code == GONE else [failing_since < db_now(-DISABLE_AFTER_SECONDS)]
    enabled = WebhookEndpoint.disabled_at.is_(None)
    session.execute(of_endpoint.where(enabled, *hopeless).values(disabled_at=db_now()))
    is_disabled = select(WebhookEndpoint.disabled_at.is_not(None)).where(WebhookEndpoint.id == endpoint_id)
    if not session.scalar(is_disabled):
        return False
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, _PENDING, WebhookDelivery.lease_until.is_(None))
        .values(state=DeliveryState.FAILED)
        .execution_options(synchronize_session=False)
    )
    return True
