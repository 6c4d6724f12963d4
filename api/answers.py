"""The answer that shows a job or a batch, which clients ask for again and again."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

UNCHANGED = {"description": "Unchanged since the ETag in If-None-Match."}


def shown(
    body: str,
    etag: str,
    *,
    is_final: bool,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """``body``, which is JSON, with its ETag, and with Retry-After while it has not ended."""
    sent = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
    if not is_final:
        sent["Retry-After"] = "1"
    return Response(body, status, sent, media_type="application/json")


def unless_known(answer: Response, if_none_match: str | None) -> Response:
    """The answer, or 304 when the client has it already."""
    tag = answer.headers["ETag"]
    if not is_known(tag, if_none_match):
        return answer
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether it is among the tags of the header, or the header takes any (RFC 9110, section 13.1.2).

    By the weak comparison: whether either is marked as weak, which proxies that compress do, is no matter.
    """
    if if_none_match is None:
        return False
    known = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return known == ["*"] or tag.removeprefix("W/") in known
