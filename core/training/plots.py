"""Pictures of an evaluation, as PNG. Figures are made without pyplot, whose state all threads share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.training import metrics
from core.training.metrics import Counts, Floats

_NAMED = 10  # more curves than this are not told apart by a legend


def roc(scores: Floats, targets: Counts, labels: Sequence[str]) -> bytes:
    """True against false positive rate (Fawcett, 2006); of two classes one curve says all."""
    figure, axes = _figure()
    for label, name in _curves(labels):
        false, true = metrics.roc_curve(scores[:, label], targets == label)
        area = metrics.roc_auc(scores[:, label], targets == label)
        axes.plot(false, true, label=f"{name}: {area:.4f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, and the area below")
    return _finished(figure, axes, len(labels))


def precision_recall(scores: Floats, targets: Counts, labels: Sequence[str]) -> bytes:
    """Every class: unlike the ROC, this curve differs between two classes."""
    figure, axes = _figure()
    for label, name in enumerate(labels):
        recall, precision, area = metrics.precision_recall_curve(scores[:, label], targets == label)
        axes.step(recall, precision, where="pre", label=f"{name}: {area:.4f}")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall, average precision")
    return _finished(figure, axes, len(labels))


def confusion(table: Counts, labels: Sequence[str]) -> bytes:
    """Counts; colours are shares of the true class."""
    figure, axes = _figure(5 + 0.25 * max(0, len(labels) - 8))
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        if table[row, column] or len(labels) <= _NAMED:
            ink = "white" if shares[row, column] > 0.5 else "black"
            size = 12 if len(labels) <= _NAMED else 6
            axes.text(
                column, row, str(table[row, column]), ha="center", va="center", color=ink, fontsize=size
            )
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 4 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")
    return _png(figure)


def reliability(before: metrics.Reliability, after: metrics.Reliability) -> bytes:
    """How often the network is right against how sure it is; on the diagonal scores are probabilities."""
    figure, axes = _figure()
    for found, name in ((before, "temperature 1"), (after, "calibrated")):
        filled = found.counts > 0
        axes.plot(
            found.confidence[filled],
            found.accuracy[filled],
            marker="o",
            label=f"{name}: ECE {found.error:.4f}",
        )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability")
    return _finished(figure, axes, 2)


def history(epochs: Sequence[dict[str, Any]]) -> bytes:
    """Losses and accuracy by epoch; lines mark where a stage begins."""
    figure, axes = _figure()
    for name, label, colour in (
        ("train_loss", "loss, training", "0.6"),
        ("validation_loss", "loss, validation", "C0"),
        ("validation_accuracy", "accuracy, validation", "C1"),
    ):
        # Not every epoch is validated.
        points = [(number, epoch[name]) for number, epoch in enumerate(epochs, 1) if name in epoch]
        axes.plot(
            *zip(*points, strict=True), label=label, color=colour, marker="." if len(points) < 50 else ""
        )
    for number, (before, after) in enumerate(pairwise(epochs), 1):
        if after["stage"] != before["stage"]:
            axes.axvline(number + 0.5, color="0.8", linewidth=1)
    axes.set(xlabel="epoch", title="Training")
    return _finished(figure, axes, 3)


def grid(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int = 6) -> bytes:
    """Pictures [S, S, 3] with a line below each."""
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2 * columns, 2.35 * rows), layout="constrained")
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(caption, fontsize=8)
    return _png(figure)


def _curves(labels: Sequence[str]) -> list[tuple[int, str]]:
    return [(1, labels[1])] if len(labels) == 2 else list(enumerate(labels))


def _figure(side: float = 5.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(side, side), layout="constrained")
    return figure, figure.add_subplot()


def _finished(figure: Figure, axes: Axes, curves: int) -> bytes:
    if curves <= _NAMED:
        axes.legend(loc="best", fontsize=9)
    axes.grid(color="0.92")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
