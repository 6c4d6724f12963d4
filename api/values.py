"""Names and metadata that clients choose: what can be stored, shown and exported again."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32

# Python's JSON reader lets both through. PostgreSQL refuses NUL in text, and half of a surrogate pair cannot
# be encoded as UTF-8, so that the job could never be shown.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    _check_storable(value, MAX_METADATA_DEPTH)
    try:
        size = len(json.dumps(value, allow_nan=False))
    except ValueError as error:
        raise ValueError("NaN and infinity are not JSON") from error
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES:,} bytes as JSON")
    return value


def _check_storable(value: Any, levels: int) -> None:
    if levels < 0:
        raise ValueError(f"must be nested at most {MAX_METADATA_DEPTH} levels deep")
    if isinstance(value, str) and _UNSTORABLE.search(value):
        raise ValueError("must have neither NUL characters nor unpaired surrogates in its text")
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            _check_storable(item, levels - 1)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must have printable characters only")
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_small)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]
