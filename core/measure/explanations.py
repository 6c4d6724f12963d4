"""What each explanation costs here, and what it leaves behind: seconds, and bytes of its files."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.explain.explanation import Explanation
from core.explain.integrated_gradients import FLOOR
from core.explain.methods import METHODS
from core.explain.options import ExplainOptions
from core.explain.rendering import render
from core.explain.run import NetworkExplainer
from core.measure.network import Check
from core.vision.engine import Engine


@dataclass(frozen=True)
class MethodCost:
    """Seconds as a worker takes them, drawing included: in the fastest round, since disturbances only slow
    down, in the median of the rounds, and in the slowest."""

    seconds: float
    median: float
    highest: float
    first: float  # in a new process, with what is set up once
    artifact_bytes: dict[str, int]
    precision: str


def explanations(
    engine: Engine, picture: NDArray[np.uint8], *, rounds: int
) -> tuple[dict[str, MethodCost], list[Check]]:
    """All methods with their default options on ``picture``, uint8 [size, size, 3], in turn.

    The engine's predictions share the explainer's weights from then on, as they do in a worker.
    """
    explainer = NetworkExplainer(engine)
    options = ExplainOptions()
    found: dict[str, Explanation] = {}
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    sizes: dict[str, dict[str, int]] = {}
    for _ in range(rounds + 1):
        for name, seconds in taken.items():
            started = time.perf_counter()
            found[name] = explainer.explain(name, picture, options)
            files = render(found[name], picture)
            seconds.append(time.perf_counter() - started)
            sizes[name] = {file: len(data) for file, (data, _) in files.items()}
    costs = {
        name: MethodCost(
            min(again),
            statistics.median(again),
            max(again),
            first,
            sizes[name],
            str(found[name].provenance.get("precision", "fp32")),
        )
        for name, (first, *again) in taken.items()
    }
    return costs, [_finite(found), _complete(found["integrated_gradients"], options)]


def _finite(found: dict[str, Explanation]) -> Check:
    bad = [
        name
        for name, explanation in found.items()
        for values in (explanation.attribution, *(layer.values for layer in explanation.layers))
        if values is not None and not np.isfinite(values).all()
    ]
    return Check("explanations are finite", not bad, ", ".join(bad) or "all numbers of all methods")


def _complete(explanation: Explanation, options: ExplainOptions) -> Check:
    """Integrated Gradients must say the truth of itself: not that it converged when it did not.

    Of log-odds that hardly change from the baseline to the picture no share is asked, but an absolute bound.
    """
    quality: dict[str, Any] = explanation.quality
    error, converged = quality["completeness_error"], bool(quality["converged"])
    change = abs(explanation.target.margin - explanation.provenance["baseline_margin"])
    bound = max(options.integrated_gradients.tolerance * change, FLOOR)
    passed = not converged or error is None or error * change <= bound
    off = "where nothing changes" if error is None else f"to within {error:.2%}"
    said = "converged" if converged else "did not converge, and says so"
    return Check("Integrated Gradients add up", passed, f"{off}; it {said}")
