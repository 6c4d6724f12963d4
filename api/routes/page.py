"""``/``: the web page, a client of the API like any other, and the files that it is made of.

There is no build step: what is in ``api/page`` is what the browser gets. The policy lets it run, show and
call what comes from this server, and nothing else; nor may its scripts turn text into HTML or code.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from core.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}

# A request can name these files and no others, however it spells its path.
_FILES = {file.relative_to(_FOLDER).as_posix(): file for file in _FOLDER.rglob("*") if file.suffix in _TYPES}

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept by the browser, but asked about each time: an upgrade of the service is an upgrade of the page.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}

IfNoneMatch = Annotated[str | None, Header()]
AcceptEncoding = Annotated[str, Header()]


@router.api_route("/", methods=["GET", "HEAD"])
def home(if_none_match: IfNoneMatch = None, accept_encoding: AcceptEncoding = "") -> Response:
    """The page."""
    return _file("index.html", if_none_match, accept_encoding)


@router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
def page_file(name: str, if_none_match: IfNoneMatch = None, accept_encoding: AcceptEncoding = "") -> Response:
    """A part of the page."""
    return _file(name, if_none_match, accept_encoding)


def _file(name: str, if_none_match: str | None, accept_encoding: str) -> Response:
    file = _FILES.get(name)
    if file is None:
        raise NotFound("The page has no such part.")
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    headers = {**_HEADERS, "ETag": f'W/"{digest}"'}  # weak: one for the file and its compressed form
    if if_none_match is not None and digest in if_none_match:
        return Response(status_code=304, headers=headers)
    if "gzip" in accept_encoding and file.suffix != ".webp":
        data = gzip.compress(data, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(data, headers=headers, media_type=_TYPES[file.suffix])
