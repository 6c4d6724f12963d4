"""Bytes, kept once each by their SHA-256: uploaded pictures, and the files that methods make."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from core.database import insert_new
from core.jobs.statements import pages
from core.jobs.tables import Blob, Image


@dataclass(frozen=True)
class Picture:
    """An uploaded picture that was found to be decodable. Width and height as browsers show it."""

    data: bytes = field(repr=False)
    width: int
    height: int
    media_type: str
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        # At once: large pictures take milliseconds, which a transaction should not be open for.
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())


def store_picture(session: Session, picture: Picture) -> str:
    """Keep the picture unless the very same bytes are there already; return its SHA-256."""
    store_pictures(session, [picture])
    return picture.sha256


def store_pictures(session: Session, pictures: Iterable[Picture]) -> None:
    """Keep each picture that is not there already, in three statements however many there are."""
    by_digest = {picture.sha256: picture for picture in pictures}
    _store(session, {digest: picture.data for digest, picture in by_digest.items()})
    rows: list[dict[str, Any]] = [
        {"sha256": digest, "width": new.width, "height": new.height, "media_type": new.media_type}
        for digest, new in sorted(by_digest.items())
    ]
    insert_new(session, Image.__table__, rows)  # type: ignore[arg-type]


def store_blob(session: Session, data: bytes) -> str:
    """Keep the bytes unless they are there already; return their SHA-256 in hexadecimal."""
    digest = hashlib.sha256(data).hexdigest()
    _store(session, {digest: data})
    return digest


def _store(session: Session, blobs: Mapping[str, bytes]) -> None:
    """Whether new or found, they stay until the caller's transaction has ended: a lock on each row keeps
    :mod:`core.jobs.retention` away, until what refers to them is committed.

    In the order of their digests, so that no two transactions wait for each other.
    """
    missing = sorted(blobs)
    while missing:
        rows = [{"sha256": digest, "size": len(blobs[digest]), "data": blobs[digest]} for digest in missing]
        insert_new(session, Blob.__table__, rows)  # type: ignore[arg-type]
        if session.connection().dialect.name == "sqlite":
            return  # where this transaction is the only one that writes
        locked = _locked(session, missing)
        # One that was there may have been removed before it could be locked.
        missing = [digest for digest in missing if digest not in locked]


def hold(session: Session, digests: Collection[str]) -> set[str]:
    """Keep what is stored of these until the caller's transaction has ended; return what is missing."""
    held = set[str]()
    for some in pages(sorted(digests)):
        held |= _locked(session, some)
    return set(digests) - held


_LOCKED = (
    select(Blob.sha256)
    .where(Blob.sha256.in_(bindparam("digests", expanding=True)))
    .order_by(Blob.sha256)
    .with_for_update(read=True, key_share=True)
)


def _locked(session: Session, digests: Collection[str]) -> set[str]:
    return set(session.connection().scalars(_LOCKED, {"digests": list(digests)}))
