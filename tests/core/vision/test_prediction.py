from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from core.vision.manifest import InputFormat, Manifest
from core.vision.prediction import Prediction


def manifest(labels: tuple[str, ...], temperature: float = 1.0) -> Manifest:
    return Manifest(
        name="test",
        version="1",
        labels=labels,
        input=InputFormat(size=32, mean=(0, 0, 0), std=(1, 1, 1)),
        temperature=temperature,
        weights="test.safetensors",
        sha256="0" * 64,
    )


def test_two_classes_by_hand() -> None:
    prediction = Prediction.from_logits([1.0, 3.0], manifest(("cat", "dog"), temperature=2.0))
    assert prediction.label == "dog"
    assert prediction.margin == 2.0
    assert prediction.logits == [1.0, 3.0]
    assert prediction.scores["dog"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert sum(prediction.scores.values()) == pytest.approx(1)
    assert json.loads(json.dumps(asdict(prediction))) == asdict(prediction)


def test_three_classes_by_hand() -> None:
    prediction = Prediction.from_logits([2.0, 1.0, 1.0], manifest(("cat", "dog", "fox")))
    assert prediction.label == "cat"
    assert prediction.margin == pytest.approx(2.0 - (1.0 + math.log(2)))
    # The margin is the log-odds of the score at temperature 1.
    score = prediction.scores["cat"]
    assert prediction.margin == pytest.approx(math.log(score / (1 - score)))


def test_temperature_changes_scores_and_nothing_else() -> None:
    sharp = Prediction.from_logits([0.5, -1.0], manifest(("cat", "dog"), temperature=0.5))
    flat = Prediction.from_logits([0.5, -1.0], manifest(("cat", "dog"), temperature=5.0))
    assert sharp.scores["cat"] > flat.scores["cat"] > 0.5
    assert (sharp.label, sharp.margin, sharp.logits) == (flat.label, flat.margin, flat.logits)


def test_large_logits_do_not_overflow() -> None:
    prediction = Prediction.from_logits([-1e4, 1e4], manifest(("cat", "dog")))
    assert prediction.scores == {"cat": 0.0, "dog": 1.0}
    assert prediction.margin == 2e4
