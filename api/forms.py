"""Forms: ``multipart/form-data`` (RFC 7578), parsed as it arrives, and the other one, which has no files.

Starlette's own parser opens a spooled file for each part, and moves it to a disk from a megabyte on; here one
picture stays in memory, where it is wanted anyway, and thousands go into one file (:mod:`api.batch_upload`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.requests import Request

from core.errors import BadRequest, PawlensError


@dataclass(frozen=True)
class Limits:
    files: int
    fields: int
    field_bytes: int


@dataclass(frozen=True)
class FileHead:
    """What the form says of a file. ``name`` is the client's, and may be anything; it can be empty."""

    field: str
    name: str
    media_type: str


class Files(Protocol):
    """Takes the files of a form, one after the other, in the event loop's thread."""

    def write(self, data: bytes) -> None: ...
    def end(self, head: FileHead) -> None: ...


@dataclass
class InMemory:
    """Keeps every file."""

    files: list[tuple[FileHead, bytes]] = field(default_factory=list)
    _data: list[bytes] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self._data.append(data)

    def end(self, head: FileHead) -> None:
        self.files.append((head, b"".join(self._data)))
        self._data.clear()


async def read_multipart(
    request: Request,
    files: Files,
    limits: Limits,
    *,
    too_many_files: PawlensError,
    after_chunk: Callable[[], Awaitable[None]] | None = None,
) -> list[tuple[str, str]]:
    """Read the whole body and return the text fields. ``after_chunk`` is awaited after each piece of it.

    Raises:
        BadRequest: it is no such form, has too many fields, or one that is too long.
        PawlensError: ``too_many_files``, when it has.
    """
    reader = _Reader(files, limits, too_many_files)
    _, options = parse_options_header(request.headers.get("content-type", ""))
    try:
        if not options.get("boundary"):
            raise BadRequest("The Content-Type of the form names no boundary.")
        # As Latin-1 each byte is a character, and none is refused: see _decoded.
        parser = PushMultipartParser(options["boundary"], header_charset="latin-1")
        async for chunk in request.stream():
            if chunk:  # an empty one would say that there are no more
                reader.take(parser.parse(chunk))
            if after_chunk is not None:
                await after_chunk()
    # What is left of the body is not read, so that the connection cannot serve another request.
    except MultipartError as error:
        raise BadRequest(
            f"The form does not parse: {str(error)[:200]}", headers={"Connection": "close"}
        ) from error
    except PawlensError as error:
        error.headers.setdefault("Connection", "close")
        raise
    try:
        parser.close()
    except MultipartError as error:
        raise BadRequest("The form ends before its closing boundary.") from error
    return reader.fields


class _Reader:
    """Takes what the parser finds: the head of a part, pieces of its content, and None at its end."""

    def __init__(self, files: Files, limits: Limits, too_many_files: PawlensError) -> None:
        self.fields: list[tuple[str, str]] = []
        self._sink, self._limits, self._too_many_files = files, limits, too_many_files
        self._field = ""
        self._file: FileHead | None = None  # while the part is one
        self._text = bytearray()
        self._files = 0

    def take(self, found: Iterable[MultipartSegment | bytearray | bytes | None]) -> None:
        for part in found:
            if part is None:
                self._end()
            elif isinstance(part, MultipartSegment):
                self._begin(part)
            elif self._file is not None:
                self._sink.write(bytes(part))
            else:
                self._add_text(part)

    def _begin(self, part: MultipartSegment) -> None:
        if not part.name:
            raise BadRequest("A part of the form has no name in its Content-Disposition.")
        self._field = _decoded(part.name.encode("latin-1"))
        self._file = None
        if part.filename is not None:
            self._files += 1
            if self._files > self._limits.files:
                raise self._too_many_files
            name = _decoded(part.filename.encode("latin-1"))
            self._file = FileHead(self._field, name, part.content_type or "")
        elif len(self.fields) >= self._limits.fields:
            raise _too_many_fields(self._limits)

    def _add_text(self, data: bytes | bytearray) -> None:
        self._text += data
        if len(self._text) > self._limits.field_bytes:
            raise _too_long(self._field, self._limits)

    def _end(self) -> None:
        if self._file is not None:
            self._sink.end(self._file)
        else:
            self.fields.append((self._field, _decoded(bytes(self._text))))
            self._text.clear()


async def read_urlencoded(request: Request, limits: Limits) -> list[tuple[str, str]]:
    """The fields of ``application/x-www-form-urlencoded`` (https://url.spec.whatwg.org/#urlencoded-parsing).

    Raises:
        BadRequest: it has too many fields, or one that is too long.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.fields * limits.field_bytes:
            refusal = BadRequest("The form is too long. Send a picture as multipart/form-data.")
            refusal.headers["Connection"] = "close"
            raise refusal
    try:
        found = parse_qsl(
            body.decode("latin-1"),  # as above; of bytes, it would take no others than ASCII
            keep_blank_values=True,
            encoding="latin-1",
            max_num_fields=limits.fields,
        )
    except ValueError as error:
        raise _too_many_fields(limits) from error
    fields = [(_decoded(name.encode("latin-1")), _decoded(value.encode("latin-1"))) for name, value in found]
    for name, value in fields:
        if len(value) > limits.field_bytes:
            raise _too_long(name, limits)
    return fields


def _too_many_fields(limits: Limits) -> BadRequest:
    return BadRequest(f"The form has more than {limits.fields} fields.")


def _too_long(field: str, limits: Limits) -> BadRequest:
    return BadRequest(f"{field[:100]}: a text field has {limits.field_bytes:,} bytes at most.")


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
