"""``/v1/jobs/{id}/events``: the event log of a job, or of a batch, as server-sent events.

The stream is a reading of the log, nothing more. So any process may serve it, it may be cut at any point and
resumed by the number of the last event that arrived, and it is the same long after the job has ended.
The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Header, Query
from sqlalchemy.orm import Session
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
_GREATEST = 2**31 - 1  # of the database's integers, which has ten digits

AfterQuery = Annotated[int, Query(ge=0, le=_GREATEST, description="Begin with the event after this one.")]
LastEventId = Annotated[
    str | None, Header(description="Number of the last event that arrived. It counts, not `after`.")
]


class Newest(Protocol):
    """How the newest event of a kind of subject is found: its number, and whether the subject has ended.

    Raises NotFound when there is no such subject, or it is another owner's.
    """

    def __call__(
        self, session: Session, subject_id: str, /, *, owner: str | None = None
    ) -> tuple[int, bool]: ...


def described(subject: str, first: str, data: str) -> dict[str, dict[str, Any]]:
    """The answers of a stream for OpenAPI; ``data`` is what the first event has beside the common fields."""
    example = (
        f"retry: {RETRY_MS}\n\nid: 1\nevent: {first}\n"
        f'data: {{"seq":1,"type":"{first}","created_at":"2026-01-02T03:04:05.100000Z",{data}}}\n\n'
    )
    return {
        "http_200": {
            "description": f"One event after the other, until the {subject}'s last. Comments are heartbeats.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": example}},
        },
        "http_204": {
            "description": f"The {subject} has ended and has no later event. An EventSource stays away then."
        },
    }


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=problems(404, 422, 503, **described("job", "job.created", '"status":"queued"')),
)
async def stream_events(
    job_id: str,
    service: ServiceDep,
    owner: OwnerDep,
    after: AfterQuery = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """The job's events as they come, from the first, or from the one after those that have arrived."""
    return await streamed(
        service, queries.newest_event, job_id, owner=owner, after=after, last_event_id=last_event_id
    )


async def streamed(
    service: Service,
    newest: Newest,
    subject_id: str,
    *,
    owner: str | None,
    after: int,
    last_event_id: str | None,
) -> Response:
    """The stream of a subject, or 204 when there is nothing more to come."""
    if last_event_id:  # empty: a client that has not seen any
        after = _number(last_event_id)
    seq, final = await asyncio.to_thread(_read_newest, service, newest, subject_id, owner)
    if final and seq <= after:
        return Response(status_code=204)
    # Neither caches nor proxies are to keep anything of it back (the second header is nginx's).
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _stream(service, newest, subject_id, after, owner)
    return StreamingResponse(stream, 200, headers, "text/event-stream")


def _number(last_event_id: str) -> int:
    # Its length first: Python reads no number of more than some thousand digits.
    is_number = len(last_event_id) <= 10 and last_event_id.isascii() and last_event_id.isdecimal()
    if not is_number or int(last_event_id) > _GREATEST:
        raise InvalidRequest("Last-Event-ID: send the id of an event of this stream, which is a number.")
    return int(last_event_id)


def _read_newest(service: Service, newest: Newest, subject_id: str, owner: str | None) -> tuple[int, bool]:
    with service.database.read() as session:
        return newest(session, subject_id, owner=owner)


async def _stream(
    service: Service, newest: Newest, subject_id: str, seq: int, owner: str | None
) -> AsyncIterator[str]:
    """What is in the log above ``seq``, and then, whenever the watcher has news, what is new.

    It ends early when the database cannot be reached, or this process is stopping: the client comes back, and
    another process goes on with it, or says 503. It also ends when the key that opened it is revoked.
    """
    yield f"retry: {RETRY_MS}\n\n"
    try:
        while await service.keys.admits(owner):
            page, is_last = await asyncio.to_thread(_page, service, newest, subject_id, seq)
            if page:
                yield "".join(map(_framed, page))
                seq = page[-1].seq
            if is_last:
                return
            if len(page) == PAGE or await service.watcher.wait(subject_id, HEARTBEAT_SECONDS, after=seq):
                continue
            if service.watcher.is_released:
                return
            yield ": still here\n\n"  # no id, so that the client's last one stays what it is
    except (NotFound, ServiceUnavailable):
        return  # deleted meanwhile, or to be resumed


def _page(service: Service, newest: Newest, subject_id: str, seq: int) -> tuple[Sequence[Event], bool]:
    """Some events above ``seq``, and whether the subject has ended and these are its last ones."""
    with service.database.read() as session:  # one state of both
        last, final = newest(session, subject_id)
        page = events.after(session, subject_id, seq, limit=PAGE)
    return page, final and (page[-1].seq if page else seq) >= last


def _framed(event: Event) -> str:
    created_at = event.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    shown = {"seq": event.seq, "type": event.type, "created_at": created_at} | event.data
    data = json.dumps(shown, separators=(",", ":"), allow_nan=False)  # on one line, whatever is in it
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
