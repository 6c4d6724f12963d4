"""What the API answers about jobs, refusals and pages, as clients and OpenAPI see it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from core.errors import InvalidRequest
from core.jobs.ids import Prefix
from core.jobs.queries import JobRecord
from core.jobs.states import JobState, MethodState, Queue


class Problem(BaseModel):
    """A refusal (RFC 9457). ``detail`` says what was wrong and what would be right."""

    type: str = Field(examples=["urn:pawlens:problem:invalid_image"])
    title: str = Field(examples=["Invalid image"])
    status: int = Field(examples=[422])
    detail: str
    instance: str = Field(examples=["/v1/jobs"])
    code: str = Field(examples=["invalid_image"])
    correlation_id: str | None = None
    errors: list[dict[str, Any]] | None = Field(
        None, description="Every invalid field, with a message; or every item of a batch, with its fault."
    )


class ImageOut(BaseModel):
    sha256: str
    width: int = Field(
        description="Pixels, as browsers show the picture: after EXIF orientation in JPEG and PNG."
    )
    height: int
    media_type: str


class ModelRef(BaseModel):
    name: str
    version: str
    digest: str = Field(description="SHA-256 of the weights.")


class PredictionOut(BaseModel):
    label: str = Field(examples=["cat"])
    scores: dict[str, float] = Field(
        description="Calibrated probability of each class; they sum to 1.",
        examples=[{"cat": 0.93, "dog": 0.07}],
    )
    margin: float = Field(description="Log-odds of the predicted class, before calibration.")


class Timings(BaseModel):
    """Milliseconds. ``inference_ms`` is that of the whole micro-batch, which had ``batch_size`` pictures."""

    queued_ms: float
    decode_ms: float
    inference_ms: float
    batch_size: int


class Progress(BaseModel):
    done: int
    total: int


class ArtifactOut(BaseModel):
    name: str
    media_type: str
    bytes: int
    url: str


class JobError(BaseModel):
    code: str
    title: str
    detail: str


class MethodOut(BaseModel):
    name: str
    status: MethodState
    progress: Progress
    seconds: float | None
    cached: bool
    quality: dict[str, Any] | None = Field(
        description="How far it can be trusted: completeness_error, converged, sparsity, ..."
    )
    provenance: dict[str, Any] | None = Field(
        description="Which class was explained, and what is needed to make it again."
    )
    artifacts: list[ArtifactOut]
    error: JobError | None


class QueueOut(BaseModel):
    position: int = Field(
        description="1 is next; 1000 stands for every place from there on. Jobs of a higher priority posted "
        "later go before it."
    )
    estimated_start_at: datetime | None = Field(
        description="From the position and the throughput of the last minute; null while that is unknown, "
        "and from position 1000 on."
    )


class Links(BaseModel):
    self: str
    events: str
    image: str
    cancel: str


class JobOut(BaseModel):
    id: str
    kind: Literal["predict", "explain"]
    status: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    name: str | None = Field(description="The uploaded file's name.")
    custom_id: str | None
    metadata: dict[str, Any]
    options: dict[str, Any] | None = Field(
        description="Of its explanations, with all defaults; null when it has none."
    )
    batch_id: str | None
    batch_index: int | None = Field(description="Position of the item in the batch, from 0.")
    image: ImageOut | None = Field(description="Null until a URL is downloaded.")
    source_url: str | None
    model: ModelRef | None
    prediction: PredictionOut | None
    timings: Timings | None
    methods: list[MethodOut]
    progress: Progress = Field(
        description="Steps done of this job: the prediction and each method. What was canceled is not done."
    )
    queue: QueueOut | None = Field(description="While the job is queued.")
    error: JobError | None
    attempt: int = Field(description="How often a worker has begun it.")
    event_seq: int = Field(description="Number of the newest event.")
    links: Links

    @classmethod
    def of(cls, record: JobRecord, estimated_start_at: datetime | None = None) -> JobOut:
        job, base = record.job, f"/v1/jobs/{record.job.id}"
        methods = [
            MethodOut(
                name=method.name,
                status=method.state,
                progress=Progress(done=method.done, total=method.total),
                seconds=method.seconds,
                cached=method.cached,
                quality=method.quality,
                provenance=method.provenance,
                artifacts=[
                    ArtifactOut(
                        name=artifact.name,
                        media_type=artifact.media_type,
                        bytes=artifact.size,
                        url=f"{base}/artifacts/{artifact.method}/{artifact.name}",
                    )
                    for artifact in record.artifacts
                    if artifact.method == method.name
                ],
                error=None if method.error is None else JobError(**method.error),
            )
            for method in record.methods
        ]
        done = sum(method.status in (MethodState.SUCCEEDED, MethodState.FAILED) for method in methods)
        return cls(
            id=job.id,
            kind="explain" if job.queue is Queue.EXPLAIN else "predict",
            status=job.state,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            name=job.name,
            custom_id=job.custom_id,
            metadata=job.meta,
            options=job.options if methods else None,
            batch_id=job.batch_id,
            batch_index=job.batch_index,
            image=record.image
            and ImageOut(
                sha256=record.image.sha256,
                width=record.image.width,
                height=record.image.height,
                media_type=record.image.media_type,
            ),
            source_url=job.source_url,
            model=None if job.model is None else ModelRef(**job.model),
            prediction=None if job.prediction is None else PredictionOut(**job.prediction),
            timings=None if job.timings is None else Timings(**job.timings),
            methods=methods,
            progress=Progress(done=(job.prediction is not None) + done, total=1 + len(methods)),
            queue=None
            if record.position is None
            else QueueOut(position=record.position, estimated_start_at=estimated_start_at),
            error=None if job.error is None else JobError(**job.error),
            attempt=job.attempt,
            event_seq=job.event_seq,
            links=Links(self=base, events=f"{base}/events", image=f"{base}/image", cancel=f"{base}/cancel"),
        )


class JobPage(BaseModel):
    jobs: list[JobOut]
    next_cursor: str | None = Field(description="Pass it as ``cursor`` for the next page; null on the last.")


Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before.")]


def checked_cursor(cursor: str | None, prefix: Prefix) -> str | None:
    """The id that a page goes on from.

    Raises:
        InvalidRequest: it is no cursor of such a list.
    """
    if cursor is not None and not re.fullmatch(rf"{prefix}_[0-9a-f]{{32}}", cursor):
        raise InvalidRequest(
            "cursor: not a cursor of this list. Pass next_cursor of the page before, as it is."
        )
    return cursor


Wait = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)]
