"""Webhooks: who is told of what. The receivers, their secrets, and the deliveries that an end brings about.

A delivery is a row, written in the transaction that ends the job or batch: there is no end without its
deliveries and no delivery of an end that was rolled back. :mod:`core.jobs.deliveries` says how they are sent.

Receivers are registered endpoints, each with a secret of its own, and the URLs that single jobs carry. Those
URLs share one secret per owner, so that no client can sign what is sent to another one's receiver.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session

from core.database import insert_new
from core.errors import Conflict, NotFound
from core.jobs.ids import new_id
from core.jobs.signatures import new_secret
from core.jobs.states import FINAL, BatchState, JobState
from core.jobs.tables import IdempotencyKey, Job, WebhookDelivery, WebhookEndpoint

JobEventType = Literal["job.succeeded", "job.partial", "job.failed", "job.canceled", "job.expired"]
BatchEventType = Literal["batch.completed", "batch.canceled"]
EventType = Literal[JobEventType, BatchEventType]
JOB_EVENTS: tuple[str, ...] = get_args(JobEventType)
BATCH_EVENTS: tuple[str, ...] = get_args(BatchEventType)
assert set(JOB_EVENTS) == {f"job.{state}" for state in FINAL}
assert set(BATCH_EVENTS) == {f"batch.{state}" for state in BatchState if state is not BatchState.RUNNING}

MAX_ENDPOINTS = 20
"""Of one owner: every job that ends costs a row for each of them."""

# The row that holds an owner's secret for the URLs of jobs has no URL itself, and is never listed.
NO_URL = ""
_REGISTERED = WebhookEndpoint.url != NO_URL


def create_endpoint(
    session: Session,
    url: str,
    *,
    owner: str | None,
    events: Sequence[str] | None = None,
    endpoint_id: str | None = None,
) -> WebhookEndpoint:
    """Register a receiver; ``url`` is checked already. Without ``events`` it is told of all.

    Raises:
        Conflict: the owner has :data:`MAX_ENDPOINTS` already.
    """
    count = select(func.count()).select_from(WebhookEndpoint)
    own = WebhookEndpoint.owner.is_not_distinct_from(owner)
    if (session.scalar(count.where(_REGISTERED, own)) or 0) >= MAX_ENDPOINTS:
        raise Conflict(f"There are {MAX_ENDPOINTS} webhook endpoints already. Delete one that is not needed.")
    endpoint = WebhookEndpoint(
        id=endpoint_id or new_id("whk"),
        owner=owner,
        url=url,
        secret=new_secret(),
        events=list(events) if events else None,
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)  # created_at is the database's
    return endpoint


def endpoints(session: Session, *, owner: str | None = None) -> list[WebhookEndpoint]:
    """The registered endpoints, the newest first; without ``owner`` those of everyone."""
    query = select(WebhookEndpoint).where(_REGISTERED).order_by(WebhookEndpoint.id.desc())
    if owner is not None:
        query = query.where(WebhookEndpoint.owner == owner)
    return list(session.scalars(query))


def get_endpoint(
    session: Session, endpoint_id: str, *, owner: str | None = None, lock: bool = False
) -> WebhookEndpoint:
    """Raises NotFound when there is none of that id, or it is another owner's."""
    endpoint = session.get(WebhookEndpoint, endpoint_id, populate_existing=True, with_for_update=lock)
    if endpoint is None or endpoint.url == NO_URL or (owner is not None and endpoint.owner != owner):
        raise NotFound(f"There is no webhook endpoint {endpoint_id!r}. Ids look like whk_0192f3...")
    return endpoint


def delete_endpoint(session: Session, endpoint_id: str, *, owner: str | None = None) -> None:
    """Forget the endpoint with its deliveries; what is being sent this moment still arrives."""
    get_endpoint(session, endpoint_id, owner=owner)
    session.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id))
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.subject_id == endpoint_id))


def enable_endpoint(session: Session, endpoint_id: str, *, owner: str | None = None) -> WebhookEndpoint:
    """Send to a disabled endpoint again what ends from now on. What it missed can be redelivered."""
    endpoint = get_endpoint(session, endpoint_id, owner=owner, lock=True)
    endpoint.disabled_at = endpoint.failing_since = None
    return endpoint


