"""What a picture's header promises, read before any decoder allocates memory for it.

Pillow's own guard against decompression bombs is one global number, it only warns up to twice that number,
and libwebp allocates its canvas as soon as a file is opened. So size and effort are bounded here first.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

from core.errors import InvalidImage, UnsupportedMediaType

MediaType = Literal["image/jpeg", "image/png", "image/webp"]

# A progressive JPEG may refine the whole picture in each of its scans, and an empty scan takes few bytes: a
# small file can keep a decoder busy for hours. Encoders write about ten scans. "Two Issues with the JPEG
# Standard", https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf
MAX_JPEG_SCANS = 100

# Decoders walk through segments and chunks in Python, and a picture of 20 MB has room for millions of empty
# ones. Cameras and programs write dozens, a PNG of many small pieces some thousands.
MAX_JPEG_SEGMENTS = 2000
MAX_JPEG_FILL_BYTES = 1 << 16
MAX_PNG_CHUNKS = 100_000

# Rows are allocated one by one: 25 million of one pixel took 3 GB. A JPEG has no side longer than this.
MAX_SIDE = 65_535

# In entropy-coded data a byte 0xFF is followed by 0x00 (stuffing) or by a restart marker D0-D7; anything
# else, except the fill byte 0xFF, begins the next segment. (Without a "+" for the fill bytes before it: where
# no marker follows, a search from each of a million of them would look at all the others.)
_NEXT_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def media_type(data: bytes) -> MediaType:
    """The format by its signature; file names and declared types are not trusted.

    Raises InvalidImage for zero bytes and UnsupportedMediaType for anything but JPEG, PNG and WebP.
    """
    if not data:
        raise InvalidImage("The picture has zero bytes.")
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise UnsupportedMediaType("The data are no JPEG, PNG or WebP picture; these three formats are accepted.")


@dataclass(frozen=True, slots=True)
class Header:
    """What a header promises: the sizes of all frames in it, in pixels.

    ``in_one_pass`` is false of a JPEG whose pixels come in several scans. A decoder then keeps the
    coefficients of the whole picture, also to decode it at a fraction of its size.
    """

    sizes: list[tuple[int, int]]
    in_one_pass: bool = True


def read_header(data: bytes, kind: MediaType, max_pixels: int) -> Header:
    """Raise InvalidImage if the header is damaged, or promises too many pixels or too much work."""
    try:
        header = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp}[kind](data)
    except (struct.error, IndexError) as error:
        raise InvalidImage("The picture's header is truncated.") from error
    for width, height in header.sizes:
        if width * height > max_pixels:
            raise InvalidImage(
                f"The picture has {width} x {height} = {width * height / 1e6:.1f} million pixels; at most "
                f"{max_pixels / 1e6:g} million are accepted."
            )
        if max(width, height) > MAX_SIDE:
            raise InvalidImage(f"The picture has {width} x {height} pixels; a side has {MAX_SIDE:,} at most.")
    return header


def _jpeg(data: bytes) -> Header:
    """Width and height in each frame header up to the end of the first picture; ITU-T T.81, annex B.

    What follows the first picture (further frames of an MPO file, a phone's video) is never decoded.
    """
    sizes = []
    is_progressive = False
    segments = scans = fill = 0
    position = 2
    while marker := _NEXT_JPEG_MARKER.search(data, position):
        if not scans:  # later there are pixels in between
            fill += marker.start() - position
        code, position = marker[1][0], marker.end()
        segments += 1
        if segments > MAX_JPEG_SEGMENTS or fill > MAX_JPEG_FILL_BYTES:
            raise InvalidImage(
                f"The JPEG has more than {MAX_JPEG_SEGMENTS:,} segments, or {MAX_JPEG_FILL_BYTES:,} bytes "
                "between them."
            )
        if code == _END_OF_IMAGE:
            break
        if code in (0x01, 0xD8):  # these two have no length
            continue
        if position + 2 > len(data):
            break  # truncated here, which the decoder will notice
        if code in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 3)
            sizes.append((width, height))
            is_progressive |= code in _PROGRESSIVE
        scans += code == _START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            raise InvalidImage(f"The JPEG has more than {MAX_JPEG_SCANS} scans.")
        position += struct.unpack_from(">H", data, position)[0]
    if not scans:
        raise InvalidImage("The JPEG has no pixels: there is no scan in it.")
    return Header(sizes, in_one_pass=scans == 1 and not is_progressive)


def _png(data: bytes) -> Header:
    """IHDR must be the first chunk; https://www.w3.org/TR/png-3/#11IHDR."""
    position, chunks = 8, 0
    while position + 8 <= len(data):
        position += 12 + int.from_bytes(data[position : position + 4])  # length, name and check sum
        chunks += 1
        if chunks > MAX_PNG_CHUNKS:
            raise InvalidImage(f"The PNG has more than {MAX_PNG_CHUNKS:,} chunks.")
    return Header([struct.unpack_from(">II", data, 16)])


def _webp(data: bytes) -> Header:
    """The canvas in the first chunk; RFC 9649, sections 2.5 to 2.7."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, width_high, height, height_high = struct.unpack_from("<HBHB", data, 24)  # 24 bits each
        return Header([((width | width_high << 16) + 1, (height | height_high << 16) + 1)])
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header([((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)])
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header([(width & 0x3FFF, height & 0x3FFF)])
    raise InvalidImage("The WebP file does not begin with a picture.")
