"""What the API answers about webhooks, as clients and OpenAPI see it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from core.jobs.delivery_log import DeliveryRecord
from core.jobs.states import DeliveryState
from core.jobs.tables import WebhookEndpoint
from core.jobs.webhooks import EventType


class WebhookRequest(BaseModel):
    """A receiver to be registered."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=2048, examples=["https://example.com/hooks/pawlens"])
    events: list[EventType] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="The events to be told of. Without them: every end of a batch, and of jobs in none.",
    )


class WebhookOut(BaseModel):
    id: str = Field(examples=["whk_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"])
    url: str
    events: list[EventType] | None
    created_at: datetime
    failing_since: datetime | None = Field(description="The first failure after the newest success.")
    disabled_at: datetime | None = Field(
        description="Nothing is sent any more: it answered 410, or failed for 120 hours. See `/enable`."
    )

    @classmethod
    def of(cls, endpoint: WebhookEndpoint) -> WebhookOut:
        return cls.model_validate(endpoint, from_attributes=True)


class WebhookWithSecret(WebhookOut):
    secret: str = Field(
        description="Signs what is sent. Shown here and never again.", examples=["whsec_MfKQ9r8GKYqr..."]
    )

    @classmethod
    def of(cls, endpoint: WebhookEndpoint) -> WebhookWithSecret:
        return cls.model_validate(endpoint, from_attributes=True)


class WebhookList(BaseModel):
    webhooks: list[WebhookOut]


class SecretOut(BaseModel):
    secret: str = Field(description="Signs what is sent to `webhook_url` of your jobs.")
    previous_secret_until: datetime | None = Field(
        description="Until then the secret before this one signs as well."
    )

    @classmethod
    def of(cls, row: WebhookEndpoint) -> SecretOut:
        return cls.model_validate(row, from_attributes=True)


class AttemptOut(BaseModel):
    attempt: int
    created_at: datetime
    seconds: float
    status_code: int | None = Field(description="What the receiver answered; null without an answer.")
    error: str | None = Field(description="Why it did not count as delivered.")


class DeliveryOut(BaseModel):
    id: str = Field(
        description="The receiver sees it as `webhook-id`, the same with every attempt.",
        examples=["msg_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"],
    )
    webhook_id: str | None = Field(description="The endpoint; null for a job's own `webhook_url`.")
    subject_id: str = Field(description="The job, or the endpoint of a test.")
    event_type: str
    event_seq: int = Field(description="`data.sequence`: the event's number in its subject's log.")
    status: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="While it is pending.")
    payload: str = Field(description="The body, byte for byte as it is signed.")
    attempts: list[AttemptOut]

    @classmethod
    def of(cls, record: DeliveryRecord) -> DeliveryOut:
        delivery = record.delivery
        return cls(
            id=delivery.id,
            webhook_id=delivery.endpoint_id,
            subject_id=delivery.subject_id,
            event_type=delivery.event_type,
            event_seq=delivery.event_seq,
            status=delivery.state,
            created_at=delivery.created_at,
            next_attempt_at=delivery.next_attempt_at if delivery.state is DeliveryState.PENDING else None,
            payload=delivery.payload,
            attempts=[
                AttemptOut.model_validate(attempt, from_attributes=True) for attempt in record.attempts
            ],
        )


class DeliveryPage(BaseModel):
    deliveries: list[DeliveryOut]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last.")
