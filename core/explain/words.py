"""What a panel says in words: whose decision it is, how to read the picture, how far to trust it."""

from __future__ import annotations

# ruff: noqa: RUF001 - typographic quotes, minus and times are meant
import re
from typing import Any

import numpy as np

from core.explain.colour import Numbers, Scale
from core.explain.explanation import Explanation
from core.explain.layout import number

NAMES = {
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated Gradients",
    "occlusion": "Occlusion",
    "feature_maps": "Feature maps",
    "kernels": "Kernels",
}

_BASELINES = {
    "mean": "a plain picture of the mean colour",
    "black": "a black picture",
    "white": "a white picture",
    "blur": "a blurred copy of the picture",
}


def title(explanation: Explanation) -> str:
    if explanation.method == "kernels":
        return "What the network looks for"
    if explanation.method == "feature_maps":
        return "What the network sees"
    return f"Why “{explanation.target.label}”?"


def decision(explanation: Explanation, prediction: dict[str, Any] | None) -> str:
    """The explained class with its probability and log-odds; and the answer, where it is another class.

    The two numbers do not follow from each other: only the probability is calibrated.
    """
    target = explanation.target
    name = NAMES.get(explanation.method, explanation.method)
    if explanation.method == "kernels":
        return f"{name}, sorted by depth. They belong to the network, not to this picture."
    # The prediction may have been made in another precision; one page must not show two probabilities.
    scores = {} if prediction is None else prediction["scores"]
    probability = scores.get(target.label, target.probability)
    log_odds = f"log-odds {signed(target.margin)} before calibration"
    line = f"{name} · {target.label} {percent(probability)} · {log_odds}"
    if prediction is None or prediction["label"] == target.label:
        return line
    answer = prediction["label"]
    return f"{line}. The network’s answer is another: {answer}, {percent(scores[answer])}."


def reading(explanation: Explanation) -> str:
    """One sentence, or two, on how to read the panel."""
    label = explanation.target.label
    baseline = str(explanation.provenance.get("baseline", ""))
    match explanation.method:
        case "grad_cam":
            return (
                f"In the bright regions the network’s last layers found “{label}”. "
                "They show roughly where, not which pixels."
            )
        case "integrated_gradients":
            start = _BASELINES.get(baseline, "the baseline")
            return f"Red pixels speak for “{label}”, blue ones against it, in comparison with {start}."
        case "occlusion":
            return f"Red: with this part covered, “{label}” becomes less likely. Blue: more likely."
        case "feature_maps":
            return (
                "Each tile is one channel: bright where it responds. "
                "Early layers tend to edges and colours, late ones to parts of animals."
            )
        case "kernels":
            return (
                "Each tile is a pattern of weights. The first layer is shown in the colours it responds to; "
                "deeper ones as one slice each, red for positive weights, blue for negative."
            )
    return f"Red speaks for “{label}”, blue against it."


DEPTHS = (
    "Each map has colours of its own: black is 0, the brightest is the number below it. For the last block "
    "that is log-odds per cell; for those before it weight × activation, a first-order estimate that shows "
    "where, not how much."
)


def unit(explanation: Explanation) -> str:
    """What the numbers on the colour bar are."""
    most = "the strongest 1\u00a0% share the last colours"
    match explanation.method:
        case "grad_cam" if explanation.layers:
            height, width = explanation.layers[-1].values.shape
            return f"log-odds per cell of the last layer’s grid of {width} × {height}"
        case "integrated_gradients":
            return f"log-odds per pixel; {most}"
        case "occlusion":
            return f"log-odds lost when covered; {most}"
    return "weight in the log-odds"


def limits(scale: Scale) -> str:
    """A scale in words, for rows of tiles without a colour bar."""
    if scale.flat:
        return "zero everywhere"
    last = number(scale.limit)
    return f"−{last} to +{last}" if scale.signed else f"black 0, brightest {last}"


Finding = tuple[bool | None, str]
"""Whether a measurement passes (None: nothing to pass), and a sentence about it."""


