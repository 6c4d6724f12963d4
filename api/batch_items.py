"""From the body of ``POST /v1/batches``, in any of its forms, to the items of a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread
from pydantic import ValidationError
from starlette.requests import Request

from api.batch_archive import from_archive
from api.batch_given import Given, checked_url, refused, shown_name
from api.batch_manifest import from_manifest
from api.batch_schemas import BatchFields, BatchForm, BatchItem, BatchRequest
from api.batch_upload import Part, Upload, receive
from api.bodies import MAX_PIECES, media_type_of, parsed_json, refuse_texts, values_of
from api.problems import from_validation
from api.submissions import LIMITS, decode_base64
from core.errors import (
    InvalidRequest,
    PawlensError,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from core.settings import Settings

PIECES_PER_ITEM = 32
"""An item of the JSON form has up to four, and more where its URL has commas."""


@dataclass(frozen=True)
class AskedBatch:
    """A request that was read. Its pictures are still only bytes, in ``upload`` if they came in a form."""

    fields: BatchFields
    items: Sequence[Given]
    sha256: str
    """Of what was sent beside the fields."""
    upload: Upload | None = None

    def close(self) -> None:
        if self.upload is not None:
            self.upload.close()


async def read_batch(request: Request, settings: Settings) -> AskedBatch:
    """Read ``POST /v1/batches`` in whichever form it came. Close the answer when its items were read.

    Raises:
        BadRequest: the body does not parse.
        InvalidRequest: a field is unknown or impossible, or there are no items or too many.
        PayloadTooLarge: JSON, or a manifest, over ``max_body_bytes``; a zip that expands too far.
        UnsupportedMediaType: the body is neither a form nor JSON.
        StorageFull: there is no room for it.
    """
    kind = media_type_of(request)
    try:
        if kind == "application/json":
            body = await _small_body(request, settings)
            asked = await to_thread.run_sync(_from_json, body, settings)
        elif kind == "multipart/form-data":
            upload = await receive(request, replace(LIMITS, files=settings.max_batch_items))
            try:
                asked = await to_thread.run_sync(_from_form, upload, settings)
            except BaseException:
                upload.close()
                raise
        else:
            raise UnsupportedMediaType(
                f"The body is {kind[:100] or 'of no declared type'}. Send multipart/form-data with 'files', "
                "'archive' or 'manifest', or application/json with 'items'."
            )
    except ValidationError as error:
        raise from_validation(error) from error
    return asked


async def _small_body(request: Request, settings: Settings) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.max_body_bytes:
            raise PayloadTooLarge(
                f"As JSON a batch has {settings.max_body_bytes:,} bytes at most. Send pictures as 'files' or "
                "in an 'archive' of a form.",
                headers={"Connection": "close"},
            )
    return bytes(body)


def _from_json(body: bytes, settings: Settings) -> AskedBatch:
    most = MAX_PIECES + settings.max_batch_items * PIECES_PER_ITEM
    asked = BatchRequest.model_validate(parsed_json(body, most_pieces=most))
    if len(asked.items) > settings.max_batch_items:
        raise InvalidRequest(f"items: a batch has {settings.max_batch_items:,} at most.")
    items = [_from_item(index, item, settings) for index, item in enumerate(asked.items)]
    digest = hashlib.sha256(json.dumps(asked.items, sort_keys=True).encode())
    return AskedBatch(asked, _without_repeats(items), digest.hexdigest())


def _from_item(index: int, item: Any, settings: Settings) -> Given:
    try:
        valid = BatchItem.model_validate(item)
        if valid.url is not None:
            url = checked_url(valid.url, settings)
            return Given(index, valid.name, valid.custom_id, url=url)
        assert valid.base64 is not None
        data = decode_base64(valid.base64, "base64")
        return Given(index, valid.name, valid.custom_id, read=lambda: data, size=len(data))
    except (ValidationError, PawlensError) as error:
        return refused(index, item, error)


def _from_form(upload: Upload, settings: Settings) -> AskedBatch:
    refuse_texts(upload.fields, "files", "archive", "manifest")
    fields = BatchForm.model_validate(values_of(upload.fields))
    # A browser sends a nameless empty part for an input in which no file was chosen.
    parts = [part for part in upload.parts if part.name or part.size]
    sent = {part.field for part in parts}
    if len(sent) != 1 or not sent <= {"files", "archive", "manifest"}:
        raise InvalidRequest(
            "Send exactly one of 'files' (one part for each picture), 'archive' (a zip) and 'manifest' "
            "(CSV or JSON Lines with URLs), as file parts with a file name."
        )
    (field,) = sent
    if field == "files":
        items = [_from_part(index, upload, part) for index, part in enumerate(parts)]
    else:
        if len(parts) > 1:
            raise InvalidRequest(f"{field}: send one. Several are several batches.")
        items = _from_one(field, upload, parts[0], settings)
    if not items:
        raise InvalidRequest(f"{field}: there is no item in it.")
    return AskedBatch(fields, _without_repeats(items), upload.sha256, upload)


def _from_part(index: int, upload: Upload, part: Part) -> Given:
    name = shown_name(part.name.replace("\\", "/").rpartition("/")[2][-255:])
    return Given(index, name=name, read=lambda: upload.read(part), size=part.size)


def _from_one(field: str, upload: Upload, part: Part, settings: Settings) -> list[Given]:
    if field == "archive":
        return from_archive(upload.open(part), settings)
    if part.size > settings.max_body_bytes:
        raise PayloadTooLarge(f"manifest: it has {settings.max_body_bytes:,} bytes at most.")
    return from_manifest(upload.read(part), part.name, part.media_type, settings)


def _without_repeats(items: Sequence[Given]) -> list[Given]:
    """Of items with the same custom_id the first stays; by it a client finds its own again."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        if item.custom_id is not None and item.error is None:
            first = seen.setdefault(item.custom_id, item.index)
            if first != item.index:
                error = InvalidRequest(f"custom_id: the item {first} has it already.")
                kept.append(replace(item, read=None, url=None, error=error))
                continue
        kept.append(item)
    return kept
