"""How good a classifier is, and how sure that is. NumPy only; every number is tested against scikit-learn.

Throughout, ``logits`` are [N, classes], ``targets`` int [N] and ``probabilities`` [N, classes].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile, for intervals of 95 %


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """softmax(logits / temperature)."""
    z = np.asarray(logits, np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    result: Floats = e / e.sum(axis=1, keepdims=True)
    return result


def log_loss(logits: ArrayLike, targets: Counts, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats; from logits, so that nothing has to be clipped."""
    z = np.asarray(logits, np.float64) / temperature
    top = z.max(axis=1)
    normaliser = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return float((normaliser - z[np.arange(len(z)), targets]).mean())


def confusion(targets: Counts, predicted: Counts, classes: int) -> Counts:
    """[classes, classes]: row is the true class, column the predicted one."""
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(table: Counts) -> dict[str, Floats]:
    """precision, recall, F1 and support of each class, from :func:`confusion`; 0 where nothing is divided."""
    hits = table.diagonal().astype(np.float64)
    precision = _ratio(hits, table.sum(axis=0))
    recall = _ratio(hits, table.sum(axis=1))
    f1 = _ratio(2 * hits, table.sum(axis=0) + table.sum(axis=1))
    return {"precision": precision, "recall": recall, "f1": f1, "support": table.sum(axis=1).astype(float)}


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann, Whitney, 1947).

    scores: [N]. positive: bool [N]. nan if there are only positives, or only negatives.
    """
    positive = np.asarray(positive, np.bool_)
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, inverse, ties = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[inverse]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def roc_auc_of_classes(scores: Floats, targets: Counts) -> float:
    """Of two classes, that of the second; of more, the mean of one class against the rest."""
    if scores.shape[1] == 2:
        return roc_auc(scores[:, 1], targets == 1)
    return float(np.mean([roc_auc(scores[:, label], targets == label) for label in range(scores.shape[1])]))


def roc_curve(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False and true positive rates, from (0, 0) to (1, 1), one point for each distinct score."""
    false, true = _cumulative(scores, positive)
    zero = np.zeros(1)
    return np.concatenate([zero, false / max(1, false[-1])]), np.concatenate([zero, true / max(1, true[-1])])


def precision_recall_curve(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """Recalls and precisions for falling thresholds, and the average precision, a sum of steps."""
    false, true = _cumulative(scores, positive)
    recall, precision = true / max(1, true[-1]), true / (true + false)
    return recall, precision, float((np.diff(recall, prepend=0.0) * precision).sum())


@dataclass(frozen=True)
class Reliability:
    """Of each bin of confidence: its pictures, their mean confidence, and the share that was right.

    error: expected calibration error, the mean distance of the two, weighted by pictures (Guo et al., 2017,
    https://arxiv.org/abs/1706.04599).
    """

    counts: Counts
    confidence: Floats
    accuracy: Floats
    error: float


def reliability(scores: Floats, targets: Counts, bins: int = 15) -> Reliability:
    """Bins of equal width; confidence is the highest probability."""
    confidence = scores.max(axis=1)
    right = (scores.argmax(axis=1) == targets).astype(np.float64)
    # Right-closed as in the paper, ((m - 1) / M, m / M].
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(number, minlength=bins)
    mean_confidence = _ratio(np.bincount(number, confidence, bins), counts)
    mean_right = _ratio(np.bincount(number, right, bins), counts)
    error = float((counts * np.abs(mean_confidence - mean_right)).sum() / len(scores))
    return Reliability(counts, mean_confidence, mean_right, error)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, 1927); sensible near 0 and 1 too."""
    share = successes / trials
    centre = share + _Z**2 / (2 * trials)
    half = _Z * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def bootstrap(
    statistic: Callable[[Counts], float], targets: Counts, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval (Efron, 1979) of a statistic of pictures, given their indices.

    Each class is resampled by itself, so that none is ever missing.
    """
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    found = [
        statistic(np.concatenate([random.choice(own, len(own)) for own in classes])) for _ in range(resamples)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def brief(logits: ArrayLike, targets: Counts) -> dict[str, float]:
    """What is looked at after each epoch."""
    logits = np.asarray(logits, np.float64)
    return {
        "loss": log_loss(logits, targets),
        "accuracy": float((logits.argmax(axis=1) == targets).mean()),
        "roc_auc": roc_auc_of_classes(probabilities(logits), targets),
    }


def full(logits: ArrayLike, targets: Counts, labels: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """All of it, JSON-able. Intervals are of 95 %, and hold for pictures like these."""
    logits = np.asarray(logits, np.float64)
    scores, predicted = probabilities(logits, temperature), logits.argmax(axis=1)
    table = confusion(targets, predicted, len(labels))
    of_class = per_class(table)
    weights = of_class["support"] / of_class["support"].sum()
    names = ("precision", "recall", "f1")
    right = int((predicted == targets).sum())
    return {
        "pictures": len(targets),
        "accuracy": right / len(targets),
        "accuracy_interval": wilson(right, len(targets)),
        "roc_auc": roc_auc_of_classes(scores, targets),
        "roc_auc_interval": bootstrap(lambda i: roc_auc_of_classes(scores[i], targets[i]), targets),
        "loss": log_loss(logits, targets),
        "calibrated_loss": log_loss(logits, targets, temperature),
        "ece": reliability(probabilities(logits), targets).error,
        "calibrated_ece": reliability(scores, targets).error,
        "classes": {
            label: {name: float(values[i]) for name, values in of_class.items()}
            for i, label in enumerate(labels)
        },
        "macro": {name: float(of_class[name].mean()) for name in names},
        "weighted": {name: float(of_class[name] @ weights) for name in names},
        "confusion": table.tolist(),
    }


def _cumulative(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Negatives and positives at or above each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[last].astype(np.float64)
    return last + 1 - true, true


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return result
