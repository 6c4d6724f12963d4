"""The secrets that sign webhooks: of each endpoint its own, and of each owner one for the URLs of jobs."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import db_now, insert_new
from core.jobs import webhooks
from core.jobs.signatures import new_secret
from core.jobs.tables import WebhookEndpoint

ROTATION_SECONDS = 24 * 3600.0
"""So long after a rotation the secret before it signs as well."""
OLD_SECRETS = 2


def rotate(session: Session, endpoint_id: str, *, owner: str | None = None) -> WebhookEndpoint:
    """Give the endpoint a new secret; the old one signs beside it for a day.

    So does the one before, if it still does: who did not get the answer, and asks again, must not be left
    with a secret that signs no more.
    """
    return _renew(session, webhooks.get_endpoint(session, endpoint_id, owner=owner, lock=True))


def own_secret(session: Session, owner: str | None, *, renew: bool = False) -> WebhookEndpoint:
    """The row whose secret signs what goes to the URLs of this owner's jobs. Made when first asked."""
    row = {"id": own_id(owner), "owner": owner, "url": webhooks.NO_URL, "secret": new_secret()}
    insert_new(session, WebhookEndpoint.__table__, [row])  # type: ignore[arg-type]
    endpoint = session.get_one(WebhookEndpoint, row["id"], populate_existing=True, with_for_update=renew)
    return _renew(session, endpoint) if renew else endpoint


def own_id(owner: str | None) -> str:
    return f"own_{hashlib.sha256((owner or '').encode()).hexdigest()[:32]}"


def _renew(session: Session, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    now = session.scalar(select(db_now()))
    assert now is not None
    still_sign = old_secrets(endpoint, now)
    endpoint.previous_secret = " ".join([endpoint.secret, *still_sign][:OLD_SECRETS])
    endpoint.previous_secret_until = now + timedelta(seconds=ROTATION_SECONDS)
    endpoint.secret = new_secret()
    session.flush()
    return endpoint


def old_secrets(endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    """Those that sign beside the endpoint's own, the newest first."""
    until = endpoint.previous_secret_until
    return (endpoint.previous_secret or "").split() if until is not None and until > now else []
