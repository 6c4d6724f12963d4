"""Explanations without a network, for load and fault tests (PAWLENS_ENGINE=stand-in). Imports no torch.

They are nonsense, the same for the same picture, and take their time in chunks as the real ones do.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from core.explain.explanation import Explanation, Floats, Layer, Progress, Target
from core.explain.options import ExplainOptions
from core.vision.stand_in import StandInEngine

CHUNKS = 8


class StandInExplainer:
    """An :class:`~core.explain.explanation.Explainer` that hashes."""

    def __init__(self, engine: StandInEngine, *, seconds_per_method: float = 0.0) -> None:
        self._engine = engine
        self._seconds = seconds_per_method

    def explain(
        self, method: str, picture: NDArray[np.uint8], options: ExplainOptions, progress: Progress
    ) -> Explanation:
        prediction = self._engine.predict([picture])[0]
        label = options.target or prediction.label
        row = picture[0, :, 0].astype(np.float32) / 128 - 1
        values: Floats = np.outer(row, np.roll(row, len(method))).astype(np.float32)
        for chunk in range(CHUNKS):
            progress(chunk, CHUNKS, values * ((chunk + 1) / CHUNKS))
            time.sleep(self._seconds / CHUNKS)
        return Explanation(
            method=method,
            target=Target(
                label=label,
                index=self._engine.manifest.labels.index(label),
                margin=prediction.margin,
                probability=prediction.scores[label],
            ),
            attribution=values,
            layers=(Layer("stand-in", values),),
            quality={"completeness_error": 0.0, "converged": True},
            provenance={"engine": "stand-in"},
        )
