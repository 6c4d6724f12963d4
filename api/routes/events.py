"""``/v1/jobs/{id}/events``: the event log of a job as server-sent events.

The stream is a reading of the log, nothing more. So any process may serve it, it may be cut at any point and
resumed by the number of the last event that arrived, and it is the same long after the job has ended.
The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from api.auth import OwnerDep
from api.openapi import problems
from api.service import Service, ServiceDep
from core.errors import InvalidRequest, NotFound, ServiceUnavailable
from core.jobs import events, queries
from core.jobs.tables import Event

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

RETRY_MS = 1000
"""What a client waits before it comes back after a broken connection."""

HEARTBEAT_SECONDS = 15.0
"""Proxies cut connections on which nothing is sent for a minute or so."""

PAGE = 200
_GREATEST = 2**31 - 1  # of the database's integers

_EXAMPLE = """retry: 1000

id: 1
event: job.created
data: {"seq":1,"type":"job.created","created_at":"2026-01-02T03:04:05.100000Z","status":"queued"}

"""
_STREAM = {
    "description": "One event after the other, until the job's last one. Comment lines are heartbeats.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
}
_OVER = {"description": "The job has ended and has no later event. An EventSource then does not come back."}


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=problems(404, 422, 503, http_200=_STREAM, http_204=_OVER),
)
async def stream_events(
    job_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    after: Annotated[int, Query(ge=0, le=_GREATEST, description="Begin with the event after this one.")] = 0,
    last_event_id: Annotated[
        str | None, Header(description="Number of the last event that arrived. It counts, not `after`.")
    ] = None,
) -> Response:
    """The job's events as they come, from the first, or from the one after those that have arrived."""
    if last_event_id:  # empty: a client that has not seen any
        after = _number(last_event_id)
    newest, final = await asyncio.to_thread(_newest, service, job_id, owner)
    if final and newest <= after:
        return Response(status_code=204)
    # Neither caches nor proxies are to keep anything of it back (the second header is nginx's).
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(service, job_id, after), 200, headers, "text/event-stream")


def _number(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdecimal()) or int(last_event_id[:11]) > _GREATEST:
        raise InvalidRequest("Last-Event-ID: send the id of an event of this job, which is a number.")
    return int(last_event_id)


def _newest(service: Service, job_id: str, owner: str | None) -> tuple[int, bool]:
    with service.database.read() as session:
        return queries.newest_event(session, job_id, owner=owner)


async def _stream(service: Service, job_id: str, seq: int) -> AsyncIterator[str]:
    """What is in the log above ``seq``, and then, whenever the watcher has news, what is new.

    It ends early when the database cannot be reached: the client comes back, and finds it or a 503.
    """
    yield f"retry: {RETRY_MS}\n\n"
    try:
        while True:
            page, is_last = await asyncio.to_thread(_page, service, job_id, seq)
            if page:
                yield "".join(map(_framed, page))
                seq = page[-1].seq
            if is_last:
                return
            while len(page) < PAGE and not await service.watcher.wait(job_id, HEARTBEAT_SECONDS, after=seq):
                yield ": still here\n\n"  # no id, so that the client's last one stays what it is
    except (NotFound, ServiceUnavailable):
        return  # deleted meanwhile, or to be resumed


def _page(service: Service, job_id: str, seq: int) -> tuple[Sequence[Event], bool]:
    """Some events above ``seq``, and whether the job has ended and these are its last ones."""
    with service.database.read() as session:  # one state of both
        newest, final = queries.newest_event(session, job_id)
        page = events.after(session, job_id, seq, limit=PAGE)
    return page, final and (page[-1].seq if page else seq) >= newest


def _framed(event: Event) -> str:
    created_at = event.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    shown = {"seq": event.seq, "type": event.type, "created_at": created_at} | event.data
    data = json.dumps(shown, separators=(",", ":"), allow_nan=False)  # on one line, whatever is in it
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
