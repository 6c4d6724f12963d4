"""What can be said of a job beside its picture, and where its picture is, as clients and OpenAPI see it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from api.values import Name, SmallObject
from core.explain.options import ExplainOptions
from core.jobs.webhooks import JobEventType


class JobFields(BaseModel):
    """What can be said of a job beside its picture, the same in a form and in JSON."""

    model_config = ConfigDict(extra="forbid")

    methods: list[str] = Field(
        [], max_length=20, description="Explanation methods, or `all`; none asks for the prediction alone."
    )
    options: ExplainOptions = ExplainOptions()
    priority: int = Field(5, ge=0, le=9, description="9 goes first.")
    deadline_seconds: float | None = Field(None, gt=0, le=604_800, allow_inf_nan=False)
    custom_id: Name | None = None
    metadata: SmallObject = {}
    webhook_url: str | None = Field(None, max_length=2048, description="Told of the job's end, signed.")
    webhook_events: list[JobEventType] | None = Field(
        None, min_length=1, max_length=20, description="The ends that it is told of; all without this."
    )

    @model_validator(mode="after")
    def _events_have_a_receiver(self) -> JobFields:
        if self.webhook_events is not None and self.webhook_url is None:
            raise ValueError("webhook_events needs webhook_url")
        return self


class ImageSource(BaseModel):
    """Exactly one of ``url`` and ``base64``."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(None, description="Where to download the picture.")
    base64: str | None = Field(None, description="The picture's bytes; a data: URL is accepted too.")
    name: Name | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ImageSource:
        if (self.url is None) == (self.base64 is None):
            raise ValueError("give exactly one of 'url' and 'base64'")
        return self


class JobRequest(JobFields):
    """The JSON form of ``POST /v1/jobs``."""

    image: ImageSource


class JobForm(JobFields):
    """The multipart form of ``POST /v1/jobs``: the same fields, with JSON inside text fields."""

    url: str | None = None
    options: Json[ExplainOptions] = ExplainOptions()
    metadata: Json[SmallObject] = {}
