"""Seeded damage to real files: whatever the bytes, the answer is a picture or one of two errors."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from PIL import Image

from core.errors import InvalidImage, UnsupportedMediaType
from core.vision.images import decode, inspect

from .pictures import PNG_SIGNATURE, encoded, photo, png_chunk

EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010F] = "Camera"

SMALL = photo().resize((48, 32))

FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(SMALL, "JPEG", exif=EXIF),
    "progressive jpeg": lambda: encoded(SMALL, "JPEG", exif=EXIF, progressive=True),
    "mpo": lambda: encoded(SMALL, "MPO", exif=EXIF, save_all=True, append_images=[SMALL]),
    "png": lambda: encoded(SMALL, "PNG", exif=EXIF),
    "palette png": lambda: encoded(SMALL.quantize(16), "PNG", exif=EXIF, transparency=3),
    "animated png": lambda: encoded(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(90)]),
    "webp": lambda: encoded(SMALL, "WEBP", exif=EXIF),
    "lossless webp": lambda: encoded(SMALL, "WEBP", exif=EXIF, lossless=True),
    "animated webp": lambda: encoded(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)]),
}


def damage(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        # Half of it near the beginning, where the structure is.
        place = chance.randrange(len(damaged) if chance.random() < 0.5 else 200)
        length = chance.randrange(1, 20)
        match chance.choice(["flip", "extreme", "cut", "insert"]):
            case "flip":
                damaged[place] ^= 1 << chance.randrange(8)
            case "extreme":
                damaged[place] = chance.choice([0, 0x7F, 0x80, 0xFF])
            case "cut":
                del damaged[place : place + length]
            case "insert":
                damaged[place:place] = chance.randbytes(length)
    return bytes(damaged)


def with_right_checksums(data: bytes) -> bytes:
    """So that a damaged PNG gets further than to its first checksum."""
    repaired, place = PNG_SIGNATURE, len(PNG_SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        repaired += png_chunk(kind, data[place + 8 : place + 8 + length])
        place += 12 + length
    return repaired


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # of damaged EXIF data
@pytest.mark.parametrize("kind", FILES)
def test_whatever_the_bytes_the_answer_is_a_picture_or_an_error_of_ours(kind: str) -> None:
    """And what ``inspect`` accepts at the door, ``decode`` does not refuse later, and the other way round."""
    chance = random.Random(kind)
    original = FILES[kind]()
    answers = {"accepted": 0, "refused": 0}
    for turn in range(200):
        data = damage(original, chance)
        if "png" in kind and turn % 2:
            data = with_right_checksums(data)
        try:
            info = inspect(data)
        except (InvalidImage, UnsupportedMediaType) as refusal:
            answers["refused"] += 1
            with pytest.raises(type(refusal)):
                decode(data)
        else:
            answers["accepted"] += 1
            assert decode(data).size == (info.width, info.height)
    # Both happened, so that both were tried.
    assert min(answers.values()) >= 5, answers
