"""The rows of the security table that concern pictures: what is refused, as what, and how early."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from PIL import Image, ImageFile

from core.errors import InvalidImage, UnsupportedMediaType
from core.vision.images import decode, inspect

from .conftest import EXAMPLES
from .pictures import PNG_SIGNATURE, encoded, photo, png_chunk


def png_with(chunk: bytes, *, before_pixels: bool = True) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "PNG")
    place = data.index(b"IDAT") - 4 if before_pixels else data.index(b"IEND") - 4
    return data[:place] + chunk + data[place:]


@pytest.mark.parametrize(
    "data",
    [
        b"just text, in a file called cat.png",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\x01" + bytes(40),
        b"GIF89a" + bytes(40),
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"%PDF-1.7",
        b"BM" + bytes(60),
        b"\xff\xd8",
    ],
)
def test_other_formats_are_unsupported(data: bytes) -> None:
    for function in (inspect, decode):
        with pytest.raises(UnsupportedMediaType, match="JPEG, PNG or WebP"):
            function(data)


def test_real_files_of_other_formats_are_unsupported() -> None:
    for kind in ("GIF", "BMP", "TIFF", "PPM", "EPS", "ICO"):
        with pytest.raises(UnsupportedMediaType):
            inspect(encoded(Image.new("RGB", (16, 16)), kind))


def test_zero_bytes() -> None:
    with pytest.raises(InvalidImage, match="zero bytes"):
        inspect(b"")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_short_of_any_number_of_bytes_is_refused(progressive: bool) -> None:
    """``inspect`` decodes at an eighth of the size, and yet misses none of the data."""
    data = encoded(photo(), "JPEG", progressive=progressive)
    for missing in [*range(1, 30), *range(30, len(data) - 3, 499)]:
        for function in (inspect, decode):
            with pytest.raises(InvalidImage):
                function(data[:-missing])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_png_or_webp_short_of_pixels_is_refused(kind: str) -> None:
    data = encoded(photo(), kind)
    # A PNG ends with twelve bytes of IEND and eight of checksums; without those its pixels are all there.
    for missing in range(30, len(data) - 16, len(data) // 20):
        for function in (inspect, decode):
            with pytest.raises(InvalidImage):
                function(data[:-missing])


def test_too_many_pixels_in_each_format() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(Image.new("L", (100, 60)), kind)
        assert inspect(data, max_pixels=6000).width == 100
        for function in (inspect, decode):
            with pytest.raises(InvalidImage, match="100 x 60"):
                function(data, max_pixels=5999)


@pytest.mark.parametrize("kind", ["WEBP-lossless", "WEBP-alpha"])
def test_the_other_two_kinds_of_webp_are_measured_too(kind: str) -> None:
    mode = "RGBA" if kind == "WEBP-alpha" else "RGB"
    image = Image.new(mode, (300, 70), (1, 2, 3, 4)[: len(mode)])
    data = encoded(image, "WEBP", lossless=kind == "WEBP-lossless")
    assert data[12:16] == (b"VP8X" if kind == "WEBP-alpha" else b"VP8L")
    with pytest.raises(InvalidImage, match="300 x 70"):
        inspect(data, max_pixels=20_999)
    assert inspect(data, max_pixels=21_000).width == 300


def test_a_large_one_bit_png_is_refused_before_its_pixels_are_made() -> None:
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(1 + 30_000 // 8)) for _ in range(30_000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    bomb = PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert len(bomb) < 200_000
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InvalidImage, match="900"):
            inspect(bomb)
    assert caught == []  # Pillow's own guard, a global number, was not asked


def test_headers_that_promise_too_much_are_refused_without_allocating() -> None:
    png = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    webp = bytearray(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 1)), "WEBP"))
    webp[24:30] = b"\xff\xff\xff\xff\xff\xff"
    jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    for data in (png, webp, jpeg):
        with pytest.raises(InvalidImage, match="million pixels"):
            inspect(bytes(data))


@pytest.mark.parametrize("before_pixels", [True, False])
def test_a_png_with_100_mb_of_text(before_pixels: bool) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 1)
    data = png_with(png_chunk(b"zTXt", text), before_pixels=before_pixels)
    assert len(data) < 1_000_000
    with pytest.raises(InvalidImage, match="too large"):
        inspect(data)
    plain = png_with(png_chunk(b"tEXt", b"Comment\0" + bytes(100_000_000)), before_pixels=before_pixels)
    with pytest.raises(InvalidImage):
        inspect(plain)


def test_a_progressive_jpeg_with_endless_scans_is_refused() -> None:
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 200 + b"\xff\xd9"
    with pytest.raises(InvalidImage, match="100 scans"):
        inspect(bomb)


def test_a_million_fill_bytes_behind_the_pixels_are_read_once() -> None:
    """They are allowed before a marker (ITU-T T.81, B.1.1.2), and here none follows. Tried anew from each of
    them, they would take hours."""
    plain = encoded(photo(), "JPEG")
    fill = b"\xff" * 1_000_000
    assert inspect(plain[:-2] + fill + b"\0" + plain[-2:]) == inspect(plain)


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_a_side_that_is_too_long_is_refused(size: tuple[int, int]) -> None:
    """Its pixels are few, but each row is an allocation of its own: 25 million of them took 3 GB."""
    with pytest.raises(InvalidImage, match="65,535 at most"):
        inspect(encoded(Image.new("L", size), "PNG"))
    longest = (min(size[0], 65_535), min(size[1], 65_535))
    assert inspect(encoded(Image.new("L", longest), "PNG")).height == longest[1]


SMALL_JPEG = encoded(Image.new("L", (8, 8)), "JPEG")


MILLIONS: dict[str, Callable[[], bytes]] = {
    "fill": lambda: b"\xff\xd8" + b"\xff" * 19_000_000,
    "stuffing": lambda: b"\xff\xd8" + b"\xff\x00" * 9_000_000,
    "fill before a picture": lambda: b"\xff\xd8" + b"\xff" * 19_000_000 + SMALL_JPEG[2:],
    "zeros before a picture": lambda: b"\xff\xd8\xff\x01" + bytes(19_000_000) + SMALL_JPEG[2:],
    "segments": lambda: b"\xff\xd8" + b"\xff\xe2\0\2" * 4_500_000 + SMALL_JPEG[2:],
    "comments": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 4_500_000,
    "chunks": lambda: png_with(png_chunk(b"abCd", b"") * 1_600_000),
    "texts": lambda: png_with(png_chunk(b"tEXt", b"a\0b") * 1_200_000),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", MILLIONS)
def test_millions_of_empty_pieces_are_refused_before_they_are_walked_through(kind: str) -> None:
    """Each kept a core busy for ten seconds to hours, in the API and with Python's lock in its hand."""
    data = MILLIONS[kind]()
    for function in (inspect, decode):
        with pytest.raises(InvalidImage, match=r"more than|no pixels"):
            function(data)


def test_many_pieces_are_no_fault() -> None:
    """As of a PNG that was streamed in small chunks, and a JPEG with a long profile and some padding."""
    pieces = b"\xff\xe2" + struct.pack(">H", 16) + bytes(14)
    assert inspect(SMALL_JPEG[:2] + pieces * 1500 + b"\xff" * 1000 + SMALL_JPEG[2:]).width == 8
    assert inspect(png_with(png_chunk(b"abCd", b"") * 10_000)).width == 8


def test_threads_may_decode_at_once_with_different_limits() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    data = EXAMPLES[0].read_bytes()

    def try_with(limit: int) -> str:
        try:
            return str(asdict(inspect(data, max_pixels=limit)))
        except InvalidImage:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(try_with, [1000, 10_000_000] * 50))
    assert set(answers[::2]) == {"refused"}
    assert set(answers[1::2]) == {str({"width": 500, "height": 333, "media_type": "image/jpeg"})}
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
