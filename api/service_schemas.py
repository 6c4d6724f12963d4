"""What the API answers about the service itself, and to the original's contract, as clients see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from core.jobs.states import Queue


class ModelOut(BaseModel):
    name: str
    version: str
    digest: str = Field(description="SHA-256 of the weights.")
    architecture: str
    labels: list[str]
    input_size: int = Field(description="Pixels a side of the square that the network sees.")
    resize_scale: float = Field(description="The shorter side is resized to input_size times this.")
    mean: list[float]
    std: list[float]
    temperature: float = Field(description="Scores are softmax(logits / temperature).")
    calibrated: bool = Field(description="Whether the temperature was fitted to held-out pictures.")
    metrics: dict[str, Any]
    provenance: str


class CostOut(BaseModel):
    """In forward passes of one picture; the gradient of one picture counts as two."""

    expected: int
    at_most: int
    quality: int = Field(description="Expected in addition with `options.quality`.")


class MethodInfo(BaseModel):
    name: str
    title: str
    summary: str
    options: dict[str, Any] = Field(description="JSON Schema of `options.NAME`.")
    cost: CostOut = Field(description="With the default options.")


class MethodsOut(BaseModel):
    options: dict[str, Any] = Field(description="JSON Schema of a job's `options`.")
    methods: list[MethodInfo]


class QueueDepthOut(BaseModel):
    name: Queue
    waiting: int
    running: int
    oldest_seconds: float = Field(description="How long the longest-waiting job has waited.")
    finished_last_minute: int = Field(description="Run to an end by workers; always 0 for `io`.")


class WorkerOut(BaseModel):
    id: str
    queue: Queue
    hostname: str
    pid: int
    started_at: datetime
    seen_at: datetime
    report: dict[str, Any] = Field(description="Device, precision and why; micro-batch size.")


class QueuesOut(BaseModel):
    queues: list[QueueDepthOut]
    workers: list[WorkerOut]


class Check(BaseModel):
    status: Literal["ok", "degraded", "unavailable"]
    detail: str | None = None
    alive: dict[Queue, int] | None = None


class Readiness(BaseModel):
    """``degraded`` still accepts jobs, and keeps them; ``unavailable`` does not."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, Check]


class LegacyPrediction(BaseModel):
    label: str
    scores: dict[str, float]
    meta: dict[str, Any]


class LegacyExplanation(LegacyPrediction):
    artifacts: dict[str, str] = Field(
        description="PNG pictures as data URLs; NAME_error where one failed.",
        examples=[{"gradcam_panel": "data:image/png;base64,iVBORw0KGgo...", "occlusion_error": "..."}],
    )
