"""What an engine answers, and what a worker may ask of one. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.vision.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class of one picture.

    scores: probability of each label, softmax(logits / temperature); they sum to 1.
    margin: log-odds of ``label`` at temperature 1: its logit less the logsumexp of the others. Unlike a
        probability it does not saturate, so that explanations explain this number. Never negative for two
        classes.
    logits: one per class, in the order of the manifest's labels.
    """

    label: str
    scores: dict[str, float]
    margin: float
    logits: list[float]

    def shown(self) -> dict[str, Any]:
        """What a client sees of it."""
        return {"label": self.label, "scores": self.scores, "margin": self.margin}

    @classmethod
    def from_logits(cls, logits: ArrayLike, manifest: Manifest) -> Prediction:
        """``logits``: [number of labels], finite."""
        z = np.asarray(logits, dtype=np.float64)
        best = int(z.argmax())
        scaled = np.exp((z - z[best]) / manifest.temperature)
        scores = scaled / scaled.sum()
        others = np.delete(z, best)
        return cls(
            label=manifest.labels[best],
            scores=dict(zip(manifest.labels, scores.tolist(), strict=True)),
            margin=float(z[best] - np.logaddexp.reduce(others)),
            logits=z.tolist(),
        )


class ImageEngine(Protocol):
    """Turns pictures into predictions. One thread at a time may call ``predict``."""

    manifest: Manifest
    max_batch: int
    report: dict[str, Any]

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """A picture's bytes -> uint8 [size, size, 3]. Raises InvalidImage or UnsupportedMediaType."""
        ...

    def predict(self, batch: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """One prediction for each prepared picture, in order; a batch of any length, also 0."""
        ...
