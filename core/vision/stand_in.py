"""An engine without a network, for load and fault tests of everything around it (PAWLENS_ENGINE=stand-in).

Its predictions are nonsense, but always the same nonsense for the same bytes, so that a test can tell whether
each picture got its own answer. It imports no torch and decodes nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.vision.manifest import InputFormat, Manifest, read_manifest
from core.vision.prediction import Prediction

_MANIFEST = Manifest(
    name="stand-in",
    version="1",
    labels=("cat", "dog"),
    input=InputFormat(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    weights="stand-in.safetensors",
    sha256=hashlib.sha256(b"").hexdigest(),
    provenance="No weights: predictions are derived from the SHA-256 of the picture's bytes.",
)


class StandInEngine:
    """An :class:`~core.vision.prediction.ImageEngine` that hashes; without a manifest, cat and dog."""

    def __init__(
        self,
        manifest_path: str | Path | None = None,
        *,
        max_batch: int = 64,
        seconds_per_batch: float = 0.0,
    ) -> None:
        self.manifest = _MANIFEST if manifest_path is None else read_manifest(manifest_path)
        self.max_batch = max_batch
        self.seconds_per_batch = seconds_per_batch
        self.report: dict[str, Any] = {
            "device": "none",
            "precision": "none",
            "why": "stand-in engine: predictions are derived from a hash, not from the picture",
            "max_batch": max_batch,
            "load_seconds": 0.0,
        }

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """The SHA-256 of ``data``, repeated to the form of a picture: uint8 [32, 32, 3]."""
        return np.resize(np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8), (32, 32, 3))

    def predict(self, batch: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Logits in [-4, 4) from the digests; sleeps ``seconds_per_batch`` per ``max_batch`` of them."""
        time.sleep(self.seconds_per_batch * -(-len(batch) // self.max_batch))
        classes = len(self.manifest.labels)
        return [
            Prediction.from_logits(picture.reshape(-1)[:classes] / 32.0 - 4.0, self.manifest)
            for picture in batch
        ]
