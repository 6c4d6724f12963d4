from __future__ import annotations

# ruff: noqa: RUF001 - typographic minus and times are meant
from typing import Any

import numpy as np
import pytest

from core.explain.colour import Scale
from core.explain.explanation import Explanation, Target
from core.explain.words import decision, depth, findings, limits, percent, reading

# The page says the same: tests/browser/test_words.py.
COMPLETENESS = [
    (0.006, True, "Adds up to {change}, with an error of 0.6 %."),
    (0.00001, True, "Adds up to {change}, with an error of < 0.1 %."),
    (1.7, True, "Adds up to {change}, with an error of at most 0.001."),  # of next to no change
    (0.12, False, "Adds up to {change}, with an error of 12.0 %; it has not converged."),
    (1.7, False, "Does not add up to {change}: the error is 170.0 %."),
]
DELETION = [(0.6, True), (0.42, True), (0.40, None), (0.31, None), (0.22, None), (0.2, False)]

TARGET = Target("dog", 1, margin=4.32, probability=0.987)


def explained(method: str = "integrated_gradients", **rest: Any) -> Explanation:
    return Explanation(method, TARGET, rest.pop("attribution", None), **rest)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 %"),
        (0.0001, "< 0.1 %"),
        (0.0005, "0.1 %"),
        (0.5, "50.0 %"),
        (0.9941, "99.4 %"),
        (0.9994, "99.9 %"),
        (0.99996, "> 99.9 %"),
        (1, "100 %"),
    ],
)
def test_percentages_are_never_rounded_to_certainty(share: float, words: str) -> None:
    assert percent(share).replace("\u00a0", " ") == words


def test_the_decision_is_told_with_probability_and_log_odds() -> None:
    says = "Integrated Gradients · dog 98.7\u00a0% · log-odds +4.3 before calibration"
    assert decision(explained(), None) == says
    same = {"label": "dog", "scores": {"dog": 0.987, "cat": 0.013}}
    assert decision(explained(), same) == decision(explained(), None)


def test_another_answer_than_the_class_explained_is_told() -> None:
    other = {"label": "cat", "scores": {"cat": 0.8, "dog": 0.2}}
    assert "another: cat, 80.0\u00a0%" in decision(explained(), other)


def test_probabilities_on_one_page_are_those_of_the_prediction() -> None:
    """The target's own, in float32, may differ from them in the third digit."""
    other = {"label": "cat", "scores": {"cat": 0.551, "dog": 0.449}}
    assert "dog 44.9\u00a0%" in decision(explained(), other)


def test_every_baseline_is_named() -> None:
    told = {reading(explained(provenance={"baseline": b})) for b in ("mean", "black", "white", "blur")}
    assert len(told) == 4


@pytest.mark.parametrize(("error", "converged", "expected"), COMPLETENESS)
def test_completeness_in_words(error: float, converged: bool, expected: str) -> None:
    quality = {"completeness_error": error, "converged": converged}
    made = {"baseline": "blur", "baseline_margin": -1.5}
    ((passed, sentence),) = findings(explained(quality=quality, provenance=made))
    assert passed is converged
    assert sentence.replace("\u00a0", " ") == expected.format(
        change="the change of the log-odds from −1.5 (a blurred copy of the picture) to +4.3"
    )
    ((_, sentence),) = findings(explained(quality=quality))
    change = "the change of the log-odds from the baseline"
    assert sentence.replace("\u00a0", " ") == expected.format(change=change)


def test_completeness_is_not_claimed_for_methods_that_do_not_add_up() -> None:
    assert findings(explained("occlusion", quality={"completeness_error": 0.0})) == []


def test_no_completeness_is_told_where_there_was_nothing_to_account_for() -> None:
    assert findings(explained(quality={"completeness_error": None, "converged": True})) == []


def test_an_approximation_is_told() -> None:
    made = {"approximate": True, "computed": 60, "windows": 169}
    ((passed, sentence),) = findings(explained("occlusion", provenance=made))
    assert passed is None
    assert "60 of 169" in sentence
    assert findings(explained("occlusion", provenance=made | {"approximate": False})) == []


@pytest.mark.parametrize(("control", "passes"), DELETION)
def test_deletion_is_told_with_its_control(control: float, passes: bool | None) -> None:
    """One random order's value differs from another's by up to 0.1, so less than that says nothing."""
    quality = {"deletion_insertion": {"deletion_auc": 0.31, "random_deletion_auc": control}}
    ((passed, sentence),) = findings(explained("occlusion", quality=quality))
    assert passed is passes
    assert "0.31" in sentence
    assert f"{control:.2f}" in sentence
    assert ("no clear difference" in sentence) is (passes is None)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_rounding_is_not_told_as_evidence(method: str) -> None:
    noise = np.full((16, 16), 1e-9, np.float32)
    quality = {"completeness_error": 1.18, "converged": True}
    ((passes, says),) = findings(explained(method, attribution=noise, quality=quality))
    assert passes is None
    assert "rounding" in says
    for some in (1e8 * noise, 0 * noise):
        assert not any("rounding" in says for _, says in findings(explained(method, attribution=some)))


def test_half_of_the_evidence_in_favour() -> None:
    # 12 of 20 in the first pixel: one pixel of ten has more than half. What speaks against does not count.
    attribution = np.array([[12, 4, 4, 0, 0, 0, 0, 0, -50, -50]], np.float32)
    ((_, sentence),) = findings(explained("occlusion", attribution=attribution))
    assert "lies on 10.0\u00a0% of what the network sees" in sentence
    even = np.ones((4, 5), np.float32)
    assert "50.0\u00a0%" in findings(explained("occlusion", attribution=even))[0][1]
    assert findings(explained("occlusion", attribution=-even)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layer3.22", "stage 3, block 23"),
        ("layer1.0.conv2", "stage 1, block 1, conv2"),
        ("layer4", "stage 4"),
        ("conv1", "first convolution"),
        ("stem", "stem"),
        ("features.denseblock", "features.denseblock"),
    ],
)
def test_depth(name: str, words: str) -> None:
    assert depth(name) == words


def test_limits() -> None:
    assert limits(Scale(0.0123, signed=True)) == "−0.012 to +0.012"
    assert limits(Scale(0.0123, signed=False)) == "black 0, brightest 0.012"
    assert limits(Scale(0, signed=True)) == "zero everywhere"
