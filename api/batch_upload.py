"""A form with thousands of files, received into one temporary file.

With a file for each part, ten thousand small pictures would all stay in memory, and as many large ones would
need as many file descriptors. Here all of them lie one behind the other in a single file without a name,
which is gone with the process whatever happens. It is where ``TMPDIR`` says.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.requests import Request

from api.forms import FileHead, Limits, read_multipart
from core.errors import InvalidRequest, StorageFull

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
        with _on_disk():
            self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def end_part(self, part: Part) -> None:
        self.parts.append(part)
        self._digest.update(f"\0{part.field}\0{part.name}\0{part.size}\0".encode())

    def seal(self) -> None:
        """All is there: what was written can be read."""
        with _on_disk():
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
        with suppress(OSError):  # what could not be written the first time
            self._file.close()


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                "There is no room for the upload. Free space where temporary files are kept."
            ) from error
        raise


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
            raise OSError(errno.EINVAL, "before its beginning")  # as of a file: zipfile looks further back
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = os.pread(self._descriptor, wanted, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


async def receive(request: Request, limits: Limits) -> Upload:
    """Read the whole multipart body.

    Raises:
        BadRequest: it is not one.
        InvalidRequest: it has more files than the limit.
        StorageFull: there is no room for it.
    """
    upload = Upload()
    gathering = _Gathering(upload)
    too_many = InvalidRequest(
        f"The form has more than {limits.files:,} files. Send the others in another batch."
    )
    try:
        upload.fields = await read_multipart(
            request, gathering, limits, too_many_files=too_many, after_chunk=gathering.flush_much
        )
        await to_thread.run_sync(gathering.flush)
        upload.seal()
    except BaseException:
        upload.close()
        raise
    return upload


class _Gathering:
    """Takes the bytes of files, and writes much of them at a time in a thread."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._gathered: list[bytes | Part] = []
        self._gathered_bytes = self._start = self._size = 0

    def write(self, data: bytes) -> None:
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        self._size += len(data)

    def end(self, head: FileHead) -> None:
        self._gathered.append(Part(head.field, head.name, head.media_type, self._start, self._size))
        self._start, self._size = self._start + self._size, 0

    async def flush_much(self) -> None:
        if self._gathered_bytes >= FLUSH_BYTES:
            await to_thread.run_sync(self.flush)

    def flush(self) -> None:
        for what in self._gathered:
            if isinstance(what, Part):
                self._upload.end_part(what)
            else:
                self._upload.append(what)
        self._gathered.clear()
        self._gathered_bytes = 0
