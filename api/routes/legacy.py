"""The contract of the project that this one replaces, answered through the same queue.

One request, one answer. New clients had better post a job: it survives a lost connection.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from api.auth import OwnerDep
from api.bodies import media_type_of
from api.job_fields import JobFields
from api.openapi import EXPLAIN_BODY, PREDICT_BODY, problems
from api.schemas import JobOut
from api.service import Service, ServiceDep
from api.service_schemas import LegacyExplanation, LegacyPrediction
from api.submissions import Asked, Form, asked_methods, picture_of, read_form
from api.waiting import while_connected
from core import errors
from core.errors import BadRequest, Conflict, PawlensError, UnsupportedMediaType
from core.jobs import queries
from core.jobs.states import FINAL, MethodState
from core.network.urls import check_url
from core.settings import Settings

router = APIRouter(tags=["original contract"])

WAIT_SECONDS = 60.0
EXPLAIN_WAIT_SECONDS = 600.0

# The original's name of each picture, and which of our artifacts it is.
PICTURES = {
    "grad_cam": ("gradcam_panel", "panel.png"),
    "integrated_gradients": ("integrated_gradients_overlay", "overlay.png"),
    "occlusion": ("occlusion_overlay", "overlay.png"),
    "feature_maps": ("feature_maps_panel", "panel.png"),
    "kernels": ("kernels_panel", "panel.png"),
}
ORIGINAL_NAMES = {"gradcam": "grad_cam", "ig": "integrated_gradients"}


class NotInTime(PawlensError):
    status, code, title = 504, "not_in_time", "Not in time"


class JobEnded(PawlensError):
    """The job ended without a result, and not by a fault of the picture."""

    status, code, title = 500, "job_ended", "Job ended without a result"


@router.get("/health", tags=["health"])
async def health() -> dict[str, str]:
    """Whether the API answers. `/readyz` says whether jobs are worked on."""
    return {"status": "ok"}


@router.post(
    "/predict",
    response_model=LegacyPrediction,
    openapi_extra=PREDICT_BODY,
    responses=problems(400, 409, 413, 415, 422, 500, 503, 504, 507),
)
async def predict(request: Request, service: ServiceDep, owner: OwnerDep) -> LegacyPrediction:
    """Predict one picture and wait for the answer: exactly one of `file` and `url`."""
    job = await _accept(request, service, owner)
    job = await _end_of(job, WAIT_SECONDS, request, service, owner)
    return LegacyPrediction(**_prediction(job))


@router.post(
    "/predict/advanced",
    response_model=LegacyExplanation,
    openapi_extra=EXPLAIN_BODY,
    responses=problems(400, 409, 413, 415, 422, 500, 503, 504, 507),
)
async def predict_advanced(request: Request, service: ServiceDep, owner: OwnerDep) -> LegacyExplanation:
    """Predict and explain one picture and wait for all of it; `what` is `all` or a list of methods."""
    job = await _accept(request, service, owner, explains=True)
    job = await _end_of(job, EXPLAIN_WAIT_SECONDS, request, service, owner)
    artifacts = await asyncio.to_thread(_artifacts, service, job)
    return LegacyExplanation(**_prediction(job), artifacts=artifacts)


async def _accept(request: Request, service: Service, owner: str | None, *, explains: bool = False) -> JobOut:
    # What was read is let go of at the end of this: while its answer is waited for, a picture may be large.
    form, asked = await _read(request, service.settings)
    if explains:
        what = form.text("what") or request.query_params.get("what") or "all"
        names = [name.strip() for name in what.split(",") if name.strip()]
        methods = asked_methods([ORIGINAL_NAMES.get(name, name) for name in names])
        asked = replace(asked, fields=JobFields(methods=list(methods)))
    return await service.accept(asked, owner=owner)


async def _read(request: Request, settings: Settings) -> tuple[Form, Asked]:
    if media_type_of(request) not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType("Send multipart/form-data with exactly one of 'file' and 'url'.")
    form = await read_form(request)
    data, name = picture_of(form, settings)
    url = (form.text("url") or "").strip() or None
    if (data is None) == (url is None):
        raise BadRequest("Send exactly one of 'file' (a picture) and 'url' (where to download one).")
    if url is not None:
        check_url(url, allow_private=settings.allow_private_network)
    return form, Asked(JobFields(), data, url, name)


async def _end_of(
    job: JobOut, seconds: float, request: Request, service: Service, owner: str | None
) -> JobOut:
    """The job once it has ended with a prediction.

    Raises:
        PawlensError: it ended without one, or has not ended in time.
        ClientDisconnect: nobody waits for it any more; the job goes on.
    """
    waiting = service.wait(job.id, seconds, owner=owner, even_when_stopping=True)
    job = await while_connected(request, waiting)
    if job.status not in FINAL:
        raise NotInTime(
            f"The job has not ended within {seconds:g} seconds. It goes on at {job.links.self}.",
            headers={"Location": job.links.self},
            job_id=job.id,
        )
    if job.prediction is None:
        raise _failure(job)
    return job


def _prediction(job: JobOut) -> dict[str, Any]:
    assert job.prediction is not None
    return {
        "label": job.prediction.label,
        "scores": job.prediction.scores,
        "meta": {
            "job_id": job.id,
            "margin": job.prediction.margin,
            "image": job.image.model_dump() if job.image else None,
            "model": job.model.model_dump() if job.model else None,
            "timings": job.timings.model_dump() if job.timings else None,
        },
    }


def _artifacts(service: Service, job: JobOut) -> dict[str, str]:
    """Each method's picture as a data URL, or under NAME_error why there is none."""
    pictures = {}
    with service.database.read() as session:
        for method in job.methods:
            key, file = PICTURES[method.name]
            if method.status is MethodState.SUCCEEDED:
                _, data = queries.artifact_of(session, job.id, method.name, file)
                pictures[key] = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            else:
                reason = method.error.detail if method.error else f"The method is {method.status}."
                pictures[f"{key.rpartition('_')[0]}_error"] = reason
    return pictures


_BY_CODE = {
    error.code: error
    for error in (errors.InvalidImage, errors.UnsupportedMediaType, errors.UrlBlocked, errors.FetchFailed)
}


def _failure(job: JobOut) -> PawlensError:
    """The job's error with the status that the error would have had at the door."""
    if job.error is None:
        return Conflict(f"The job has ended without a result: it is {job.status}.", job_id=job.id)
    return _BY_CODE.get(job.error.code, JobEnded)(job.error.detail, job_id=job.id)
