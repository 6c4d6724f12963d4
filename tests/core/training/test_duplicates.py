from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.sparse.csgraph import connected_components

from core.training.duplicates import difference_hash, groups
from tests.core.vision.conftest import EXAMPLES


def photo(number: int) -> Image.Image:
    with Image.open(EXAMPLES[number]) as image:
        return image.convert("RGB")


def distance(one: Image.Image, other: Image.Image) -> int:
    return int(np.bitwise_count(difference_hash(one) ^ difference_hash(other)).sum())


def recompressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "WebP", quality=40)
    return Image.open(stream).convert("RGB")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_copies_are_near_and_other_photos_far(number: int) -> None:
    original = photo(number)
    assert difference_hash(original).shape == (2,)
    copies = [
        original.resize((original.width // 2, original.height // 2)),
        original.resize((180, 180)),
        recompressed(original),
        ImageEnhance.Brightness(original).enhance(0.9),
    ]
    assert max(distance(original, copy) for copy in copies) <= 6
    others = [photo(other) for other in range(len(EXAMPLES)) if other != number]
    assert min(distance(original, other) for other in others) > 20


def test_bits_by_hand() -> None:
    ramp = Image.fromarray(
        np.tile(np.arange(0, 252, 3).astype(np.uint8), (84, 1))
    )  # brighter to the right only
    wide, high = difference_hash(ramp)
    assert int(wide).bit_count() == 64
    assert int(high).bit_count() == 0


@pytest.mark.parametrize("bits", [0, 3, 8])
def test_groups_are_the_connected_components(bits: int) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (700, 2), np.uint64)  # more than are compared at once
    for _ in range(400):  # near copies, and near copies of these
        one, other = random.integers(0, 700, 2)
        hashes[one] = hashes[other]
        hashes[one, random.integers(2)] ^= np.uint64(1) << np.uint64(random.integers(64))
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(2) <= bits
    _, expected = connected_components(near)
    found = groups(hashes, bits)
    for group in np.unique(found):
        members = np.flatnonzero(found == group)
        assert members[0] == group
        np.testing.assert_array_equal(members, np.flatnonzero(expected == expected[group]))


def test_not_looked_for() -> None:
    assert groups(np.zeros((3, 2), np.uint64), -1).tolist() == [0, 1, 2]