@dataclass(frozen=True)
class Notice:
    """An event that webhooks may want: ``sequence`` is its number in the log of its subject.

    ``url`` and ``events`` are the subject's own receiver and filter. ``bulk`` marks one of very many, a job
    of a batch: only endpoints that name its type are told.
    """

    subject_id: str
    sequence: int
    type: str
    at: datetime
    data: dict[str, Any]
    owner: str | None
    url: str | None = None
    events: Sequence[str] | None = None
    bulk: bool = False

    def payload(self) -> str:
        """Thin, with a link behind which a receiver finds the subject as it then is. Kept as it is signed."""
        kind = _COLLECTIONS[self.subject_id.partition("_")[0]]
        links = {"self": f"/v1/{kind}/{self.subject_id}"}
        data = {"id": self.subject_id, **self.data, "sequence": self.sequence, "links": links}
        at = self.at.isoformat().replace("+00:00", "Z")
        return json.dumps({"type": self.type, "timestamp": at, "data": data}, separators=(",", ":"))


_COLLECTIONS = {"job": "jobs", "batch": "batches", "whk": "webhooks"}

# Returned by the statement that ends jobs, so that one whose end nobody wants to hear of costs no other.
_has_endpoints = exists().where(
    WebhookEndpoint.owner.is_not_distinct_from(Job.owner),
    WebhookEndpoint.disabled_at.is_(None),
    WebhookEndpoint.url != NO_URL,
)
OF_ENDED = (
    Job.state,
    Job.finished_at,
    Job.owner,
    Job.custom_id,
    Job.webhook_url,
    Job.webhook_events,
    _has_endpoints.correlate(Job).label("has_endpoints"),
)


def notify_of_ended(session: Session, event: str, rows: Sequence[Any]) -> None:
    """Write the deliveries of jobs that the caller's transaction has just ended.

    ``rows`` have each job's ``id event_seq batch_id`` and :data:`OF_ENDED`.
    """
    notices = [
        Notice(
            subject_id=job.id,
            sequence=job.event_seq,
            type=event,
            at=job.finished_at,
            data={"status": job.state, "custom_id": job.custom_id, "batch_id": job.batch_id},
            owner=job.owner,
            url=job.webhook_url,
            events=job.webhook_events,
            bulk=job.batch_id is not None,
        )
        for job in rows
        if job.webhook_url is not None or job.has_endpoints
    ]
    if notices:
        deliver(session, notices)


def notify_of_new_failures(session: Session, batch_id: str) -> None:
    """Write the deliveries of the items of a new batch that were refused: jobs that failed at once."""
    rows = session.execute(
        select(Job.id, Job.event_seq, Job.batch_id, *OF_ENDED).where(
            Job.batch_id == batch_id, Job.state == JobState.FAILED
        )
    ).all()
    notify_of_ended(session, f"job.{JobState.FAILED}", rows)


def deliver(session: Session, notices: Sequence[Notice]) -> None:
    """Write a delivery for each receiver that wants to hear of each event. Repeating it adds nothing."""
    owners = {notice.owner for notice in notices}
    active = session.scalars(
        select(WebhookEndpoint)
        .where(
            _REGISTERED,
            WebhookEndpoint.disabled_at.is_(None),
            or_(*(WebhookEndpoint.owner.is_not_distinct_from(owner) for owner in owners)),
        )
        .order_by(WebhookEndpoint.id)
        # One that is being deleted is waited for, and is then not among them. Its delivery would refer to
        # nothing, and take the end of the job with it.
        .with_for_update(read=True, key_share=True)
    ).all()
    wanted: list[tuple[Notice, str, str | None]] = []
    for notice in notices:
        wanted += [
            (notice, endpoint.id, endpoint.id)
            for endpoint in active
            if endpoint.owner == notice.owner and _wants(endpoint.events, notice, bulk=notice.bulk)
        ]
        if notice.url is not None and _wants(notice.events, notice):
            wanted.append((notice, notice.url, None))
    if wanted:
        write(session, wanted)


def write(session: Session, wanted: Sequence[tuple[Notice, str, str | None]]) -> list[str]:
    """Write a delivery of each notice to its target (an endpoint's id, or a URL); return their ids."""
    rows = [
        {
            "id": new_id("msg"),
            "target": target,
            "endpoint_id": endpoint_id,
            "owner": notice.owner,
            "subject_id": notice.subject_id,
            "event_seq": notice.sequence,
            "event_type": notice.type,
            "payload": notice.payload(),
        }
        for notice, target, endpoint_id in wanted
    ]
    insert_new(session, WebhookDelivery.__table__, rows)  # type: ignore[arg-type]
    session.info[_WRITTEN] = True
    return [str(row["id"]) for row in rows]


_WRITTEN = "webhook deliveries written"


def written(session: Session) -> bool:
    """Whether this transaction has written deliveries: then, after its commit, ``io`` workers want a hint."""
    return _WRITTEN in session.info


def _wants(events: Sequence[str] | None, notice: Notice, *, bulk: bool = False) -> bool:
    return not bulk if events is None else notice.type in events
