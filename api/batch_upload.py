"""A form with thousands of files, received into one temporary file.

Starlette's own parser opens a spooled file for each part: ten thousand small pictures would all stay in
memory, and as many large ones would need as many file descriptors. Here all of them lie one behind the other
in a single file without a name, which is gone with the process whatever happens. It is where ``TMPDIR`` says.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from core.errors import BadRequest, InvalidRequest, PawlensError, StorageFull

FLUSH_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """One file of the form, by its place in the temporary file."""

    field: str
    name: str
    media_type: str
    start: int
    size: int


class Upload:
    """The text fields and the files of a form. Any number of threads may read; close it in the end."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the request
        self._digest = hashlib.sha256()
        self.fields: list[tuple[str, str]] = []
        self.parts: list[Part] = []
        self.size = 0

    def append(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    "There is no room for the upload. Free space where temporary files are kept."
                ) from error
            raise
        self._digest.update(data)
        self.size += len(data)

    def end_part(self, part: Part) -> None:
        self.parts.append(part)
        self._digest.update(f"\0{part.field}\0{part.name}\0{part.size}\0".encode())

    def seal(self) -> None:
        """All is there: what was written can be read."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """Of all files in their order, with their names. Equal uploads have equal digests."""
        return self._digest.hexdigest()

    def read(self, part: Part) -> bytes:
        return os.pread(self._file.fileno(), part.size, part.start)

    def open(self, part: Part) -> io.RawIOBase:
        """The part as a file of its own, for one thread at a time."""
        return _Window(self._file.fileno(), part.start, part.size)

    def close(self) -> None:
        self._file.close()


class _Window(io.RawIOBase):
    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._at = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError("it is too short")
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = os.pread(self._descriptor, wanted, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


async def receive(request: Request, *, max_files: int, max_fields: int, max_field_bytes: int) -> Upload:
    """Read the whole multipart body.

    Raises:
        BadRequest: it is not one.
        InvalidRequest: it has more files than ``max_files``.
        StorageFull: there is no room for it.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    if not options.get(b"boundary"):
        raise BadRequest("The Content-Type of the form names no boundary.")
    upload = Upload()
    try:
        await _Receiver(upload, max_files, max_fields, max_field_bytes).run(request, options[b"boundary"])
        upload.seal()
    except BaseException as error:
        upload.close()
        if isinstance(error, PawlensError):  # what is left of the body is not read
            error.headers.setdefault("Connection", "close")
        raise
    return upload


class _Receiver:
    """What the parser calls. Bytes of files are gathered, and written by a thread."""

    def __init__(self, upload: Upload, max_files: int, max_fields: int, max_field_bytes: int) -> None:
        self._upload = upload
        self._limits = max_files, max_fields, max_field_bytes
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._file: tuple[str, str] | None = None  # name and media type, while the part is a file
        self._text = bytearray()
        self._size = 0
        self._gathered: list[bytes | Part] = []
        self._gathered_bytes = self._files = 0
        self._start = 0
        self._is_whole = False

    async def run(self, request: Request, boundary: bytes) -> None:
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            parser = MultipartParser(boundary, callbacks)  # it refuses long boundaries
            async for chunk in request.stream():
                parser.write(chunk)
                if self._gathered_bytes >= FLUSH_BYTES:
                    await to_thread.run_sync(self._flush)
            parser.finalize()
        except FormParserError as error:
            raise BadRequest(f"The form does not parse: {str(error)[:200]}") from error
        if not self._is_whole:
            raise BadRequest("The form ends before its closing boundary.")
        await to_thread.run_sync(self._flush)

    def _flush(self) -> None:
        for what in self._gathered:
            if isinstance(what, Part):
                self._upload.end_part(what)
            else:
                self._upload.append(what)
        self._gathered.clear()
        self._gathered_bytes = 0

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
        self._field, self._file, self._size = _text(options[b"name"]), None, 0
        self._text = bytearray()
        max_files, max_fields, _ = self._limits
        if b"filename" in options:
            media_type = _text(self._headers.get(b"content-type", b"")).partition(";")[0].strip().lower()
            self._file = _text(options[b"filename"]), media_type
            self._files += 1
            if self._files > max_files:
                raise InvalidRequest(
                    f"The form has more than {max_files:,} files. Send the others in another batch."
                )
        elif len(self._upload.fields) >= max_fields:
            raise BadRequest(f"The form has more than {max_fields} fields.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._gathered.append(data[start:end])
            self._gathered_bytes += end - start
            self._size += end - start
            return
        self._text += data[start:end]
        if len(self._text) > self._limits[2]:
            raise BadRequest(f"{self._field[:100]}: a text field has {self._limits[2]:,} bytes at most.")

    def _on_part_end(self) -> None:
        if self._file is None:
            self._upload.fields.append((self._field, _text(bytes(self._text))))
            return
        name, media_type = self._file
        self._gathered.append(Part(self._field, name, media_type, self._start, self._size))
        self._start += self._size

    def _on_end(self) -> None:
        self._is_whole = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
