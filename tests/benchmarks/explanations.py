"""What the five methods cost: against the way the project before this one computed them, and against captum.

All in one run, in turns, on one machine, one picture and the same weights. Ours is what a job pays: the class
to explain, the explanation, its certificate, and all its files. Nothing counts as faster that did less: the
last table has the errors, measured in the same run.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion
from numpy.typing import NDArray
from rich.console import RenderableType
from torch import Tensor

from core.explain.explanation import Explanation
from core.explain.methods import METHODS
from core.explain.options import ExplainOptions
from core.explain.quality import spearman
from core.explain.rendering import render
from core.explain.run import NetworkExplainer
from core.explain.target import log_odds
from core.vision.engine import Engine
from core.vision.manifest import read_manifest
from tests.benchmarks import explanation_tables, original
from tests.benchmarks.report import Report, Times, ratio, total
from tests.benchmarks.subject import COMPARED_AT, MANIFEST, weights_at
from tests.benchmarks.work import PRECISIONS, Peak, work_of
from tests.processes import PHOTOS

PHOTO = "american_bulldog_115"
OPTIONS = ExplainOptions()
TOLERANCE = OPTIONS.integrated_gradients.tolerance
# Of the original's two long methods this share is computed and timed: all their batches are alike.
PARTS = 8
CAPTUM_BATCH = F_BATCH = 16
CAPTUM_STEPS = 64
CAPTUM_TRIED = (16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)
FINE_STEPS = 128


def run(quick: bool = False) -> Report:
    sizes = (
        [COMPARED_AT] if quick else sorted({COMPARED_AT, read_manifest(MANIFEST).input.size}, reverse=True)
    )
    tables: list[RenderableType] = []
    figures: dict[str, Any] = {}
    for size in sizes:
        with engine_at(size) as engine:
            contest = Contest(engine)
            contest.check(quick)
            for _ in range(1 if quick else 3):
                contest.round()
            figures[str(size)] = contest.figures()
            tables += explanation_tables.tables(figures[str(size)], size)
    return Report(tables, figures)


@contextmanager
def engine_at(size: int) -> Iterator[Engine]:
    """The shipped weights at another size of picture."""
    with tempfile.TemporaryDirectory() as folder:
        yield Engine(weights_at(Path(folder), size))


class Contest:
    """All contestants on one picture, each once a round."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.size = engine.manifest.input.size
        self.ours = NetworkExplainer(engine)
        self.explainer = self.ours.explainer
        (photo,) = (photo for photo in PHOTOS if photo.stem == PHOTO)
        self.picture: NDArray[np.uint8] = engine.prepare(photo.read_bytes())
        self.x = self.explainer.tensor(self.picture)
        self.index = self.explainer.target(self.picture).index
        # As torch lays a network out by itself; captum gets the faster layout, which costs its user one line.
        self.original = copy.deepcopy(engine.network).to(memory_format=torch.contiguous_format)
        self.plain_x = self.x.contiguous()
        self.peak = Peak(engine.device)
        self.steps = {f"{CAPTUM_STEPS} steps": CAPTUM_STEPS}
        self.checks: dict[str, Any] = {}
        self.explained: dict[str, Explanation] = {}
        names = [*METHODS, "F fp32", "F bf16", *(f"drawing {name}" for name in METHODS)]
        names += [f"original {name}" for name in original.METHODS]
        self.times = {name: Times() for name in [*names, "captum occlusion"]}

    # ---- one round

    def round(self) -> None:
        self.peak.take()
        batch = self.x.repeat(F_BATCH, 1, 1, 1)
        for name, network in {"F fp32": self.explainer.exact, "F bf16": self.explainer.fast}.items():
            self.times[name].take(functools.partial(self.explainer.logits, network, batch))
        for name in METHODS:
            self.times[name].take(functools.partial(self._ours, name))
            self.times[f"drawing {name}"].take(functools.partial(render, self.explained[name], self.picture))
            self._take_original(name)
        self.times["captum occlusion"].take(functools.partial(_as_torch_has_it, self._captum_occlusion))
        for name, steps in self.steps.items():
            taken = self.times.setdefault(f"captum integrated_gradients {name}", Times())
            taken.take(functools.partial(_as_torch_has_it, self._captum_gradients, steps))

    def _ours(self, name: str) -> None:
        self.explained[name] = self.ours.explain(name, self.picture, OPTIONS)
        render(self.explained[name], self.picture)

    def _take_original(self, name: str) -> None:
        method = getattr(original, name)
        parts: float = 1
        if name == "integrated_gradients":
            parts, method = PARTS, functools.partial(method, steps=original.STEPS // PARTS)
        elif name == "occlusion":
            windows = original.BATCH * (original.WINDOWS // PARTS // original.BATCH)
            parts, method = original.WINDOWS / windows, functools.partial(method, windows=windows)
        call = functools.partial(_as_torch_has_it, method, self.original, self.plain_x, self.index)
        self.times[f"original {name}"].take(call, parts=parts)

    def _captum_gradients(self, steps: int) -> tuple[Tensor, float]:
        """The map [S, S] and the completeness error."""
        captum = IntegratedGradients(self._log_odds)
        found, delta = captum.attribute(
            self.x,
            torch.zeros_like(self.x),
            n_steps=steps,
            internal_batch_size=CAPTUM_BATCH,
            return_convergence_delta=True,
        )
        with torch.inference_mode():
            ends = self._log_odds(torch.cat([torch.zeros_like(self.x), self.x]))
        return found.detach().sum(1)[0].float().cpu(), abs(float(delta)) / abs(float(ends[1] - ends[0]))

    def _captum_occlusion(self) -> NDArray[np.float32]:
        options = OPTIONS.occlusion
        window, stride = (3, options.window, options.window), (3, options.stride, options.stride)
        with torch.no_grad():
            found = Occlusion(self._log_odds).attribute(
                self.x, window, stride, baselines=0, perturbations_per_eval=CAPTUM_BATCH
            )
        return np.asarray(found[0, 0].cpu().numpy(), np.float32)

    def _log_odds(self, pictures: Tensor) -> Tensor:
        return log_odds(self.engine.network(pictures), self.index)

    # ---- that nothing is faster because it does less

    def check(self, quick: bool) -> None:
        """Before the rounds, so that they begin warm. Finds how many steps captum needs, too."""
        for name in METHODS:
            self._ours(name)
        gradients = self.explained["integrated_gradients"]
        windows = self.explained["occlusion"].attribution
        assert gradients.attribution is not None
        assert windows is not None
        maps = {"ours": torch.from_numpy(gradients.attribution)}
        errors = {"ours": gradients.quality["completeness_error"]}
        tried = (CAPTUM_STEPS,) if quick else CAPTUM_TRIED
        for steps in tried:
            maps[f"captum, {steps}"], errors[f"captum, {steps}"] = _as_torch_has_it(
                self._captum_gradients, steps
            )
            if errors[f"captum, {steps}"] <= TOLERANCE:
                self.steps[f"{steps} steps"] = steps
                break
        fine = None if quick else self._fine_map()
        self.checks = {
            "integrated_gradients": {
                name: {
                    "completeness_error": errors[name],
                    "map_error": None if fine is None else _distance(map_, fine),
                }
                for name, map_ in maps.items()
            },
            "gradients": gradients.provenance["gradients_in_all"],
            "occlusion_rank_correlation_with_captum": spearman(windows, self._captum_occlusion()),
            "precision": {name: self.explained[name].provenance["precision"] for name in METHODS},
        }

    def _fine_map(self) -> Tensor:
        """The integral by 128 midpoints in float32: what all maps approximate."""
        total_ = torch.zeros(self.size, self.size, device=self.x.device)
        for start in range(0, FINE_STEPS, 8):
            times = (torch.arange(start, start + 8, device=self.x.device) + 0.5) / FINE_STEPS
            points = times.view(-1, 1, 1, 1) * self.x
            _, gradients = self.explainer.value_and_gradient(self.explainer.exact, points, self.index)
            total_ += (gradients * self.x).sum((0, 1)) / FINE_STEPS
        return total_.cpu()

    # ---- figures

    def figures(self) -> dict[str, Any]:
        times = self.times
        originals = {name: times[f"original {name}"] for name in METHODS}
        found: dict[str, Any] = {
            "device": self.engine.report["device_name"] or str(self.engine.device),
            "peak_gflops": {name: round(self.peak.rate(name) / 1e9) for name in PRECISIONS},
            "F_seconds": {name: round(times[f"F {name}"].least / F_BATCH, 5) for name in PRECISIONS},
            "seconds": {name: taken.figures() for name, taken in times.items()},
            "against_the_original": {name: ratio(originals[name], times[name]) for name in METHODS},
            "against_captum": {
                name.removeprefix("captum "): ratio(taken, times[name.split()[1]])
                for name, taken in times.items()
                if name.startswith("captum ")
            },
            "work": self._work(),
            "checks": self.checks,
        }
        ours, theirs = total([times[name] for name in METHODS]), total(list(originals.values()))
        found["seconds"] |= {"all five": ours.figures(), "original all five": theirs.figures()}
        found["against_the_original"]["all five"] = ratio(theirs, ours)
        return found

    def _work(self) -> dict[str, Any]:
        """Of each of our methods: passes through the network, in F, and what the machine's peak allows."""
        one = sum(work_of(lambda: self.explainer.logits(self.explainer.exact, self.x)).values())
        work = {}
        for name in METHODS:
            flops: Counter[tuple[str, str]] = work_of(functools.partial(self._ours, name))
            at_peak, least = self.peak.seconds(flops), self.times[name].least
            work[name] = {
                "F": {" ".join(kind): round(count / one, 2) for kind, count in sorted(flops.items())},
                "seconds_at_peak": round(at_peak, 4),
                "share_of_peak": round(at_peak / least, 3),
                "share_drawing": round(self.times[f"drawing {name}"].least / least, 3),
            }
        return work


def _as_torch_has_it(call: Callable[..., Any], *arguments: Any) -> Any:
    """On a GPU with TF32 in convolutions, torch's default, which the engine turns off: others need not pay
    for that."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    ours = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        return call(*arguments)
    finally:
        convolutions.fp32_precision = ours


def _distance(found: Tensor, fine: Tensor) -> float:
    """Sum of absolute differences as a share of the sum of absolute values."""
    return float((found - fine).abs().sum() / fine.abs().sum())
