"""From numbers to colours. The same number always gets the same colour under the same scale.

Unsigned maps are shown in magma, from black at zero to their maximum. Signed maps are shown in ColorBrewer's
RdBu, red for and blue against, white exactly at zero, so that it can be read with the common kinds of
colour blindness (https://colorbrewer2.org). Both are matplotlib's own tables.

Nothing here is normalised by its minimum: that would give noise around zero the colours of evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from core.errors import PawlensError

Numbers = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]

OVERLAY_OPACITY = 0.45

# An odd number of colours, so that zero has one of its own.
_SIGNED: Pixels = colormaps["RdBu_r"].resampled(255)(np.arange(255), bytes=True)[:, :3]
_UNSIGNED: Pixels = colormaps["magma"](np.arange(256), bytes=True)[:, :3]


class NonFiniteMap(PawlensError):
    """An explanation with infinity or nan in it: there is no honest picture of that."""

    code, title = "non_finite_map", "No finite map"


@dataclass(frozen=True)
class Scale:
    """``limit`` is the number that gets the last colour, and minus ``limit`` the first if ``signed``.

    A limit of 0 means that there is no evidence at all: everything has the colour of zero.
    """

    limit: float
    signed: bool

    @property
    def flat(self) -> bool:
        return self.limit == 0

    def share(self, values: Numbers) -> NDArray[np.float64]:
        """Values as shares of the limit, in [-1, 1] if signed, else in [0, 1]."""
        numbers = np.asarray(values, np.float64)  # 1e-44 / 1e-44 is 1 in float64 and nan without subnormals
        if self.flat:
            return np.zeros_like(numbers)
        share = np.divide(numbers, self.limit, out=np.empty_like(numbers))
        return np.clip(share, -1 if self.signed else 0, 1, out=share)

    def colours(self, values: Numbers) -> Pixels:
        """[...] -> uint8 RGB [..., 3]."""
        place = self.share(values)  # and in the table of colours, in the same memory
        if self.signed:
            place *= 127
            place += 127
        else:
            place *= 255
        np.rint(place, out=place)
        return np.take(_SIGNED if self.signed else _UNSIGNED, place.astype(np.intp), axis=0)


def signed_scale(values: Numbers, percentile: float = 99) -> Scale:
    """Symmetric about zero, to a percentile of the absolute values: a few extreme pixels, as gradients have
    them, would otherwise leave all others white.

    Where so few values are not zero that the percentile is, the maximum takes its place.
    """
    magnitudes = np.abs(_finite(values))
    limit = float(np.percentile(magnitudes, percentile)) or float(magnitudes.max())
    return Scale(limit, signed=True)


def unsigned_scale(maps: Sequence[Numbers]) -> Scale:
    """From zero to the maximum of all ``maps`` together; negative values have the colour of zero."""
    return Scale(max([0.0, *(float(_finite(m).max(initial=0)) for m in maps)]), signed=False)


def overlay(picture: Pixels, heat: Pixels, opacity: float = OVERLAY_OPACITY) -> Pixels:
    """Heat over the picture in grey: uint8 [H, W, 3] and [H, W, 3] -> [H, W, 3].

    Grey by ITU-R BT.601, as in Pillow, so that no colour of the picture can be taken for evidence.
    """
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint((1 - opacity) * grey[..., None] + opacity * heat).astype(np.uint8)


def kernel_colours(kernels: Numbers) -> Pixels:
    """Weights of a first convolution [N, 3, h, w] -> uint8 [N, h, w, 3]: 1/2 + w / (2 max|w|).

    The maximum is taken over all kernels and channels together, so that they can be compared and keep their
    hue. Zero is mid-grey (128), and so is a layer of zeros.
    """
    weights = np.moveaxis(_finite(kernels), 1, -1)
    largest = float(np.abs(weights).max(initial=0))
    return np.rint(255 * (0.5 + Scale(largest, signed=True).share(weights) / 2)).astype(np.uint8)


def _finite(values: Numbers) -> Numbers:
    if not np.isfinite(values).all():
        raise NonFiniteMap("The explanation holds infinity or nan and cannot be drawn.")
    return values
