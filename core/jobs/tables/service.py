"""Who uses the service and who works for it: keys, the names of requests, workers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database import db_now
from core.jobs.states import Queue
from core.jobs.tables.base import Json, Table, creation_time


class ApiKey(Table):
    """Who may use the API. The secret itself is nowhere: only its SHA-256.

    ``jobs.owner`` and its like hold such an id. They are no foreign keys: an open service has no keys.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        # A revoked key keeps its name; another may have it then.
        Index(
            "ix_api_keys_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    rate_per_second: Mapped[float | None]  # None: the service's rate_per_second
    created_at: Mapped[datetime] = creation_time()
    last_used_at: Mapped[datetime | None]  # to about a minute
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Table):
    """A client's name for one request, so that the request, sent again, makes nothing a second time.

    The primary key decides between two that arrive together. ``owner`` is empty on an open service.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(48), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    subject_id: Mapped[str] = mapped_column(String(48), index=True)  # what the request has made
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now(), index=True)


class Worker(Table):
    """A worker process that is alive, or was: it writes ``seen_at`` with every heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    queue: Mapped[Queue]
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    report: Mapped[Json] = mapped_column(insert_default=dict)
    started_at: Mapped[datetime] = creation_time()
    seen_at: Mapped[datetime] = mapped_column(insert_default=db_now(), index=True)
