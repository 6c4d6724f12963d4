"""Occlusion: how the log-odds change when a part of the picture is covered.

Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014),
https://arxiv.org/abs/1311.2901. For each window w, d_w = m(x) - m(x with w at the baseline), signed: covering
may also help the class. A pixel's attribution is the mean of d_w over the windows that cover it, so that a
pixel at the edge, under fewer windows, counts no less.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.explain.explainer import Explainer, finite
from core.explain.explanation import Explanation, Floats, Layer, Progress, Target, no_progress
from core.explain.methods import CERTIFIED_WINDOWS
from core.explain.options import OcclusionOptions
from core.explain.patches import PatchedPicture
from core.explain.quality import sparsity, spearman
from core.explain.target import log_odds, probability
from core.explain.windows import Windows
from core.vision.engine import NonFiniteLogits
from core.vision.resnet import ResNet

# Spearman's rank correlation that bfloat16 must reach with float32 to be believed.
_CERTIFIED = 0.99
# The approximation computes every second window, and this share of all where those matter most.
_REFINED = 0.25


def explain(
    explainer: Explainer,
    picture: NDArray[np.uint8],
    target: Target,
    options: OcclusionOptions,
    progress: Progress = no_progress,
) -> Explanation:
    """``picture``: uint8 [S, S, 3]. The attribution is float32 [S, S], in log-odds.

    layers: "windows", d_w as [rows, columns], and "windows.probability", the change of the calibrated
      probability. With ``approximate`` they are interpolated where no window was computed.
    quality: whole_picture_change, m(x) less m of the whole baseline, in float32; sparsity, the Gini index.
    provenance: ``windows`` in all, those ``computed``, ``rank_correlation`` as certified.

    bfloat16 is used if the explainer has it, and certified in each run: some windows are computed again in
    float32, and errors as large as theirs must leave the order of all windows as it is (rank correlation of
    0.99 or more). If they do not, as where no window matters and the order is rounding alone, all windows are
    computed in float32. Raises DeviceOutOfMemory, NonFiniteLogits, and whatever ``progress`` raises.
    """
    x = explainer.tensor(picture)
    x0 = explainer.baseline(options.baseline, x)
    windows = Windows.over(explainer.size, options.window, options.stride)
    exact = _Run(explainer, explainer.exact, x, x0, target, windows)

    run, why, correlation, spent = exact, "float32 as the engine decided", None, 0
    if explainer.fast is not explainer.exact:
        try:
            fast = _Run(explainer, explainer.fast, x, x0, target, windows)
            fast.compute(options.approximate, progress)
            correlation = _certificate(fast, exact)
        except NonFiniteLogits:
            why = "bfloat16 gave values that are not finite"
        else:
            certified = correlation is not None and correlation >= _CERTIFIED
            run = fast if certified else exact
            why = f"bfloat16 {'keeps' if certified else 'may not keep'} float32's order of windows"
            spent = fast.computed
    if run is exact:
        exact.compute(options.approximate, progress)

    drops = run.drops(interpolate=options.approximate)
    attribution = mean_over_pixels(windows, drops[0])
    empty = float(log_odds(explainer.logits(explainer.exact, x0), target.index))
    return Explanation(
        method="occlusion",
        target=target,
        attribution=attribution,
        layers=(Layer("windows", drops[0]), Layer("windows.probability", drops[1])),
        quality={"whole_picture_change": target.margin - empty, "sparsity": sparsity(attribution)},
        provenance={
            **explainer.provenance(run.network, why),
            "baseline": options.baseline,
            "window": windows.side,
            "stride": options.stride,
            "starts": list(windows.starts),
            "approximate": options.approximate,
            "windows": len(windows),
            "computed": run.computed,
            "computed_in_all": spent + exact.computed,
            "rank_correlation": correlation,
            "layers_on_crops": run.patched.steps,
        },
    )


def _certificate(fast: _Run, exact: _Run) -> float | None:
    """Rank correlation with float32 to be expected of all windows' d_w; None if they are all equal.

    The errors of a few, evenly spaced in the order of d_w, are measured. Then each window is moved by a
    normal deviate of the size of its neighbours' errors in that order; errors grow with the effect. On the
    example photos this gave 0.9981 to 0.9999 where the correlation, all windows computed, was 0.9985 to
    0.9998; twice as many windows tell no more, and a bare rank correlation of so few was 1 for each photo.
    """
    known = np.flatnonzero(~np.isnan(fast.margins))
    ranked = known[np.argsort(fast.margins[known], kind="stable")]
    sample = np.unique(np.linspace(0, len(ranked) - 1, CERTIFIED_WINDOWS).round().astype(int))
    chosen = ranked[sample]
    exact.add(chosen)
    errors = (fast.plain[0] - fast.margins[chosen]) - (exact.plain[0] - exact.margins[chosen])
    # The mean of a normal variable's absolute value is sqrt(2 / pi) of its standard deviation.
    sizes = np.interp(np.arange(len(ranked)), sample, np.abs(errors)) * np.sqrt(np.pi / 2)
    moved = fast.margins[ranked] + sizes * np.random.default_rng(0).standard_normal(len(ranked))
    return spearman(fast.margins[ranked], moved)


@dataclass
class _Run:
    """All windows in one precision.

    margins, probabilities: with window number i covered, [windows]; nan where not computed.
    """

    explainer: Explainer
    network: ResNet
    x: Tensor
    x0: Tensor
    target: Target
    windows: Windows
    patched: PatchedPicture = field(init=False)
    margins: Floats = field(init=False)
    probabilities: Floats = field(init=False)

    def __post_init__(self) -> None:
        # On a GPU the many small copies take longer than the layers they save.
        reuse = self.explainer.device.type == "cpu"
        self.patched = PatchedPicture(self.network, self.x, self.x0, self.windows.side, reuse=reuse)
        self.plain = self.target.margin, self.target.probability
        if self.network is not self.explainer.exact:
            # In the same precision: rounding that the covered and the plain picture share cancels.
            margin, score = self._judge(self.explainer.logits(self.network, self.x))
            self.plain = float(margin), float(score)
        self.margins = np.full(len(self.windows), np.nan, np.float32)
        self.probabilities = self.margins.copy()

    @property
    def computed(self) -> int:
        return int(np.count_nonzero(~np.isnan(self.margins)))

    def compute(self, approximate: bool, progress: Progress) -> None:
        """All windows, every second first, so that the map is whole early; or those that matter."""
        total = len(self.windows)
        self.add(np.asarray(self.windows.coarse()), total, progress)
        if not approximate:
            self.add(np.arange(total), total, progress)
            return
        # What was computed corrects the ranking: until each of the first quarter is computed, not guessed.
        count = max(1, round(_REFINED * total))
        while True:
            drops = np.abs(self.drops(interpolate=True)[0].ravel())
            first = np.argsort(-drops, kind="stable")[:count]
            missing = first[np.isnan(self.margins[first])]
            if not missing.size:
                return
            self.add(missing, total, progress)

    def add(self, numbers: NDArray[np.intp], total: int = 0, progress: Progress = no_progress) -> None:
        """Compute those of the windows ``numbers`` that are not yet known, chunk by chunk."""
        numbers = numbers[np.isnan(self.margins[numbers])]
        corners = [self.windows.corner(int(number)) for number in numbers]

        def compute(start: int, stop: int) -> tuple[Tensor, Tensor]:
            return self._judge(finite(self.patched.logits(corners[start:stop])))

        done = 0
        for margins, probabilities in self.explainer.chunks(len(corners), compute):
            chunk = numbers[done : done + len(margins)]
            self.margins[chunk] = margins.cpu().numpy()
            self.probabilities[chunk] = probabilities.cpu().numpy()
            done += len(margins)
            partial = mean_over_pixels(self.windows, self.drops(interpolate=False)[0])
            progress(self.computed, total, partial)

    def drops(self, *, interpolate: bool) -> tuple[Floats, Floats]:
        """d_w of log-odds and of probability, [rows, columns]; unknown ones interpolated, or nan."""
        margins, probabilities = (
            (np.float32(plain) - covered).reshape(self.windows.shape)
            for plain, covered in zip(self.plain, (self.margins, self.probabilities), strict=True)
        )
        if not interpolate:
            return margins, probabilities
        return _interpolated(margins, self.windows), _interpolated(probabilities, self.windows)

    def _judge(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        temperature = self.explainer.manifest.temperature
        index = self.target.index
        return log_odds(logits, index), probability(logits, index, temperature)


def mean_over_pixels(windows: Windows, values: Floats) -> Floats:
    """For each pixel the mean of the windows that cover it: [rows, columns] -> float32 [size, size].

    nan marks a window without value; it does not count, and a pixel under no others gets 0.
    """
    known = ~np.isnan(values)
    # Windows are squares on a grid, so summing over those that cover a pixel is separable: one matrix for
    # rows, the same for columns.
    pixels = np.arange(windows.size)[:, None]
    starts = np.asarray(windows.starts)
    covers = ((pixels >= starts) & (pixels < starts + windows.side)).astype(np.float64)
    total, count = (
        # Not "@": OpenBLAS would share these few thousand sums among threads that then wait for more with
        # their cores busy. The windows computed meanwhile took twice as long.
        np.einsum("pi,qi->pq", np.einsum("pi,ij->pj", covers, part), covers)
        for part in (np.where(known, values, 0), known.astype(np.float64))
    )
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def _interpolated(values: Floats, windows: Windows) -> Floats:
    """nan replaced by bilinear interpolation between the coarse windows; known values stay."""
    rows = windows.every_second
    everywhere = np.arange(len(windows.starts))
    known = values[np.ix_(rows, rows)]
    across = np.stack([np.interp(everywhere, rows, line) for line in known])
    guess = np.stack([np.interp(everywhere, rows, line) for line in across.T]).T
    return np.where(np.isnan(values), guess, values).astype(np.float32)
