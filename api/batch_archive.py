"""The pictures in a zip archive that a stranger has sent.

Nothing is extracted: names in the archive are labels and never paths. How much it holds is taken from what it
declares, because reading stops there whatever the data would expand to; and what it declares has limits.
"""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator

from api.batch_given import Given, shown_name
from core.errors import InvalidImage, InvalidRequest, PawlensError, PayloadTooLarge, UnsupportedMediaType
from core.settings import Settings

MAX_RATIO = 200
"""Pictures are compressed already. What expands like this is no picture that anyone took."""

DIRECTORY_BYTES = 512
"""Of the archive's directory for each item that a batch may have: it is read whole before anything else."""

_DAMAGED = (
    zipfile.BadZipFile,
    EOFError,  # truncated
    NotImplementedError,  # written by a newer version, encrypted by another method
    OSError,
    RuntimeError,
    ValueError,
    UnicodeError,
    KeyError,
    IndexError,
)


def from_archive(file: io.RawIOBase, settings: Settings) -> list[Given]:
    """The archive's members that may be pictures, in its order. They are read when they are asked for.

    Raises:
        InvalidRequest: it is damaged as a whole, or has more pictures than a batch may.
        PayloadTooLarge: all of it together would expand to more than ``max_batch_bytes``.
    """
    limit = max(settings.max_batch_items * DIRECTORY_BYTES, 1 << 20)
    try:
        archive = zipfile.ZipFile(_Checked(file, limit))
    except _DAMAGED as error:
        raise InvalidRequest(f"archive: this is not a zip archive, or it is damaged: {error}") from error
    found: list[Given] = []
    total = 0
    for member in archive.infolist():
        if _is_junk(member):
            continue
        if len(found) == settings.max_batch_items:
            raise InvalidRequest(
                f"archive: it has more than {settings.max_batch_items:,} files. "
                "Split it into several batches."
            )
        total += member.file_size
        if total > settings.max_batch_bytes:
            raise PayloadTooLarge(
                f"archive: it expands to more than {settings.max_batch_bytes:,} bytes. "
                "Split it into several batches."
            )
        found.append(_given(archive, member, len(found), settings))
    return found


class _Checked(io.BufferedReader):
    """Refuses the one read that is as large as an archive likes: that of its directory."""

    def __init__(self, file: io.RawIOBase, limit: int) -> None:
        super().__init__(file)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._limit:
            raise ValueError(f"its directory is larger than {self._limit:,} bytes")
        return super().read(size)


def _is_junk(member: zipfile.ZipInfo) -> bool:
    """What operating systems add on their own: folders, previews, hidden files."""
    *folders, name = member.filename.replace("\\", "/").split("/")
    return (
        member.is_dir()
        or not name
        or name.startswith(".")
        or name.lower() in ("thumbs.db", "desktop.ini")
        or any(folder == "__MACOSX" or (folder.startswith(".") and folder.strip(".")) for folder in folders)
    )


def _given(archive: zipfile.ZipFile, member: zipfile.ZipInfo, index: int, settings: Settings) -> Given:
    name = shown_name(member.filename.replace("\\", "/").lstrip("/")[-255:])
    refusal = _refusal(member, settings)
    if refusal is not None:
        return Given(index, name=name, error=refusal)

    def read() -> bytes:
        try:
            # The check sum is compared when the last byte is read, and no more bytes than declared ever are.
            return b"".join(_read(archive, member))
        except Exception as error:  # damaged members fail in as many ways as damaged pictures
            raise InvalidImage(f"The file in the archive is damaged: {str(error)[:200]}") from error

    return Given(index, name=name, read=read, size=member.file_size)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as file:
        while data := file.read(1 << 16):
            yield data


def _refusal(member: zipfile.ZipInfo, settings: Settings) -> PawlensError | None:
    if member.flag_bits & 0x1:
        return InvalidImage("The file in the archive is encrypted. Send the archive without a password.")
    if stat.S_ISLNK(member.external_attr >> 16):
        return UnsupportedMediaType("The file in the archive is a link and no picture.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return InvalidImage(
            "The file is compressed by a method that is not read. Use deflate, as zip tools do by default."
        )
    if member.file_size > settings.max_image_bytes:
        return PayloadTooLarge(f"The picture is larger than {settings.max_image_bytes:,} bytes.")
    if member.file_size > MAX_RATIO * max(member.compress_size, 1 << 10):
        return InvalidImage(f"The file expands to more than {MAX_RATIO} times its size, as no picture does.")
    return None
