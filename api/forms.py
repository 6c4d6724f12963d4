"""``multipart/form-data`` (RFC 7578), parsed as it arrives: text is kept, files go where the caller wants.

Starlette's own parser opens a spooled file for each part, and moves it to a disk from a megabyte on; here one
picture stays in memory, where it is wanted anyway, and thousands go into one file (:mod:`api.batch_upload`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
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
    try:
        _, options = parse_options_header(request.headers.get("content-type"))
        if not options.get(b"boundary"):
            raise BadRequest("The Content-Type of the form names no boundary.")
        parser = MultipartParser(options[b"boundary"], reader.callbacks)  # it refuses long boundaries
        async for chunk in request.stream():
            parser.write(chunk)
            if after_chunk is not None:
                await after_chunk()
        parser.finalize()
    # What is left of the body is not read, so that the connection cannot serve another request.
    except FormParserError as error:
        raise BadRequest(
            f"The form does not parse: {str(error)[:200]}", headers={"Connection": "close"}
        ) from error
    except PawlensError as error:
        error.headers.setdefault("Connection", "close")
        raise
    if not reader.is_whole:
        raise BadRequest("The form ends before its closing boundary.")
    return reader.fields


class _Reader:
    """What the parser calls."""

    def __init__(self, files: Files, limits: Limits, too_many_files: PawlensError) -> None:
        self.fields: list[tuple[str, str]] = []
        self.is_whole = False
        self._sink, self._limits, self._too_many_files = files, limits, too_many_files
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._file: FileHead | None = None  # while the part is one
        self._text = bytearray()
        self._files = 0

    @property
    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise BadRequest("A part of the form has no name in its Content-Disposition.")
        self._field = _decoded(options[b"name"])
        self._file = None
        if b"filename" in options:
            media_type = _decoded(self._headers.get(b"content-type", b"")).partition(";")[0].strip().lower()
            self._files += 1
            if self._files > self._limits.files:
                raise self._too_many_files
            self._file = FileHead(self._field, _decoded(options[b"filename"]), media_type)
        elif len(self.fields) >= self._limits.fields:
            raise BadRequest(f"The form has more than {self._limits.fields} fields.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._sink.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > self._limits.field_bytes:
            raise BadRequest(
                f"{self._field[:100]}: a text field has {self._limits.field_bytes:,} bytes at most."
            )

    def _on_part_end(self) -> None:
        if self._file is not None:
            self._sink.end(self._file)
        else:
            self.fields.append((self._field, _decoded(bytes(self._text))))
            self._text.clear()

    def _on_end(self) -> None:
        self.is_whole = True


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
