"""Integrated Gradients: what each pixel adds to the log-odds on the way from a baseline to the picture.

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017),
https://arxiv.org/abs/1703.01365: A = (x - x0) * integral over t in [0, 1] of grad m(x0 + t (x - x0)), summed
over colours. The attributions add up to m(x) - m(x0): completeness, the one error that can be measured.

Along a straight line a network of ReLUs is piecewise linear: its gradient is constant between kinks and jumps
at each. Rules for smooth functions (Gauss-Legendre) have no advantage there, and where the kinks lie depends
on the picture. So the path is cut where it is needed: the trapezoidal rule, and in each round the segments
with the largest residual |change of m - h (g_a + g_b) / 2| are halved. Each gradient comes with a value, both
ends of a new segment are known but for one, so a cut costs one gradient and none is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.explain.explainer import Explainer
from core.explain.explanation import Explanation, Floats, Progress, Target, no_progress
from core.explain.methods import FAST_EVALUATIONS
from core.explain.options import IntegratedGradientsOptions
from core.explain.quality import sparsity
from core.explain.target import log_odds
from core.vision.engine import NonFiniteLogits
from core.vision.resnet import ResNet

# The path begins as four segments, between them float32 values that the certificate is measured with.
_STRETCHES = 4
# The certificate adds up errors without their signs, and so is larger than the error itself. On the example
# photos, maps that were within 3 % by it differed from those of 128 equal segments by 6 % at most (sum of
# absolute differences); with two stretches in place of four, completeness was reached by chance and by 19 %.
_CERTIFIED_PER_TOLERANCE = 3
# Log-odds. Where the picture and its baseline get nearly the same answer, a share of their difference is
# smaller than the rounding of float32.
FLOOR = 1e-3
# Segments halved in one round. With eight the choice is less informed: a third more gradients in all.
_CUTS = 4


def explain(
    explainer: Explainer,
    picture: NDArray[np.uint8],
    target: Target,
    options: IntegratedGradientsOptions,
    progress: Progress = no_progress,
) -> Explanation:
    """``picture``: uint8 [S, S, 3]. The attribution is float32 [S, S], in log-odds per pixel.

    quality:
      completeness_error: |sum of A - dm| / |dm|, dm = m(x) - m(x0) in float32 whatever made the map; None if
        dm is 0.
      certified_error: the same for each quarter of the path, absolute values added up, so that errors of
        opposite sign cannot hide each other.
      converged: the first is within ``tolerance`` and the second within three times that (or within 0.001
        and 0.003 in log-odds), with ``max_evaluations`` gradients at most.
      evaluations: gradients spent; sparsity: Gini index.

    bfloat16 is used if the explainer has it for gradients, and if what it gives does not converge all is
    computed again in float32. Raises DeviceOutOfMemory, NonFiniteLogits, and whatever ``progress`` raises.
    """
    x = explainer.tensor(picture)
    x0 = explainer.baseline(options.baseline, x)
    times = torch.arange(_STRETCHES, device=x.device) / _STRETCHES
    logits = explainer.logits(explainer.exact, _points(x, x0, times))
    stretches = [*log_odds(logits, target.index).tolist(), target.margin]

    network: ResNet = explainer.exact
    why = "float32 as the engine decided"
    if explainer.fast is not explainer.exact:
        why = "float32: on this device a few gradients in bfloat16 are no faster"
    spent = 0
    if explainer.fast_gradients is not explainer.exact:
        path = _Path(explainer, explainer.fast_gradients, x, x0, target.index, stretches, options.tolerance)
        try:
            path.refine(min(options.max_evaluations, FAST_EVALUATIONS), progress)
        except NonFiniteLogits:
            why = "bfloat16 gave values that are not finite"
        else:
            network, why = path.network, "bfloat16; completeness within tolerance of float32 values"
        spent = path.evaluations
        if network is not explainer.exact and not path.converged:
            network, why = explainer.exact, "bfloat16 did not converge"
    if network is explainer.exact:
        path = _Path(explainer, network, x, x0, target.index, stretches, options.tolerance)
        path.refine(options.max_evaluations, progress)
        spent += path.evaluations

    attribution = path.map()
    return Explanation(
        method="integrated_gradients",
        target=target,
        attribution=attribution,
        quality={
            "completeness_error": path.completeness_error,
            "certified_error": path.certified_error,
            "converged": path.converged,
            "evaluations": path.evaluations,
            "sparsity": sparsity(attribution),
        },
        provenance={
            **explainer.provenance(network, why),
            "baseline": options.baseline,
            "baseline_margin": stretches[0],
            "tolerance": options.tolerance,
            "max_evaluations": options.max_evaluations,
            "gradients_in_all": spent,
            "nodes": sorted(path.times),
        },
    )


@dataclass
class _Path:
    """The straight line from baseline to picture, cut into segments.

    stretches: float32 log-odds at equal distances, the first at the baseline and the last at the picture.
    times, values, slopes and maps: of each node its t, m, m's derivative by t, and that by pixel [S, S].
    segments: pairs of numbers of nodes.
    """

    explainer: Explainer
    network: ResNet
    x: Tensor
    x0: Tensor
    index: int
    stretches: list[float]
    tolerance: float
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)

    def refine(self, budget: int, progress: Progress) -> None:
        """Cut until it converges, or until ``budget`` gradients are spent."""
        count = len(self.stretches)
        self._evaluate(np.linspace(0, 1, count).tolist())
        self.segments = [(node, node + 1) for node in range(count - 1)]
        while not self.converged and self.evaluations < budget:
            progress(self.evaluations, budget, self.map())
            cuts = min(_CUTS, budget - self.evaluations)
            self.segments.sort(key=self._residual)
            chosen, self.segments = self.segments[-cuts:], self.segments[:-cuts]
            first = self.evaluations
            self._evaluate([(self.times[a] + self.times[b]) / 2 for a, b in chosen])
            for middle, (a, b) in enumerate(chosen, start=first):
                self.segments += [(a, middle), (middle, b)]
        progress(self.evaluations, self.evaluations, self.map())

    @property
    def evaluations(self) -> int:
        return len(self.times)

    def map(self) -> Floats:
        """The trapezoidal rule over all segments: float32 [S, S]."""
        weights = np.zeros(self.evaluations)
        for a, b in self.segments:
            weights[[a, b]] += (self.times[b] - self.times[a]) / 2
        total = torch.zeros_like(self.maps[0])
        for weight, node in zip(weights.tolist(), self.maps, strict=True):
            total.add_(node, alpha=weight)
        return total.cpu().numpy()

    @property
    def converged(self) -> bool:
        bound = max(self.tolerance * abs(self._change), FLOOR)
        errors = self._errors()
        return abs(sum(errors)) <= bound and sum(map(abs, errors)) <= _CERTIFIED_PER_TOLERANCE * bound

    @property
    def completeness_error(self) -> float | None:
        return abs(sum(self._errors())) / abs(self._change) if self._change else None

    @property
    def certified_error(self) -> float | None:
        return sum(map(abs, self._errors())) / abs(self._change) if self._change else None

    @property
    def _change(self) -> float:
        """dm in float32."""
        return self.stretches[-1] - self.stretches[0]

    def _errors(self) -> list[float]:
        """Of each stretch: what the rule gives for it less its change of m in float32."""
        count = len(self.stretches) - 1
        found = [0.0] * count
        for a, b in self.segments:
            # Segments are halves of halves of stretches: the middle of each lies inside of one.
            stretch = int((self.times[a] + self.times[b]) / 2 * count)
            found[stretch] += self._integral(a, b)
        return [
            sum_ - (self.stretches[number + 1] - self.stretches[number]) for number, sum_ in enumerate(found)
        ]

    def _integral(self, a: int, b: int) -> float:
        return (self.times[b] - self.times[a]) * (self.slopes[a] + self.slopes[b]) / 2

    def _residual(self, segment: tuple[int, int]) -> float:
        a, b = segment
        return abs(self.values[b] - self.values[a] - self._integral(a, b))

    def _evaluate(self, times: list[float]) -> None:
        """Add the nodes at ``times``."""
        difference = self.x - self.x0
        at = torch.tensor(times, device=self.x.device)

        def compute(start: int, stop: int) -> tuple[Tensor, Tensor]:
            points = _points(self.x, self.x0, at[start:stop])
            values, gradients = self.explainer.value_and_gradient(self.network, points, self.index)
            return values, (gradients * difference).sum(1)

        for values, maps in self.explainer.chunks(len(times), compute, gradient=True):
            self.values += values.tolist()
            self.slopes += maps.sum((1, 2), dtype=torch.float64).tolist()
            # Copies, so that a node does not keep its whole chunk.
            self.maps += [node.clone() for node in maps]
        self.times += times


def _points(x: Tensor, x0: Tensor, times: Tensor) -> Tensor:
    """x0 + t (x - x0) for each t: [N, 3, S, S]. Exactly x at t = 1."""
    return torch.lerp(x0, x, times.view(-1, 1, 1, 1))
