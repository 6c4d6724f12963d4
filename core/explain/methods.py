"""The catalogue of methods: what each shows, what can be asked of it, what it costs. Imports no torch.

Cost is counted in F, one forward pass of one picture; the backward pass to the input counts as another F, so
that a gradient costs 2. What F takes in seconds depends on the machine alone, so costs can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from core.explain.options import (
    FeatureMapsOptions,
    GradCamOptions,
    IntegratedGradientsOptions,
    KernelsOptions,
    OcclusionOptions,
)
from core.explain.windows import Windows

GENERATION = 3
"""Goes up with every version of the code that answers the same question otherwise: results of another one
are not reused."""

# Gradients until Integrated Gradients converges at its default tolerance: the median of the example photos.
TYPICAL_EVALUATIONS = 33
# Gradients that bfloat16 may take at most. Where it converged at all it took 69 or fewer; with more it is
# kept from converging by its own rounding, and no number of segments helps.
FAST_EVALUATIONS = 96
# Windows that occlusion computes again in float32, to certify what it computed in bfloat16.
CERTIFIED_WINDOWS = 4
# Explanations of almost the same picture, for max-sensitivity; each costs as much as the first.
SENSITIVITY_SAMPLES = 3
# Parts in which pixels are replaced for deletion and insertion: by the map's order and by a random one.
DELETION_STEPS = 28


class Cost(NamedTuple):
    """In forward passes: what is to be expected, and what it is at most."""

    expected: int
    at_most: int


@dataclass(frozen=True)
class Method:
    """``needs_picture`` is false where the result depends on the weights alone, the same for all jobs;
    ``has_map`` where it is no attribution, one value for each pixel, whose quality could be measured.
    """

    name: str
    title: str
    summary: str
    options: type[BaseModel]
    cost: Callable[[Any, int], Cost]
    needs_picture: bool = True
    has_map: bool = True

    def quality_cost(self, options: Any, size: int) -> int:
        """Forward passes to be expected in addition when its quality is measured."""
        if not self.has_map:
            return 0
        return SENSITIVITY_SAMPLES * self.cost(options, size).expected + 4 * (DELETION_STEPS + 1)


def _grad_cam(_options: GradCamOptions, _size: int) -> Cost:
    return Cost(2, 2)


def _integrated_gradients(options: IntegratedGradientsOptions, _size: int) -> Cost:
    values = 4  # in float32, between the quarters of the path
    expected = 2 * min(options.max_evaluations, TYPICAL_EVALUATIONS) + values
    in_vain = min(options.max_evaluations, FAST_EVALUATIONS)
    return Cost(expected, 2 * (in_vain + options.max_evaluations) + values)


def _occlusion(options: OcclusionOptions, size: int) -> Cost:
    windows = Windows.over(size, options.window, options.stride)
    total = len(windows)
    # The approximation computes a quarter, then a quarter more, and what these bring to light.
    expected = total // 2 if options.approximate else total
    whole = 4  # the picture for each precision's crops, and its log-odds; the baseline
    return Cost(expected + CERTIFIED_WINDOWS + whole, 2 * total + whole)


def _feature_maps(options: FeatureMapsOptions, _size: int) -> Cost:
    forwards = 2 if options.by == "contribution" else 1
    return Cost(forwards, forwards)


def _kernels(_options: KernelsOptions, _size: int) -> Cost:
    return Cost(0, 0)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "grad_cam",
            "Grad-CAM",
            "Which regions the network's layers drew the class from, from the first stage to the last.",
            GradCamOptions,
            _grad_cam,
        ),
        Method(
            "integrated_gradients",
            "Integrated Gradients",
            "How much each pixel adds to the class's log-odds, with shares that add up to the whole.",
            IntegratedGradientsOptions,
            _integrated_gradients,
        ),
        Method(
            "occlusion",
            "Occlusion",
            "How the class's log-odds change when a part of the picture is covered.",
            OcclusionOptions,
            _occlusion,
        ),
        Method(
            "feature_maps",
            "Feature maps",
            "What the channels of each stage respond to in this picture.",
            FeatureMapsOptions,
            _feature_maps,
            has_map=False,
        ),
        Method(
            "kernels",
            "Kernels",
            "The patterns of weights that the network looks for; the same for every picture.",
            KernelsOptions,
            _kernels,
            needs_picture=False,
            has_map=False,
        ),
    )
}
