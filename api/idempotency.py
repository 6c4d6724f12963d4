"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a POST that may be sent twice."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from fastapi import Header
from starlette.requests import Request

from api.job_fields import JobFields
from api.submissions import Asked
from core.errors import InvalidRequest
from core.jobs.submit import Idempotency

HEADER = "Idempotency-Key"
DESCRIPTION = (
    "A name for this request, of up to 255 printable ASCII characters, bare or quoted. Sent again within "
    "24 hours, the same request with the same key makes nothing a second time: the answer is what the first "
    "one made, as it is then, with `Idempotent-Replayed: true`. Another request with the key is refused: 422."
)
PARAMETER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": DESCRIPTION,
    "schema": {"type": "string"},
}
Key = Annotated[str | None, Header(alias=HEADER, description=DESCRIPTION)]
"""For the documentation; the header is read by :func:`of`."""
ANSWER_HEADERS: dict[str, Any] = {
    "Location": {"description": "Where it is.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true` when this very request was sent before; absent otherwise.",
        "schema": {"type": "string", "const": "true"},
    },
}

_KEY = re.compile("[ -~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def headers_of(location: str, *, is_replayed: bool) -> dict[str, str]:
    """Of the answer to a POST that creates: where it is, and whether it was made by an earlier request."""
    return {"Location": location} | ({"Idempotent-Replayed": "true"} if is_replayed else {})


def named(request: Request, asked: Asked) -> Idempotency | None:
    """The key of a request that posts a job, or None without the header.

    Raises:
        InvalidRequest: see :func:`of`.
    """
    if HEADER not in request.headers:  # most have none, and need no digest of all that they ask
        return None
    fields = asked.fields.model_dump(mode="json", include=set(JobFields.model_fields))
    picture = None if asked.data is None else hashlib.sha256(asked.data).hexdigest()
    return of(request, [fields, asked.url, asked.name, picture])


def of(request: Request, understood: list[Any]) -> Idempotency | None:
    """The request's key with a digest of what was asked, or None without the header.

    The digest is of the request as it was understood, so that neither a form's boundary nor the order of its
    fields makes it another one. The key may be quoted, as the draft has it (a String of RFC 9651), or bare.

    Raises:
        InvalidRequest: the key is empty, too long, or has other than printable ASCII characters.
    """
    sent = request.headers.get(HEADER)
    if sent is None:
        return None
    quoted = _QUOTED.fullmatch(sent)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else sent
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"{HEADER}: send 1 to 255 printable ASCII characters, a UUID for example.")
    whole = json.dumps([request.method, request.url.path, *understood], sort_keys=True)
    return Idempotency(key, hashlib.sha256(whole.encode()).hexdigest())
