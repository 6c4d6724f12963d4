"""Receivers of webhooks, and what is sent to them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.jobs.states import DeliveryState
from core.jobs.tables.base import Table, creation_time, partial_index


class WebhookEndpoint(Table):
    """A registered receiver. Both secrets sign while a rotation lasts."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(48), index=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(128))
    previous_secret: Mapped[str | None] = mapped_column(String(128))
    previous_secret_until: Mapped[datetime | None]
    events: Mapped[list[str] | None]
    failing_since: Mapped[datetime | None]  # without a success, and without a quiet time
    failed_at: Mapped[datetime | None]  # the last time
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = creation_time()


class WebhookDelivery(Table):
    """One event to be sent to one receiver; written in the transaction that makes the event."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("target", "subject_id", "event_seq"),
        partial_index("ix_webhook_deliveries_due", ("next_attempt_at",), where="state = 'pending'"),
        Index("ix_webhook_deliveries_endpoint_id_id", "endpoint_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    target: Mapped[str] = mapped_column(Text)  # the endpoint's id, or the job's own URL
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    owner: Mapped[str | None] = mapped_column(String(48))
    subject_id: Mapped[str] = mapped_column(String(48), index=True)
    event_seq: Mapped[int]
    event_type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text)  # the very bytes that are signed
    state: Mapped[DeliveryState] = mapped_column(insert_default=DeliveryState.PENDING)
    attempt: Mapped[int] = mapped_column(insert_default=0)
    next_attempt_at: Mapped[datetime] = creation_time()
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = creation_time()


class WebhookAttempt(Table):
    """What came of one attempt to deliver."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[str] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    attempt: Mapped[int] = mapped_column(primary_key=True)
    status_code: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]
    created_at: Mapped[datetime] = creation_time()