def findings(explanation: Explanation) -> list[Finding]:
    """What was measured about this explanation."""
    if _is_rounding(explanation):
        return [(None, "All of it is less than a thousandth of the log-odds: rounding, and no evidence.")]
    found: list[Finding] = []
    error = explanation.quality.get("completeness_error")
    # Of the other methods' maps nobody claims that their pixels add up to the decision.
    if explanation.method == "integrated_gradients" and error is not None:
        found.append(_completeness(explanation, error))
    if explanation.provenance.get("approximate"):
        computed, windows = explanation.provenance["computed"], explanation.provenance["windows"]
        found.append((None, f"Approximate: {computed} of {windows} places computed, the others guessed."))
    if (faithful := explanation.quality.get("deletion_insertion")) is not None:
        found.append(_deletion(faithful["deletion_auc"], faithful["random_deletion_auc"]))
    if explanation.attribution is not None:
        found += _concentration(explanation.attribution)
    return found


def _is_rounding(explanation: Explanation) -> bool:
    """Whether nothing on the map matters, neither any window nor all pixels together."""
    if explanation.attribution is None:
        return False
    magnitudes = np.abs(explanation.attribution)
    match explanation.method:
        case "occlusion":
            return bool(0 < magnitudes.max() < _ROUNDING)
        case "integrated_gradients":
            return bool(0 < magnitudes.sum() < _ROUNDING)
    return False


_ROUNDING = 1e-3


def _completeness(explanation: Explanation, error: float) -> Finding:
    change = _change(explanation)
    if explanation.quality.get("converged", True):
        # A share of next to no change may be large; then it converged by an absolute bound.
        off = percent(error) if error < 1 else "at most 0.001"
        return True, f"Adds up to {change}, with an error of {off}."
    if error >= 1:
        return False, f"Does not add up to {change}: the error is {percent(error)}."
    return False, f"Adds up to {change}, with an error of {percent(error)}; it has not converged."


def _change(explanation: Explanation) -> str:
    """What the attributions are to add up to."""
    start = _BASELINES.get(str(explanation.provenance.get("baseline", "")), "the baseline")
    margin = explanation.provenance.get("baseline_margin")
    if margin is None:
        return f"the change of the log-odds from {start}"
    return (
        f"the change of the log-odds from {signed(margin)} ({start}) to {signed(explanation.target.margin)}"
    )


def _deletion(deletion: float, control: float) -> Finding:
    says = (
        f"As its pixels vanish, strongest first, the mean probability is {deletion:.2f}; "
        f"in random order it is {control:.2f}"
    )
    if abs(deletion - control) < _CLEAR:
        return None, f"{says}: no clear difference."
    return deletion < control, f"{says}."


_CLEAR = 0.1  # the control is one random order, and another one's value differs by 0.07 to 0.1


def _concentration(attribution: Numbers) -> list[Finding]:
    positive = np.sort(np.maximum(attribution.astype(np.float64), 0), axis=None)[::-1]
    total = positive.sum()
    if total == 0:
        return []
    pixels = int(np.searchsorted(np.cumsum(positive), total / 2)) + 1
    share = percent(pixels / positive.size)
    return [(None, f"Half of the evidence in favour lies on {share} of what the network sees.")]


def depth(name: str) -> str:
    """A layer's name in words: "layer3.22" -> "stage 3, block 23"."""
    known = re.fullmatch(r"layer(\d)(?:\.(\d+)(?:\.(\w+))?)?", name)
    if known is None:
        return {"conv1": "first convolution"}.get(name, name)
    number_of_stage, block, part = known.groups()
    return (
        f"stage {number_of_stage}"
        + (f", block {int(block) + 1}" if block else "")
        + (f", {part}" if part else "")
    )


def block(name: str) -> str:
    """A layer's name in words within its stage: "layer3.22" -> "block 23"."""
    return depth(name).rpartition(", ")[2]


def stage(name: str) -> str:
    """The part of a layer's name before the first dot: layers that share it lie in one stage."""
    return name.partition(".")[0]


def percent(share: float) -> str:
    """0.9941 -> "99.4 %". Never rounded to certainty: 0.99996 -> "> 99.9 %"."""
    if 0.9995 <= share < 1:
        return ">\u00a099.9\u00a0%"
    if 0 < share < 0.0005:
        return "<\u00a00.1\u00a0%"
    return f"{100 * share:.3g}\u00a0%" if share in {0, 1} else f"{100 * share:.1f}\u00a0%"


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
