"""Every number against scikit-learn or SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sk

from core.training import metrics


def drawn(classes: int, count: int = 400, seed: int = 0) -> tuple[metrics.Floats, metrics.Counts]:
    """Logits that know something, with many ties, and targets of unequal frequency."""
    random = np.random.default_rng(seed)
    targets = random.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = random.normal(size=(count, classes)).round(1)
    logits[np.arange(count), targets] += 1.0
    return logits, targets


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_averages_and_losses(classes: int) -> None:
    logits, targets = drawn(classes)
    labels = tuple("abcde"[:classes])
    found = metrics.full(logits, targets, labels, temperature=1.7)
    expected = sk.classification_report(
        targets, logits.argmax(1), target_names=labels, output_dict=True, zero_division=0
    )
    for name in labels:
        for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert found["classes"][name][ours] == pytest.approx(expected[name][theirs])
    for kind in ("macro", "weighted"):
        for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
            assert found[kind][ours] == pytest.approx(expected[f"{kind} avg"][theirs])
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["confusion"] == sk.confusion_matrix(targets, logits.argmax(1)).tolist()
    assert found["loss"] == pytest.approx(sk.log_loss(targets, special.softmax(logits, 1)))
    assert found["calibrated_loss"] == pytest.approx(sk.log_loss(targets, special.softmax(logits / 1.7, 1)))


def test_roc_auc_and_its_curve() -> None:
    logits, targets = drawn(2)
    scores = metrics.probabilities(logits)
    expected = sk.roc_auc_score(targets, scores[:, 1])
    assert metrics.roc_auc_of_classes(scores, targets) == pytest.approx(expected)
    false, true = metrics.roc_curve(scores[:, 1], targets == 1)
    np.testing.assert_allclose(
        (false, true), sk.roc_curve(targets, scores[:, 1], drop_intermediate=False)[:2], atol=1e-12
    )


def test_roc_auc_of_many_classes_is_one_against_the_rest() -> None:
    logits, targets = drawn(4)
    scores = metrics.probabilities(logits)
    expected = sk.roc_auc_score(targets, scores, multi_class="ovr", average="macro")
    assert metrics.roc_auc_of_classes(scores, targets) == pytest.approx(expected)


def test_roc_auc_without_one_of_the_sides_is_unknown() -> None:
    assert np.isnan(metrics.roc_auc([0.1, 0.9], [True, True]))


def test_precision_recall() -> None:
    logits, targets = drawn(2)
    scores = metrics.probabilities(logits)[:, 1]
    recall, precision, area = metrics.precision_recall_curve(scores, targets == 1)
    assert area == pytest.approx(sk.average_precision_score(targets, scores))
    expected = sk.precision_recall_curve(targets, scores)  # from the lowest threshold, with a point at (0, 1)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1])
    np.testing.assert_allclose(recall[::-1], expected[1][:-1])


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    table = metrics.confusion(np.array([0, 1]), np.array([0, 0]), 2)
    found = metrics.per_class(table)
    assert found["precision"].tolist() == [0.5, 0]
    assert found["f1"].tolist() == [pytest.approx(2 / 3), 0]


@pytest.mark.parametrize(("successes", "trials"), [(0, 9), (7, 9), (9, 9), (960, 1000)])
def test_wilson(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert metrics.wilson(successes, trials) == pytest.approx((expected.low, expected.high))


def test_the_bootstrap_has_the_width_that_theory_gives() -> None:
    """Of an accuracy: 1.96 standard errors to either side."""
    right = np.random.default_rng(1).random(2000) < 0.8
    targets = np.zeros(2000, np.int64)
    low, high = metrics.bootstrap(lambda i: float(right[i].mean()), targets, resamples=2000)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert low == pytest.approx(right.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(right.mean() + 1.96 * error, abs=0.1 * error)


def test_the_bootstrap_never_loses_a_class() -> None:
    targets = np.array([0] * 50 + [1])
    seen = []
    metrics.bootstrap(lambda i: float(seen.append(set(targets[i])) or 0), targets, resamples=20)  # type: ignore[func-returns-value]
    assert all(classes == {0, 1} for classes in seen)


def test_calibration_error_by_hand() -> None:
    scores = np.array([[0.4, 0.6], [0.3, 0.7], [0.05, 0.95], [0.04, 0.96]])
    targets = np.array([1, 0, 1, 1])
    found = metrics.reliability(scores, targets, bins=2)
    assert found.counts.tolist() == [0, 4]
    assert found.error == pytest.approx(abs((0.6 + 0.7 + 0.95 + 0.96) / 4 - 3 / 4))
    found = metrics.reliability(scores, targets, bins=10)
    # Bins end at 0.6, 0.7 and 1, right-closed.
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    assert found.error == pytest.approx((0.4 + 0.7 + 2 * 0.045) / 4)


def test_scores_that_are_probabilities_have_no_calibration_error() -> None:
    random = np.random.default_rng(0)
    p = random.random(200_000)
    targets = (random.random(200_000) < p).astype(np.int64)
    assert metrics.reliability(np.stack([1 - p, p], 1), targets).error < 0.005
