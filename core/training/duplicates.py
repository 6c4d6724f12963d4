"""Which pictures are the same one, at other sizes, compressed otherwise, or slightly retouched.

A picture in the training part whose twin is in the validation part would be counted as understood when it is
only remembered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.training.sources import Indices

Hashes = NDArray[np.uint64]
_CHUNK = 512  # rows of the table of distances at once: 512 x 100,000 pictures are 400 MB


def difference_hash(picture: Image.Image) -> NDArray[np.uint64]:
    """128 bits, uint64 [2]: whether the grey picture of 9 x 8 gets brighter from each pixel to the right, and
    that of 8 x 9 to the one below.

    The "dHash" of Neal Krawetz (2013), https://www.hackerfactor.com/blog/?/archives/529-Kind-of-Like-That.html.
    Both directions: with one alone, skies and studio backgrounds have much in common.
    """
    grey = picture.convert("L")
    wide = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    high = np.asarray(grey.resize((8, 9), Image.Resampling.BOX), np.int16)
    bits = np.concatenate([(np.diff(wide, axis=1) > 0).ravel(), (np.diff(high, axis=0) > 0).ravel()])
    return np.packbits(bits).view(np.uint64)


def groups(hashes: Hashes, bits: int) -> Indices:
    """A number for each of [N, 2] hashes; equal for those that a chain of steps of at most ``bits`` joins.

    The number is the index of the group's first member. All pairs are compared: some seconds for 20,000
    pictures, and a hundred times that for ten times as many.
    """
    first = np.arange(len(hashes), dtype=np.int64)
    if bits < 0:
        return first
    for start in range(0, len(hashes), _CHUNK):
        rows, rest = hashes[start : start + _CHUNK], hashes[start:]
        distances = np.zeros((len(rows), len(rest)), np.uint8)
        for half in range(2):
            distances += np.bitwise_count(rows[:, None, half] ^ rest[None, :, half])
        for row, column in np.argwhere(distances <= bits):
            if column > row:
                _join(first, start + int(row), start + int(column))
    return np.array([_root(first, index) for index in range(len(first))], np.int64)


def _root(first: Indices, index: int) -> int:
    while first[index] != index:
        first[index] = first[first[index]]  # halve the way for those who come later
        index = int(first[index])
    return index


def _join(first: Indices, one: int, other: int) -> None:
    low, high = sorted((_root(first, one), _root(first, other)))
    first[high] = low
