"""``/v1/batches``: thousands of pictures at once, followed and fetched as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from api import answers, batch_exports, idempotency
from api.auth import OwnerDep
from api.batch_items import read_batch
from api.batch_schemas import BatchFields, BatchOut, BatchPage
from api.batching import Batching, get_batching
from api.openapi import BATCH_BODY, problems
from api.routes.events import AfterQuery, LastEventId, described, streamed
from api.schemas import Cursor, Wait, checked_cursor
from api.service import ServiceDep
from api.waiting import while_connected
from core.jobs import batch_queries
from core.jobs.states import BatchState

router = APIRouter(prefix="/v1/batches", tags=["batches"])

BatchingDep = Annotated[Batching, Depends(get_batching)]

_MEDIA_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8", "zip": "application/zip"}
_RESULTS = {
    "description": "A row for each item, in the order of `index`.",
    "content": {
        "application/x-ndjson": {
            "schema": {
                "type": "string",
                "description": "Lines, each of which is one of these.",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/ResultOut"},
            },
            "example": '{"index":0,"name":"cat.jpg","custom_id":null,"job_id":"job_0192...","status":'
            '"succeeded","prediction":{"label":"cat","scores":{"cat":0.97,"dog":0.03},"margin":3.4},'
            '"error":null}\n',
        },
        "text/csv; charset=utf-8": {
            "schema": {"type": "string"},
            "example": "index,name,custom_id,job_id,status,label,score,margin,score_cat,score_dog,error_code,"
            "error\r\n0,cat.jpg,,job_0192...,succeeded,cat,0.97,3.4,0.97,0.03,,\r\n",
        },
        "application/zip": {
            "schema": {"type": "string", "format": "binary"},
        },
    },
}


def answer(batch: BatchOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # Its ETag is of all that is shown: counts change more often than events are written.
    body = batch.model_dump_json()
    etag = f'W/"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    is_final = batch.status is not BatchState.RUNNING
    return answers.shown(body, etag, is_final=is_final, status=status, headers=headers)


@router.post(
    "",
    status_code=202,
    response_model=BatchOut,
    openapi_extra=BATCH_BODY,
    responses=problems(
        400,
        413,
        415,
        422,
        503,
        507,
        http_202={"description": "Accepted.", "headers": idempotency.ANSWER_HEADERS},
    ),
)
async def create_batch(
    request: Request,
    service: ServiceDep,
    batching: BatchingDep,
    owner: OwnerDep,
    _idempotency_key: idempotency.Key = None,
) -> Response:
    """Post many pictures, or the URLs of many. Every one of them becomes a job.

    An item that cannot be accepted fails alone, at once, and is named in `errors`. If none can be, nothing is
    made and the answer is 422.
    """
    asked = await read_batch(request, service.settings)
    try:
        # Without the items of the JSON form, which the digest covers: anything at all may be among them.
        fields = asked.fields.model_dump(mode="json", include=set(BatchFields.model_fields))
        once = idempotency.of(request, [fields, asked.sha256])
        batch, replayed = await batching.accept(asked, once, owner=owner)
    finally:
        asked.close()
    return answer(batch, 202, idempotency.headers_of(batch.links.self, is_replayed=replayed))


@router.get("", response_model=BatchPage, responses=problems(422, 503))
def list_batches(
    service: ServiceDep,
    owner: OwnerDep,
    status: Annotated[list[BatchState] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Cursor = None,
) -> Response:
    """Batches, newest first."""
    before = checked_cursor(cursor, "batch")
    with service.database.read() as session:
        records = batch_queries.list_batches(
            session, owner=owner, states=status or (), before=before, limit=limit + 1
        )
    shown = [BatchOut.of(record) for record in records[:limit]]
    page = BatchPage(batches=shown, next_cursor=shown[-1].id if len(records) > limit else None)
    return Response(page.model_dump_json(), media_type="application/json")


@router.get(
    "/{batch_id}", response_model=BatchOut, responses=problems(404, 422, 503, http_304=answers.UNCHANGED)
)
async def get_batch(
    request: Request,
    batch_id: str,
    batching: BatchingDep,
    owner: OwnerDep,
    wait: Annotated[Wait, Query(description="Seconds to hold the answer until there is news.")] = 0,
    after: Annotated[
        int | None,
        Query(ge=0, description="What counts as news: an event above this number. Without it: the end."),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A batch as it is now, or, with `wait`, as soon as there is news of it."""
    waiting = batching.wait(batch_id, wait, owner=owner, after=after)
    batch = await (while_connected(request, waiting) if wait else waiting)
    return answers.unless_known(answer(batch), if_none_match)


@router.get(
    "/{batch_id}/results",
    response_class=StreamingResponse,
    responses=problems(404, 422, 503, http_200=_RESULTS),
)
def get_results(
    batch_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    format: Annotated[
        Literal["jsonl", "csv", "zip"],
        Query(description="`zip` has both others, and the panels of explanations."),
    ] = "jsonl",
) -> Response:
    """What there is of every item now: while the batch runs, when it has ended, and after a cancel."""
    with service.database.read() as session:
        batch_queries.find(session, batch_id, owner=owner)
    rows: Iterator[bytes]
    if format == "jsonl":
        rows = batch_exports.as_jsonl(service.database, batch_id)
    else:
        export = batch_exports.as_csv if format == "csv" else batch_exports.as_zip
        rows = export(service.database, batch_id, service.manifest().labels)
    headers = {
        "Content-Disposition": f'attachment; filename="{batch_id}.{format}"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(rows, 200, headers, _MEDIA_TYPES[format])


@router.get(
    "/{batch_id}/events",
    response_class=StreamingResponse,
    responses=problems(404, 422, 503, **described("batch", "batch.created", '"counts":{"queued":2}')),
)
async def stream_events(
    batch_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    after: AfterQuery = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """The batch's events as they come: `batch.created`, `batch.progress` about once a second, and its end."""
    return await streamed(
        service, batch_queries.newest_event, batch_id, owner=owner, after=after, last_event_id=last_event_id
    )


@router.post("/{batch_id}/cancel", response_model=BatchOut, responses=problems(404, 409, 422, 503))
def cancel_batch(batch_id: str, batching: BatchingDep, owner: OwnerDep) -> Response:
    """Stop a batch: what waits at once, what runs at its next step. Results that are there stay."""
    return answer(batching.cancel(batch_id, owner=owner))


@router.post(
    "/{batch_id}/retry",
    status_code=202,
    response_model=BatchOut,
    responses=problems(
        *(404, 409, 422, 503, 507),
        http_202={"description": "Accepted.", "headers": idempotency.ANSWER_HEADERS},
    ),
)
def retry_batch(
    batch_id: str,
    request: Request,
    batching: BatchingDep,
    owner: OwnerDep,
    _idempotency_key: idempotency.Key = None,
) -> Response:
    """Run again what failed or expired, as a new batch, under the same `index`, `name` and `custom_id`."""
    batch, replayed = batching.retry(batch_id, idempotency.of(request, []), owner=owner)
    return answer(batch, 202, idempotency.headers_of(batch.links.self, is_replayed=replayed))


@router.delete(
    "/{batch_id}", status_code=204, response_class=Response, responses=problems(404, 409, 422, 503)
)
def delete_batch(batch_id: str, batching: BatchingDep, owner: OwnerDep) -> Response:
    """Remove a batch that has ended, with its jobs and all that came of them."""
    batching.delete(batch_id, owner=owner)
    return Response(status_code=204)
