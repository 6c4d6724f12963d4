"""The service itself: its model, its queues, its health."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from api.metrics import Metrics
from api.openapi import problems
from api.service import Service, ServiceDep
from api.service_schemas import (
    Check,
    CostOut,
    MethodInfo,
    MethodsOut,
    ModelOut,
    QueueDepthOut,
    QueuesOut,
    Readiness,
    WorkerOut,
)
from core.broker import BrokerUnavailable
from core.errors import PawlensError
from core.explain.methods import METHODS, Method
from core.explain.options import ExplainOptions
from core.jobs import queries, workers
from core.jobs.states import Queue

router = APIRouter(tags=["service"])

Status = Literal["ok", "degraded", "unavailable"]


@router.get("/v1/model", response_model=ModelOut, responses=problems(503))
def get_model(service: ServiceDep) -> ModelOut:
    """The network that answers: labels, input, weights and what was measured of it."""
    manifest = service.manifest()
    return ModelOut(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.sha256,
        architecture=manifest.architecture,
        labels=list(manifest.labels),
        input_size=manifest.input.size,
        resize_scale=manifest.input.resize_scale,
        mean=list(manifest.input.mean),
        std=list(manifest.input.std),
        temperature=manifest.temperature,
        calibrated=manifest.calibrated,
        metrics=manifest.metrics,
        provenance=manifest.provenance,
    )


@router.get("/v1/methods", response_model=MethodsOut, responses=problems(503))
def get_methods(service: ServiceDep) -> MethodsOut:
    """The explanation methods: what each shows, its options as JSON Schema, and what it costs by default."""
    size = service.manifest().input.size

    def cost(method: Method) -> CostOut:
        options = method.options()
        quality = method.quality_cost(options, size)
        return CostOut(**method.cost(options, size)._asdict(), quality=quality)

    return MethodsOut(
        options=ExplainOptions.model_json_schema(),
        methods=[
            MethodInfo(
                name=method.name,
                title=method.title,
                summary=method.summary,
                options=method.options.model_json_schema(),
                cost=cost(method),
            )
            for method in METHODS.values()
        ],
    )


@router.get("/v1/queue", response_model=QueuesOut, responses=problems(503))
def get_queues(service: ServiceDep) -> QueuesOut:
    """How deep each queue is, how fast it moves, and which workers are alive."""
    with service.database.read() as session:
        depths = queries.queue_depths(session)
        alive = workers.alive(session, silent_seconds=service.settings.silent_seconds)
    return QueuesOut(
        queues=[QueueDepthOut(name=queue, **vars(depth)) for queue, depth in depths.items()],
        workers=[WorkerOut.model_validate(worker, from_attributes=True) for worker in alive],
    )


@router.get(
    "/metrics",
    tags=["health"],
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus' text format, or OpenMetrics by Accept."}},
)
def get_metrics(request: Request) -> Response:
    """What Prometheus scrapes: queues, outcomes, times, workers, webhooks, HTTP requests."""
    metrics: Metrics = request.app.state.metrics
    body, media_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


@router.get("/livez", tags=["health"])
async def livez() -> dict[str, str]:
    """Whether this process answers at all."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    tags=["health"],
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Jobs cannot be accepted now."}},
)
def readyz(service: ServiceDep) -> Response:
    """Whether jobs are accepted (`ok` or `degraded`) and worked on (`ok`)."""
    checks = {"database": _database(service), "disk": _disk(service), "redis": _redis(service)}
    checks["workers"] = (
        _workers(service) if checks["database"].status == "ok" else Check(status="unavailable")
    )
    accepting = [checks["database"].status, checks["disk"].status]
    status: Status = "ok"
    if "unavailable" in accepting:
        status = "unavailable"
    elif any(check.status != "ok" for check in checks.values()):
        status = "degraded"
    body = Readiness(status=status, checks=checks).model_dump_json(exclude_none=True)
    return Response(body, 503 if status == "unavailable" else 200, media_type="application/json")


def _database(service: Service) -> Check:
    try:
        service.database.ping()
    except PawlensError as error:
        return Check(status="unavailable", detail=error.detail)
    return Check(status="ok")


def _disk(service: Service) -> Check:
    folder = service.settings.data_dir
    try:
        usage = shutil.disk_usage(folder if folder.exists() else folder.parent)
    except OSError as error:
        return Check(status="unavailable", detail=f"{folder}: {error.strerror}")
    free = usage.free / usage.total
    least = service.settings.min_free_disk_fraction
    if free < least:
        return Check(status="unavailable", detail=f"{free:.1%} of the disk is free, less than {least:.0%}.")
    return Check(status="ok")


def _redis(service: Service) -> Check:
    try:
        service.probe.ping()
    except BrokerUnavailable:
        return Check(
            status="degraded", detail="Redis does not answer. Jobs are kept and start when it is back."
        )
    return Check(status="ok")


def _workers(service: Service) -> Check:
    try:
        with service.database.read() as session:
            found = workers.alive(session, silent_seconds=service.settings.silent_seconds)
    except PawlensError as error:
        return Check(status="unavailable", detail=error.detail)
    alive = Counter(dict.fromkeys(Queue, 0))
    alive.update(worker.queue for worker in found)
    missing = [queue for queue, count in alive.items() if not count]
    if missing:
        detail = f"No {' and no '.join(missing)} worker is alive. Jobs are kept and start when one is."
        return Check(status="degraded", detail=detail, alive=dict(alive))
    return Check(status="ok", alive=dict(alive))
