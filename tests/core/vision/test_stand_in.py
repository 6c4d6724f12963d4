from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.vision.prediction import ImageEngine
from core.vision.stand_in import StandInEngine

from .conftest import SHIPPED


def test_it_is_an_engine_and_needs_no_picture() -> None:
    engine: ImageEngine = StandInEngine()
    predictions = engine.predict([engine.prepare(b"no picture"), engine.prepare(b"another")])
    assert predictions == engine.predict([engine.prepare(b"no picture"), engine.prepare(b"another")])
    assert predictions[0] != predictions[1]
    assert sum(predictions[0].scores.values()) == pytest.approx(1)
    assert engine.predict([]) == []


def test_both_labels_are_predicted_about_equally_often() -> None:
    engine = StandInEngine()
    labels = [p.label for p in engine.predict([engine.prepare(str(n).encode()) for n in range(1000)])]
    assert 400 < labels.count("cat") < 600


def test_it_takes_labels_from_a_manifest(small_manifest: Path) -> None:
    engine = StandInEngine(small_manifest)
    prediction = engine.predict([engine.prepare(b"x")])[0]
    assert set(prediction.scores) == {"cat", "dog", "fox"}
    assert StandInEngine(SHIPPED).manifest.name == "resnet101-cat-dog"


def test_it_can_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    engine = StandInEngine(max_batch=4, seconds_per_batch=0.5)
    engine.predict([engine.prepare(b"x")] * 9)
    engine.predict([])
    assert slept == [1.5, 0.0]
