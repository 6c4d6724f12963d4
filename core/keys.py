"""API keys: who may use the service, and what belongs to whom.

A key's secret is ``pk_`` and 256 random bits in URL-safe base64 (RFC 4648, section 5). It is shown once and
kept as its SHA-256 alone. A slow password hash would add nothing: nobody guesses 256 random bits, and the
check is made for every request.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import inspect, or_, select, update
from sqlalchemy.orm import Session
from uuid_utils import uuid7

from core.database import db_now
from core.errors import Conflict, InvalidRequest, NotFound
from core.jobs.tables import ApiKey

SECRET_PREFIX = "pk_"  # noqa: S105 - what secrets begin with, so that scanners for leaked ones know ours
SECRET_BYTES = 32
MAX_NAME = 64


@dataclass(frozen=True)
class Key:
    """A key that is not revoked, as the API needs it."""

    id: str
    name: str
    secret_sha256: str
    rate_per_second: float | None


def digest(secret: str) -> str:
    """SHA-256 in hexadecimal of a secret as it was sent."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def create(session: Session, name: str, *, rate_per_second: float | None = None) -> tuple[ApiKey, str]:
    """A new key and its secret, which nobody can find out again.

    Raises:
        InvalidRequest: the name is empty, too long, or has characters that cannot be printed; or the rate is
            no positive number.
        Conflict: a key that is not revoked has this name.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"A key's name has 1 to {MAX_NAME} printable characters.")
    if rate_per_second is not None and not 0 < rate_per_second < math.inf:  # nor is NaN
        raise InvalidRequest(
            "A key's rate is a positive number of requests a second; without it there is none."
        )
    # What looks like an id would make `revoke` ambiguous.
    if name.startswith("key_"):
        raise InvalidRequest("A key's name does not begin with key_, as ids do.")
    if session.scalar(select(ApiKey.id).where(ApiKey.name == name, ApiKey.revoked_at.is_(None))):
        raise Conflict(f"There is a key {name!r} already. Choose another name, or revoke that one first.")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=f"key_{uuid7().hex}", name=name, secret_sha256=digest(secret), rate_per_second=rate_per_second
    )
    session.add(key)
    session.flush()
    return key, secret


def listed(session: Session) -> list[ApiKey]:
    """All keys in the order of their making, the revoked ones too."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.id)))


def revoke(session: Session, name_or_id: str) -> ApiKey:
    """End a key for good. Its jobs stay.

    Raises:
        NotFound: no key that is not revoked has this name or id.
    """
    key = session.scalar(
        select(ApiKey).where(
            or_(ApiKey.id == name_or_id, ApiKey.name == name_or_id), ApiKey.revoked_at.is_(None)
        )
    )
    if key is None:
        raise NotFound(f"No key that is in force has the name or id {name_or_id!r}. See `pawlens keys list`.")
    session.execute(update(ApiKey).where(ApiKey.id == key.id).values(revoked_at=db_now()))
    return key


def active(session: Session) -> list[Key]:
    """Every key that is not revoked."""
    rows = session.execute(
        select(ApiKey.id, ApiKey.name, ApiKey.secret_sha256, ApiKey.rate_per_second)
        .where(ApiKey.revoked_at.is_(None))
        .order_by(ApiKey.id)
    )
    return [Key(*row) for row in rows]


def exist(session: Session) -> bool:
    """Whether any key is in force; also of a database that has no tables yet."""
    if not inspect(session.connection()).has_table(ApiKey.__tablename__):
        return False
    return session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)) is not None


def note_use(session: Session, ages: Mapping[str, float]) -> None:
    """These keys, by their ids, were used so many seconds ago, unless a later use is known already."""
    for key_id, seconds in sorted(ages.items()):
        used_at = db_now(-seconds)
        known = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < used_at)
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == key_id, known)
            .values(last_used_at=used_at)
            .execution_options(synchronize_session=False)
        )
