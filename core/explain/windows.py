"""The squares that occlusion covers, one after the other. Imports nothing; the catalogue counts them."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def every_second(self) -> list[int]:
        """Of the rows, or the columns: every second, and the last."""
        return [*range(0, len(self.starts) - 1, 2), len(self.starts) - 1]

    def coarse(self) -> list[int]:
        """The numbers of the windows in every second row and column, in order."""
        return [row * len(self.starts) + column for row in self.every_second for column in self.every_second]
