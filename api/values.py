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


# Names are shown, logged and exported, each on a line of its own and in its place: without control
# characters, ends of lines, and what turns around the text that follows (Unicode Standard Annex 9). All else
# may be a name, also spaces of other widths and joiners, which isprintable() would refuse.
_NO_TEXT = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def cleaned(text: str, instead: str = "") -> str:
    """The text without what no name may have, or with ``instead`` in each place."""
    return _NO_TEXT.sub(instead, text)


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


def _clean(value: str) -> str:
    if _NO_TEXT.search(value):
        raise ValueError("must have no control characters, line ends or marks of direction")
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_small)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_clean)]
