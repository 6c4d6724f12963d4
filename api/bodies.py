"""What a body says, in any form, before anything of it is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from core.errors import BadRequest, InvalidRequest

MAX_DIGITS = 1000
MAX_PIECES = 30_000
"""Of a JSON document. Metadata of 16 KiB and URLs of 2,048 characters have fewer, whatever is in them."""


def media_type_of(request: Request) -> str:
    """Of the body, without its parameters; empty if it is not declared."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request) -> bytes:
    """The whole body. Unlike ``request.body()``, which keeps it for as long as the request lasts."""
    return b"".join([chunk async for chunk in request.stream()])


def parsed_json(body: bytes, *, what: str = "The body", most_pieces: int = MAX_PIECES) -> Any:
    """What is written in ``body``, which a refusal calls ``what``.

    Raises:
        BadRequest: it is no JSON (RFC 8259, which knows neither NaN nor Infinity).
        InvalidRequest: it has more than ``most_pieces``.
    """
    # A million empty objects take Python 24 times the memory of their text, and hold up every other thread
    # until the last is made. Each begins with one of these, or follows one; in base64 there are none.
    if len(body) > most_pieces and sum(map(body.count, b",[{")) > most_pieces:
        raise InvalidRequest(f"There are more than {most_pieces:,} values in this JSON. Send fewer at once.")
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_int=_parsed_int)
    except UnicodeDecodeError as error:
        raise BadRequest(f"{what} cannot be read. Send JSON in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{what} is not JSON: {error}") from error


def _parsed_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # Python's own limit tells of Python's settings
        raise ValueError(f"a number has {MAX_DIGITS} digits at most")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def refuse_texts(texts: Sequence[tuple[str, str]], *names: str) -> None:
    """Raises InvalidRequest where a field of these names, which are files, is a text."""
    for name, _ in texts:
        if name in names:
            raise InvalidRequest(f"{name}: send it as a file part, with a file name, not as a text field.")


def values_of(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A form's text fields by their names, lists taken apart.

    Raises InvalidRequest when one is given twice.
    """
    values: dict[str, Any] = {}
    for key, value in texts:
        if key in ("methods", "webhook_events"):
            values.setdefault(key, []).extend(part.strip() for part in value.split(",") if part.strip())
        elif key in values:
            raise InvalidRequest(f"{key[:100]}: given more than once.")
        else:
            values[key] = value
    return values
