"""What a method hands over: numbers first. Pictures are made from them by :mod:`core.explain.rendering`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.explain.options import ExplainOptions

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """The class that is explained, and how the network judges it on this picture.

    margin: its log-odds, z_c - logsumexp of the others, in float32. Explanations explain this number.
    probability: its calibrated probability, reported beside it.
    """

    label: str
    index: int
    margin: float
    probability: float


@dataclass(frozen=True)
class Layer:
    """One depth of a method that looks at several: a signed map, or channels of it.

    values: float32 [H, W] or [channels, H, W] at the layer's own resolution; kernels that read colours are
        [channels, 3, H, W].
    channels: which channels of the layer they are, and ``dead`` those among them that never respond.
    """

    name: str
    values: Floats
    channels: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The result of one method on one picture.

    attribution: signed float32 [size, size] in crop pixels (None where a method attributes nothing to
        pixels: kernels). Positive speaks for the target, negative against it.
    layers: for Grad-CAM, feature maps and kernels; for occlusion its windows, [rows, columns].
    quality: at least ``completeness_error`` and ``converged`` for Integrated Gradients; JSON-able.
    provenance: baseline, precision, evaluations, windows, ... whatever is needed to make it again; JSON-able.
    """

    method: str
    target: Target
    attribution: Floats | None
    layers: tuple[Layer, ...] = ()
    quality: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


class Explainer(Protocol):
    """What a worker asks for explanations."""

    def explain(
        self, method: str, picture: NDArray[np.uint8], options: ExplainOptions, progress: Progress
    ) -> Explanation:
        """Explain a prepared picture, uint8 [size, size, 3], by one of core.explain.methods."""
        ...


Progress = Callable[[int, int, Floats | None], None]
"""Called between chunks with steps done, steps in all, and the map so far where there is one.

It may raise (the job was canceled, its lease lost): a method lets that pass, with hooks and memory freed.
"""


def no_progress(done: int, total: int, partial: Floats | None) -> None:
    """For callers who do not watch."""
