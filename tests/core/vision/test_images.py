from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.vision.images import ImageInfo, decode, inspect

from .conftest import EXAMPLES
from .pictures import PNG_SIGNATURE, TURNED, encoded, photo, png_chunk


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(data))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_photos_are_decoded_as_pillow_does(path: Path) -> None:
    data = path.read_bytes()
    expected = np.asarray(photo(path))
    assert inspect(data) == ImageInfo(expected.shape[1], expected.shape[0], "image/jpeg")
    np.testing.assert_array_equal(pixels(data), expected)


def test_png_and_webp() -> None:
    image = photo()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(image, kind, **options)
        assert inspect(data) == ImageInfo(*image.size, f"image/{kind.lower()}")  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels(data), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    # A picture with a different colour in each corner, 24 x 16 when upright.
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # EXIF says where the stored rows and columns begin; these undo it, from the table of EXIF 2.32, 4.6.4.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(stored), kind, exif=exif, **options)
    info = inspect(data)
    assert (info.width, info.height) == (24, 16)
    np.testing.assert_allclose(pixels(data).astype(int), upright, atol=8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("name", sorted(TURNED))
def test_orientation_that_no_browser_applies_is_not_applied_here(name: str) -> None:
    data, turns = TURNED[name]
    size = (16, 24) if turns else (24, 16)
    info = inspect(data)
    assert (info.width, info.height) == decode(data).size == size


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_exif_is_no_reason_to_refuse_whole_pixels() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert inspect(data).width == photo().width
    assert decode(data).size == photo().size


def test_cmyk_jpeg() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red = pixels(data).astype(int)
    assert abs(red - [255, 0, 0]).max() <= 3
    np.testing.assert_array_equal(red, pixels(data))


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = pixels(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(found, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_colour_and_16_bit_grey_agree() -> None:
    values = np.array([[0, 255, 256, 511, 32768, 65279, 65280, 65535]], ">u2")
    rows = b"\0" + np.repeat(values[..., None], 3, axis=2).tobytes()
    header = struct.pack(">IIBBBBB", 8, 1, 16, 2, 0, 0, 0)
    colour = PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows))
    grey = encoded(Image.fromarray(values.astype(np.uint16)), "PNG")
    np.testing.assert_array_equal(pixels(colour + png_chunk(b"IEND", b"")), pixels(grey))


def test_transparency_is_laid_over_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 2, 4))
    rgba.putpixel((3, 0), (0, 0, 0, 128))
    expected = np.full((4, 4, 3), 255, np.uint8)
    expected[:, :2] = (0, 0, 255)
    expected[0, 3] = 127
    for data in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(pixels(data), expected)

    grey = Image.new("LA", (4, 4), (0, 0))
    np.testing.assert_array_equal(pixels(encoded(grey, "PNG")), np.full((4, 4, 3), 255, np.uint8))

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    found = pixels(encoded(palette, "PNG", transparency=0))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [40, 50, 60]

    deep = Image.fromarray(np.array([[0, 40000]], np.uint16))
    assert pixels(encoded(deep, "PNG", transparency=0))[0, :, 0].tolist() == [255, 40000 >> 8]


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "key", "shown"),
    [
        (2, 0, b"\x1b", (1,), [0, 255, 170, 255]),  # the samples 0, 1, 2, 3
        (4, 0, b"\x5a\xa5", (5,), [255, 170, 170, 255]),
        (4, 0, b"\x5a\xa5", (0x105,), [255, 170, 170, 255]),  # the upper bits are to be ignored
        (8, 0, b"\x05\x09", (5,), [255, 9]),
        (16, 2, struct.pack(">6H", 0x1234, 0x1234, 0x1234, 1, 2, 3), (0x1234,) * 3, [255, 0]),
    ],
)
def test_one_transparent_colour_is_laid_over_white(
    depth: int, colour_type: int, row: bytes, key: tuple[int, ...], shown: list[int]
) -> None:
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", len(shown), 1, depth, colour_type, 0, 0, 0),
        b"tRNS": struct.pack(f">{len(key)}H", *key),
        b"IDAT": zlib.compress(b"\0" + row),
        b"IEND": b"",
    }
    data = PNG_SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks.items())
    assert pixels(data)[0, :, 0].tolist() == shown


def test_palette_one_bit_and_grey_become_rgb() -> None:
    for mode in ("1", "L", "P"):
        assert decode(encoded(Image.new(mode, (5, 3), 1), "PNG")).mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.is_animated  # type: ignore[attr-defined]
    assert inspect(data).media_type == f"image/{kind.lower()}"
    assert pixels(data)[8, 8].tolist() == [255, 0, 0]


def test_of_a_phones_jpeg_with_several_pictures_the_first() -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (32, 32), "blue")
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert inspect(data) == ImageInfo(16, 16, "image/jpeg")
    assert pixels(data)[8, 8].tolist() == [254, 0, 0]


def test_a_video_appended_to_a_jpeg_is_not_read() -> None:
    noise = random.Random(0).randbytes(2_000_000)
    assert noise.count(b"\xff\xda") > 10
    data = EXAMPLES[0].read_bytes()
    np.testing.assert_array_equal(pixels(data + noise * 5), pixels(data))


def test_progressive_jpeg_is_accepted() -> None:
    data = encoded(photo(), "JPEG", progressive=True)
    assert inspect(data).width == decode(data).width == photo().width
