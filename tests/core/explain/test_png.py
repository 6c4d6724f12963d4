"""What is written is read by others: Pillow, and a decoder of the format's own definition."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.explain.png import encode


def picture(mode: str, width: int, height: int) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    noise = np.random.default_rng(3).integers(0, 256, (height, width, *channels), np.uint8)
    noise[height // 2 :] = 250  # and plain paper
    return Image.fromarray(noise)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 20), (1200, 700)])
def test_pillow_reads_the_same_pixels(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, *size)
    found = Image.open(io.BytesIO(encode(image)))
    assert (found.format, found.mode, found.size, found.info) == ("PNG", mode, size, {})
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_the_format_as_it_is_defined() -> None:
    image = picture("RGB", 5, 6)
    data = encode(image)
    assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 5, 6, 8, 2, 0, 0, 0)
    lines = zlib.decompress(chunks[b"IDAT"])
    above, rows = bytes(15), []
    for start in range(0, len(lines), 16):
        assert lines[start] == 2
        above = bytes((a + b) % 256 for a, b in zip(above, lines[start + 1 : start + 16], strict=True))
        rows.append(above)
    assert b"".join(rows) == image.tobytes()


def test_equal_images_are_equal_bytes_and_others_are_refused() -> None:
    assert encode(picture("RGB", 40, 30)) == encode(picture("RGB", 40, 30))
    with pytest.raises(KeyError):
        encode(picture("RGB", 4, 4).convert("CMYK"))
