"""What a batch is asked with and what is answered, as clients and OpenAPI see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from api.job_fields import ImageSource
from api.schemas import JobError, PredictionOut, Progress
from api.values import Name, SmallObject
from core.explain.options import ExplainOptions
from core.jobs.batch_queries import BatchRecord, Result
from core.jobs.states import FINAL, BatchState, JobState
from core.jobs.webhooks import BatchEventType


class BatchFields(BaseModel):
    """What can be said of a batch beside its items, the same in a form and in JSON."""

    model_config = ConfigDict(extra="forbid")

    methods: list[str] = Field(
        [], max_length=20, description="Explanation methods, or `all`; none asks for predictions alone."
    )
    options: ExplainOptions = ExplainOptions()
    priority: int = Field(5, ge=0, le=9, description="9 goes first.")
    deadline_seconds: float | None = Field(
        None, gt=0, le=604_800, allow_inf_nan=False, description="For all jobs of the batch, from now."
    )
    metadata: SmallObject = Field({}, description="Kept with the batch.")
    webhook_url: str | None = Field(None, max_length=2048, description="Told of the batch's end, signed.")
    webhook_events: list[BatchEventType] | None = Field(
        None, min_length=1, max_length=20, description="The ends that it is told of; both without this."
    )

    @model_validator(mode="after")
    def _events_have_a_receiver(self) -> BatchFields:
        if self.webhook_events is not None and self.webhook_url is None:
            raise ValueError("webhook_events needs webhook_url")
        return self


class BatchItem(ImageSource):
    """One item of the JSON form."""

    custom_id: Name | None = None


class BatchRequest(BatchFields):
    """The JSON form of ``POST /v1/batches``. An item that is not valid is refused alone."""

    items: list[Any] = Field(min_length=1, json_schema_extra={"items": BatchItem.model_json_schema()})


class BatchForm(BatchFields):
    """The text fields of the multipart form: the same, with JSON inside text fields."""

    options: Json[ExplainOptions] = ExplainOptions()
    metadata: Json[SmallObject] = {}


class ManifestRow(BaseModel):
    """A line of a JSON Lines manifest; the columns of a CSV one."""

    model_config = ConfigDict(extra="forbid")

    url: str
    custom_id: Name | None = None
    name: Name | None = None


class Counts(BaseModel):
    """Jobs in each state; they add up to ``total``."""

    fetching: int
    queued: int
    running: int
    canceling: int
    succeeded: int
    partial: int
    failed: int
    canceled: int
    expired: int


class RejectedOut(BaseModel):
    """An item that could not be accepted. It is counted as ``failed``."""

    index: int = Field(description="Position of the item, from 0.")
    name: str | None
    custom_id: str | None
    code: str = Field(examples=["invalid_image"])
    detail: str


class BatchLinks(BaseModel):
    self: str
    events: str
    results: str
    cancel: str
    retry: str
    jobs: str


class BatchOut(BaseModel):
    id: str
    status: BatchState
    kind: Literal["predict", "explain"]
    methods: list[str]
    created_at: datetime
    finished_at: datetime | None
    metadata: dict[str, Any]
    total: int
    counts: Counts
    progress: Progress = Field(description="Jobs in a final state, of all.")
    rejected: int = Field(description="Items that could not be accepted.")
    errors: list[RejectedOut] = Field(description="The first 100 of these items.")
    retry_of: str | None = Field(description="The batch of which it repeats what failed or expired.")
    event_seq: int = Field(description="Number of the newest event.")
    links: BatchLinks

    @classmethod
    def of(cls, record: BatchRecord) -> BatchOut:
        batch, base = record.batch, f"/v1/batches/{record.batch.id}"
        total = sum(record.counts.values())
        done = sum(count for state, count in record.counts.items() if state in FINAL)
        return cls(
            id=batch.id,
            status=batch.state,
            kind="explain" if batch.methods else "predict",
            methods=batch.methods,
            created_at=batch.created_at,
            finished_at=batch.finished_at,
            metadata=batch.meta,
            total=total,
            counts=Counts(**{str(state): count for state, count in record.counts.items()}),
            progress=Progress(done=done, total=total),
            rejected=batch.rejected,
            errors=[
                RejectedOut(
                    index=item.index,
                    name=item.name,
                    custom_id=item.custom_id,
                    code=item.error["code"],
                    detail=item.error["detail"],
                )
                for item in record.rejected
            ],
            retry_of=batch.retry_of,
            event_seq=batch.event_seq,
            links=BatchLinks(
                self=base,
                events=f"{base}/events",
                results=f"{base}/results",
                cancel=f"{base}/cancel",
                retry=f"{base}/retry",
                jobs=f"/v1/jobs?batch_id={batch.id}",
            ),
        )


class BatchPage(BaseModel):
    batches: list[BatchOut]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last.")


class ResultOut(BaseModel):
    """A row of the results: one item as it is now."""

    index: int
    name: str | None
    custom_id: str | None
    job_id: str
    status: JobState
    prediction: PredictionOut | None
    error: JobError | None

    @classmethod
    def of(cls, result: Result) -> ResultOut:
        return cls.model_validate(result, from_attributes=True)
