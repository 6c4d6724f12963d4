"""What can be said of a job beside its picture, and where its picture is, as clients and OpenAPI see it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, model_validator

from core.explain.options import ExplainOptions
from core.jobs.webhooks import JobEventType

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32

# Python's JSON reader lets both through. PostgreSQL refuses NUL in text, and half of a surrogate pair cannot
# be encoded as UTF-8, so that the job could never be shown.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    _check_storable(value, MAX_METADATA_DEPTH)
    try:
        size = len(json.dumps(value, allow_nan=False))
    except ValueError as error:
        raise ValueError("NaN and infinity are not JSON") from error
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES:,} bytes as JSON")
    return value


def _check_storable(value: Any, levels: int) -> None:
    if levels < 0:
        raise ValueError(f"must be nested at most {MAX_METADATA_DEPTH} levels deep")
    if isinstance(value, str) and _UNSTORABLE.search(value):
        raise ValueError("must have neither NUL characters nor unpaired surrogates in its text")
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            _check_storable(item, levels - 1)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must have printable characters only")
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_small)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]


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
