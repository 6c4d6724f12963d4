"""What the page says of explanations is what their panels say."""

from __future__ import annotations

# ruff: noqa: RUF001 - minus and times as the page shows them
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Visit
from tests.core.explain.test_words import COMPLETENESS, DELETION

Words = Callable[..., Any]


@pytest.fixture
def words(visit: Visit) -> Words:
    """Calls a function of the page's words.js by its name."""
    page = visit.open()

    def call(name: str, *arguments: Any) -> Any:
        script = "async ([name, ...rest]) => (await import('/page/words.js'))[name](...rest)"
        return page.evaluate(script, [name, *arguments])

    return call


def found(words: Words, name: str = "integrated_gradients", **method: Any) -> list[tuple[bool | None, str]]:
    said = words("findings", {"name": name, **method}, None)
    return [(passes, sentence.replace("\u00a0", " ")) for passes, sentence in said]


def test_completeness_in_words(words: Words) -> None:
    made = {"baseline": "blur", "baseline_margin": -1.5, "margin": 4.32}
    change = "the change of the log-odds from −1.5 (a blurred copy of the picture) to +4.3"
    for error, converged, expected in COMPLETENESS:
        quality = {"completeness_error": error, "converged": converged}
        assert found(words, quality=quality, provenance=made) == [(converged, expected.format(change=change))]
        # As jobs have it that were explained before provenance named the margin.
        before = found(words, quality=quality, provenance={"baseline": "blur", "baseline_margin": -1.5})
        change_then = "the change of the log-odds from a blurred copy of the picture"
        assert before == [(converged, expected.format(change=change_then))]


def test_no_completeness_is_told_where_there_was_nothing_to_account_for(words: Words) -> None:
    assert found(words, quality={"completeness_error": None, "converged": True}, provenance={}) == []
    assert found(words, quality=None, provenance=None) == []


def test_deletion_is_told_with_its_control(words: Words) -> None:
    for control, passes in DELETION:
        measured = {"deletion_auc": 0.31, "random_deletion_auc": control}
        ((passed, sentence),) = found(words, "occlusion", quality={"deletion_insertion": measured})
        assert passed is passes
        assert "0.31" in sentence
        assert f"{control:.2f}" in sentence
        assert ("no clear difference" in sentence) is (passes is None)


def test_log_odds_are_told_to_be_those_before_calibration(visit: Visit) -> None:
    script = "async () => (await import('/page/words.js')).LOG_ODDS"
    assert "before probabilities are calibrated" in visit.open().evaluate(script)


def test_numbers_of_grad_cam_are_log_odds_after_the_last_block_only(words: Words) -> None:
    assert words("unit", "grad_cam", True) == "log-odds per cell"
    assert words("unit", "grad_cam", False) == "weight × activation"
    assert words("unit", "occlusion", True) == "log-odds lost when covered"
