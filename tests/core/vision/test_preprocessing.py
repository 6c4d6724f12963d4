"""The crop, against torchvision's transforms, and its place in the original."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from core.vision.images import decode
from core.vision.manifest import InputFormat
from core.vision.preprocessing import Placement, Preprocessing

from .conftest import EXAMPLES


def preprocessing(size: int = 160, resize_scale: float = 1.0) -> Preprocessing:
    return Preprocessing(
        InputFormat(size=size, resize_scale=resize_scale, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    )


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("size", "scale"), [(160, 1.0), (224, 1.14), (64, 1.5)])
@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 333), (333, 500), (160, 160), (1, 1), (2, 3), (37, 91), (1000, 40), (300, 301)],
)
def test_the_crop_equals_torchvisions_resize_and_center_crop(
    width: int, height: int, size: int, scale: float
) -> None:
    oracle = Compose([Resize(round(size * scale), InterpolationMode.BILINEAR), CenterCrop(size)])
    image = noise(width, height)
    found = preprocessing(size, scale).crop(image)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - np.asarray(oracle(image)).astype(int))
    # On noise. Pillow resizes rows or columns first, whichever is cheaper, and rounds in between; the order
    # may differ for the crop alone. A shift by one pixel would be a mean difference of 50.
    assert difference.max() <= 2
    assert difference.mean() < 0.3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_reading_a_photo_equals_decoding_and_cropping(path: Path) -> None:
    data = path.read_bytes()
    wanted = preprocessing().crop(decode(data))
    np.testing.assert_array_equal(preprocessing().read(data), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_read_at_reduced_size_and_lose_almost_nothing(orientation: int) -> None:
    with Image.open(EXAMPLES[0]) as photo:
        large = photo.resize((1501, 997), Image.Resampling.LANCZOS)  # a quarter has 375.25 x 249.25 pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    large.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    crop = preprocessing(96)
    found, wanted = crop.read(file.getvalue()).astype(int), crop.crop(decode(file.getvalue())).astype(int)
    difference = np.abs(found - wanted)
    assert 0 < difference.mean() < 0.6  # not 0: it was the other path
    assert difference.max() <= 12


@pytest.mark.parametrize(("width", "height"), [(65_000, 1), (1, 65_000), (16_000, 3)])
def test_extreme_shapes_need_no_extreme_memory(width: int, height: int) -> None:
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[height // 2, width // 2] = ramp[max(height // 2 - 1, 0), max(width // 2 - 1, 0)] = 255
    found = preprocessing().crop(Image.fromarray(ramp))
    assert found.shape == (160, 160, 3)
    assert found.max() > 0  # the centre was in the crop


def test_the_placement_by_hand() -> None:
    # 400 x 200 is resized to 64 x 32 and cut to 32 x 32, 16 columns from the left: 100 of the original's.
    place = preprocessing(32).placement(400, 200)
    assert place == Placement(400, 200, 32, 6.25, 6.25, 100.0, 0.0)
    assert place.to_original(0.5, 0.5) == (103.125, 3.125)
    assert place.to_original(32, 32) == (300.0, 200.0)
    assert json.loads(json.dumps(asdict(place))) == asdict(place)


@pytest.mark.parametrize(("width", "height"), [(500, 333), (333, 500), (640, 640), (901, 210)])
def test_a_mark_in_the_original_is_found_where_the_placement_says(width: int, height: int) -> None:
    crop = preprocessing(160, 1.14)
    place = crop.placement(width, height)
    column, row = 100, 40
    x, y = place.to_original(column + 0.5, row + 0.5)
    pixels = np.zeros((height, width, 3), np.uint8)
    left, top = round(x - 3.5), round(y - 3.5)
    pixels[top : top + 7, left : left + 7] = 255
    found = crop.crop(Image.fromarray(pixels))[..., 0].astype(float)
    rows, columns = np.mgrid[:160, :160] + 0.5
    centre = (found * columns).sum() / found.sum(), (found * rows).sum() / found.sum()
    expected = (left + 3.5 - place.offset_x) / place.scale_x, (top + 3.5 - place.offset_y) / place.scale_y
    assert centre == pytest.approx(expected, abs=0.05)
