"""The squares that occlusion covers, one after the other. Imports no torch; the catalogue counts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """Squares of ``side`` pixels on a picture of ``size``; their upper left corners are starts x starts.

    Window number i lies at ``corner(i)``; numbers count along the rows.
    """

    size: int
    side: int
    starts: tuple[int, ...]

    @classmethod
    def over(cls, size: int, window: int, stride: int) -> Windows:
        """Every ``stride`` pixels from the upper left; the last are moved inwards to end at the edge.

        A window larger than the picture covers it as a whole. With ``stride <= window`` no pixel is left out.
        """
        side = min(window, size)
        starts = list(range(0, size - side + 1, stride))
        if starts[-1] != size - side:
            starts.append(size - side)
        return cls(size, side, tuple(starts))

    def __len__(self) -> int:
        return len(self.starts) ** 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.starts), len(self.starts)

    def corner(self, number: int) -> tuple[int, int]:
        """Top and left of a window, in pixels."""
        row, column = divmod(number, len(self.starts))
        return self.starts[row], self.starts[column]

    def coarse(self) -> NDArray[np.intp]:
        """The numbers of every second window in every second row, with the last of each, in order."""
        count = len(self.starts)
        every_second = np.unique(np.append(np.arange(0, count, 2), count - 1))
        return np.asarray((every_second[:, None] * count + every_second).ravel(), dtype=np.intp)

    def mean_over_pixels(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """For each pixel the mean of the windows that cover it: [rows, columns] -> float32 [size, size].

        nan marks a window without value; it does not count, and a pixel under no others gets 0.
        """
        known = ~np.isnan(values)
        # Windows are squares on a grid, so summing over those that cover a pixel is separable: one matrix for
        # rows, the same for columns.
        pixels = np.arange(self.size)[:, None]
        starts = np.asarray(self.starts)
        covers = ((pixels >= starts) & (pixels < starts + self.side)).astype(np.float64)
        total, count = (
            # Not "@": OpenBLAS would share these few thousand sums among threads that then wait for more with
            # their cores busy. The windows computed meanwhile took twice as long.
            np.einsum("pi,qi->pq", np.einsum("pi,ij->pj", covers, part), covers)
            for part in (np.where(known, values, 0), known.astype(np.float64))
        )
        return np.asarray(total / np.maximum(count, 1), dtype=np.float32)
