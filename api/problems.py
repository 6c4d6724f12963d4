"""The edge where errors become HTTP: every refusal is a problem document (RFC 9457)."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from core.errors import BadRequest, InvalidRequest, PawlensError
from core.logs import correlation_id

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 20


RETRY_SECONDS = 5
"""Retry-After of what is away for a while, where nothing better is known."""


def problem_response(error: PawlensError, path: str) -> Response:
    usual = {"Retry-After": str(RETRY_SECONDS)} if error.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return _response(
        error.status,
        error.code,
        error.title,
        error.detail,
        path,
        headers=usual | error.headers,
        **error.extensions,
    )


def _response(
    status: int,
    code: str,
    title: str,
    detail: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    **extensions: Any,
) -> Response:
    document = {
        "type": f"urn:pawlens:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
        "correlation_id": correlation_id.get(),
        **extensions,
    }
    return Response(json.dumps(document), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every refusal with a problem document. What nobody expected is answered by the middleware,
    inside which the ids are known.
    """
    app.add_exception_handler(PawlensError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, PawlensError)
    if error.status == 503:  # expected where something is away or full; the client is told when to come back
        logger.warning("%s: %s", error.code, error.detail)
    elif error.status >= 500:
        logger.error("%s: %s", error.code, error.detail, exc_info=error)
    return problem_response(error, request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid_request(error.errors()), request.url.path)


_MESSAGES = {  # by pydantic's type of fault, where its own words are about Python
    "extra_forbidden": "there is no such field; /docs lists those that there are",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "list_type": "must be a JSON array",
}


def invalid_request(errors: Any) -> InvalidRequest:
    """The faults of a request, up to 20 at once. ``errors`` as pydantic lists them."""
    faults = [
        {
            "field": ".".join(str(part) for part in error["loc"] if part != "body")[:100],
            "message": _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))[:500],
        }
        for error in errors[:MAX_FAULTS]
    ]
    first = "; ".join(f"{fault['field'] or 'body'}: {fault['message']}" for fault in faults[:3])
    more = f" (and {len(errors) - 3} more, see errors)" if len(errors) > 3 else ""
    return InvalidRequest(f"{first}{more}", errors=faults)


def from_validation(error: ValidationError) -> InvalidRequest:
    return invalid_request(error.errors(include_url=False, include_context=False, include_input=False))


_HINTS = {
    404: "There is nothing at this path. The API is described at /docs.",
    405: "This path does not answer that method. The API is described at /docs.",
}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    if detail == title:  # nothing but the phrase again
        detail = _HINTS.get(error.status_code, detail)
    code = title.lower().replace(" ", "_").replace("-", "_")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_at(request))
    return _response(error.status_code, code, title, detail, request.url.path, headers=headers)


def _methods_at(request: Request) -> list[str]:
    """What the path of a request answers. Each method may be another route's; the error knows of one."""
    methods = [method for method in ("GET", "POST", "DELETE") if _answers(request, method)]
    return ["HEAD", *methods] if "GET" in methods else methods


def _answers(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _gone(request: Request, _error: Exception) -> Response:
    # Nobody is left to read it. It ends the request as the client's doing and not as an error of ours.
    refusal = BadRequest("The connection was closed before the request was whole, or answered.")
    return problem_response(refusal, request.url.path)


def unexpected(path: str) -> Response:
    return _response(
        500,
        "internal_error",
        "Internal error",
        "The service met an error of its own. The log has the details under this correlation id.",
        path,
    )
