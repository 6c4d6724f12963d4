"""``/v1/jobs``: post a picture, follow the job, fetch what came of it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from api import answers, idempotency
from api.auth import OwnerDep, owner_of
from api.direct import DirectRoute
from api.openapi import JOB_BODY, problems
from api.schemas import Cursor, JobOut, JobPage, Wait, checked_cursor
from api.service import Service, ServiceDep, get_service
from api.submissions import read_job
from api.waiting import while_connected
from core.jobs import completion, queries, results, retention, webhooks
from core.jobs.states import FINAL, JobState, Queue
from core.jobs.transitions import PARTIAL

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
# A router of its own, because all routes of one are of the same class.
direct = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=DirectRoute)

MAX_WAIT_SECONDS = 60.0

_ARTIFACT = {
    "description": "The file's bytes.",
    "content": {kind: {} for kind in ("image/png", "application/octet-stream", "application/zip")},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N` answers with the result if it is there in N seconds.",
    "schema": {"type": "array", "items": {"type": "string"}},
}
_PICTURE = {
    "description": "The picture's bytes.",
    "content": {kind: {} for kind in ("image/jpeg", "image/png", "image/webp")},
}


def answer(job: JobOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    place = f"-{job.queue.position}" if job.queue else ""  # it changes without any event
    etag = f'W/"{job.event_seq}{place}"'
    body = job.model_dump_json()
    return answers.shown(body, etag, is_final=job.status in FINAL, status=status, headers=headers)


@direct.post(
    "",
    status_code=202,
    response_model=JobOut,
    openapi_extra=JOB_BODY | {"parameters": [_PREFER, idempotency.PARAMETER]},
    responses=problems(
        400,
        413,
        415,
        422,
        503,
        507,
        http_200={
            "model": JobOut,
            "description": "It ended within the time of Prefer: wait.",
            "headers": idempotency.ANSWER_HEADERS,
        },
        http_202={"description": "Accepted.", "headers": idempotency.ANSWER_HEADERS},
    ),
)
async def create_job(request: Request) -> Response:
    """Post a picture, or the URL of one. The answer comes at once; the job runs in the background."""
    service, owner = await get_service(request), await owner_of(request)
    seconds = _preferred_wait(", ".join(request.headers.getlist("prefer")))
    job, replayed = await _accept(request, service, owner)
    headers = idempotency.headers_of(job.links.self, is_replayed=replayed)
    if seconds is None:
        return answer(job, 202, headers)
    headers["Preference-Applied"] = f"wait={seconds:g}"
    job = await while_connected(request, service.wait(job.id, seconds, owner=owner))
    return answer(job, 200 if job.status in FINAL else 202, headers)


async def _accept(request: Request, service: Service, owner: str | None) -> tuple[JobOut, bool]:
    # What was read is let go of at the end of this: while its answer is waited for, a picture may be large.
    asked = await read_job(request, service.settings)
    return await service.accept_once(asked, idempotency.named(request, asked), owner=owner)


def _preferred_wait(prefer: str) -> float | None:
    """The seconds of ``Prefer: wait=N`` (RFC 7240), at most 60. A preference that is no number is ignored."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)\"?\s*(?:$|[,;])", prefer, re.IGNORECASE)
    return min(float(found[1]), MAX_WAIT_SECONDS) if found else None


@router.get("", response_model=JobPage, responses=problems(422, 503))
def list_jobs(
    service: ServiceDep,
    owner: OwnerDep,
    status: Annotated[list[JobState] | None, Query()] = None,
    kind: Literal["predict", "explain"] | None = None,
    batch_id: Annotated[str | None, Query(max_length=48)] = None,
    custom_id: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Cursor = None,
) -> Response:
    """Jobs, newest first."""
    before = checked_cursor(cursor, "job")
    with service.database.read() as session:
        records = queries.list_jobs(
            session,
            owner=owner,
            states=status or (),
            kind=kind,
            batch_id=batch_id,
            custom_id=custom_id,
            before=before,
            limit=limit + 1,
        )
    if any(record.position is not None for record in records):
        service.throughput.refresh()
    jobs = [service.shown(record) for record in records[:limit]]
    page = JobPage(jobs=jobs, next_cursor=jobs[-1].id if len(records) > limit else None)
    return Response(page.model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}",
    response_model=JobOut,
    responses=problems(404, 422, 503, http_304=answers.UNCHANGED),
)
async def get_job(
    request: Request,
    job_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    wait: Annotated[Wait, Query(description="Seconds to hold the answer until there is news.")] = 0,
    after: Annotated[
        int | None,
        Query(ge=0, description="What counts as news: an event above this number. Without it: the end."),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A job as it is now, or, with `wait`, as soon as there is news of it."""
    waiting = service.wait(job_id, wait, owner=owner, after=after)
    job = await (while_connected(request, waiting) if wait else waiting)
    return answers.unless_known(answer(job), if_none_match)


@router.get(
    "/{job_id}/image",
    response_class=Response,
    responses=problems(404, 422, 503, http_200=_PICTURE, http_304=answers.UNCHANGED),
)
def get_image(
    job_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The picture as it was uploaded or downloaded."""
    with service.database.read() as session:
        image, data = queries.picture_of(session, job_id, owner=owner)
    return _bytes(data, image.sha256, image.media_type, if_none_match)


def _bytes(
    data: bytes, sha256: str, media_type: str, if_none_match: str | None, *, changes: bool = False
) -> Response:
    """Bytes that never change under their URL (unless ``changes``), with their digest as the ETag.

    Strangers' bytes, so whatever a browser makes of them it runs nothing and asks nobody.
    """
    keep = "no-cache" if changes else "private, max-age=31536000, immutable"
    tag = f'"{sha256}"'
    # A browser keeps it for whoever had the key: asked with another, or none, it must ask again.
    headers = {"ETag": tag, "Cache-Control": keep, "Vary": "Authorization"}
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if answers.is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


@router.get(
    "/{job_id}/artifacts/{method}/{name}",
    response_class=Response,
    responses=problems(404, 422, 503, http_200=_ARTIFACT, http_304=answers.UNCHANGED),
)
def get_artifact(
    job_id: str,
    method: str,
    name: str,
    service: ServiceDep,
    owner: OwnerDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A file that a method has made: `panel.png`, `overlay.png`, `heatmap.png`, `attribution.npy`, ..."""
    with service.database.read() as session:
        artifact, data = queries.artifact_of(session, job_id, method, name, owner=owner)
    # A partial map is replaced by the next one, under the same name.
    is_partial = name == PARTIAL
    return _bytes(data, artifact.blob_sha256, artifact.media_type, if_none_match, changes=is_partial)


@router.post("/{job_id}/cancel", response_model=JobOut, responses=problems(404, 409, 422, 503))
def cancel_job(job_id: str, service: ServiceDep, owner: OwnerDep) -> Response:
    """Stop a job: at once while it waits, at the next step while it runs."""
    with service.database.write() as session:
        results.cancel(session, job_id, owner=owner)
        completion.look_now(session)  # it may have been the last of its batch
        has_deliveries = webhooks.written(session)
    if has_deliveries:
        service.hints.note(Queue.IO)
    return answer(service.job(job_id, owner=owner))


@router.delete("/{job_id}", status_code=204, response_class=Response, responses=problems(404, 409, 422, 503))
def delete_job(job_id: str, service: ServiceDep, owner: OwnerDep) -> Response:
    """Remove a job that has ended, with its events, artifacts and, unless another job has it, its picture."""
    with service.database.write() as session:
        retention.delete_job(session, job_id, owner=owner)
    return Response(status_code=204)
