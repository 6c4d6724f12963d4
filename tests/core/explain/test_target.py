from __future__ import annotations

import math

import pytest
import torch

from core.errors import InvalidRequest
from core.explain.target import choose_target, log_odds, probability


def test_log_odds_are_the_logit_of_the_probability() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]])
    for index in range(3):
        p = logits.softmax(1)[:, index]
        torch.testing.assert_close(log_odds(logits, index), (p / (1 - p)).log())


def test_two_classes_have_opposite_log_odds_which_no_common_constant_changes() -> None:
    logits = torch.tensor([[2.0, -1.5]])
    assert log_odds(logits, 0).item() == pytest.approx(3.5)
    assert log_odds(logits, 1).item() == pytest.approx(-3.5)
    assert log_odds(logits + 7, 0).item() == pytest.approx(3.5)


def test_log_odds_do_not_saturate_where_the_probability_does() -> None:
    logits = torch.tensor([[60.0, -60.0]])
    assert probability(logits, 0, 1.0).item() == 1.0
    assert log_odds(logits, 0).item() == 120.0


def test_the_predicted_class_is_explained_by_default() -> None:
    target = choose_target(torch.tensor([[1.0, 3.0]]), ("cat", "dog"), 2.0)
    assert (target.label, target.index) == ("dog", 1)
    assert target.margin == pytest.approx(2.0)
    # The probability is calibrated, the log-odds are not.
    assert target.probability == pytest.approx(1 / (1 + math.exp(-1)))


def test_another_class_can_be_asked_for_but_no_unknown_one() -> None:
    logits = torch.tensor([[1.0, 3.0]])
    target = choose_target(logits, ("cat", "dog"), 1.0, "cat")
    assert target.index == 0
    assert target.margin == pytest.approx(-2.0)
    with pytest.raises(InvalidRequest, match="cat, dog"):
        choose_target(logits, ("cat", "dog"), 1.0, "fox")
