from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from core.training.calibration import HIGHEST, LOWEST, fit_temperature

from .test_metrics import drawn


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_it_is_the_minimum_that_scipy_finds(classes: int, factor: float) -> None:
    logits, targets = drawn(classes)
    logits = factor * logits
    expected = minimize_scalar(
        lambda t: log_loss(targets, softmax(logits / t, axis=1)), bounds=(0.05, 20), method="bounded"
    )
    assert fit_temperature(logits, targets) == pytest.approx(expected.x, rel=1e-3)


def test_logits_that_are_twice_too_sure() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=(50_000, 3))
    targets = np.array([random.choice(3, p=p) for p in softmax(true, axis=1)])
    assert fit_temperature(2 * true, targets) == pytest.approx(2, rel=0.05)


def test_where_nothing_is_wrong_it_stays_within_its_limits() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(LOWEST)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(HIGHEST)
