from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from core.training.config import Data
from core.training.data import open_pictures
from core.training.normalisation import from_histogram, normalisation

from .conftest import Other

Method = Literal["mean-std", "median-mad"]
Floats = NDArray[np.float64]


def expected(pixels: Floats, method: Method) -> tuple[Floats, Floats]:
    if method == "mean-std":
        return pixels.mean(0), pixels.std(0)
    return np.median(pixels, 0), median_abs_deviation(pixels, 0, scale="normal")


@pytest.mark.parametrize("method", ["mean-std", "median-mad"])
def test_a_histogram_says_all(method: Method) -> None:
    bytes_ = np.random.default_rng(0).normal([90, 120, 200], [20, 40, 60], (5001, 3)).clip(0, 255).astype(int)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in bytes_.T]).astype(float)
    found = from_histogram(counts, method)
    centre, spread = expected(bytes_ / 255, method)
    np.testing.assert_allclose(found.mean, centre, atol=1e-7)
    np.testing.assert_allclose(found.std, spread, atol=1e-7)


def test_pictures_of_one_colour_have_some_spread() -> None:
    counts = np.zeros((3, 256))
    counts[:, 7] = 1
    assert from_histogram(counts, "median-mad").std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize("method", ["mean-std", "median-mad"])
def test_of_the_training_part_alone_and_once(tmp_path: Path, method: Method) -> None:
    pictures = open_pictures(Data(source="generated", per_class=6, validation=0.34, cache=tmp_path), seed=0)
    found = normalisation(pictures, method, tmp_path)
    images = [np.asarray(pictures.source.picture(int(i))) / 255 for i in pictures.part("train")]
    if method == "mean-std":
        # Every picture has the same weight, whatever its size.
        mean = np.mean([image.mean((0, 1)) for image in images], 0)
        np.testing.assert_allclose(found.mean, mean, atol=1e-7)
    (file,) = tmp_path.glob("normalisation-*.json")
    stored = json.loads(file.read_text())
    assert stored["method"] == method
    file.write_text(json.dumps(stored | {"mean": [0.1, 0.2, 0.3]}))
    assert normalisation(pictures, method, tmp_path).mean == (0.1, 0.2, 0.3)


def test_two_runs_measure_at_the_same_time(tmp_path: Path, at_the_same_time: Callable[[Other], None]) -> None:
    pictures = open_pictures(Data(source="generated", per_class=6, validation=0.34, cache=tmp_path), seed=0)
    cache = tmp_path / "shared"
    found = []
    at_the_same_time(lambda: found.append(normalisation(pictures, "mean-std", cache)))
    found.append(normalisation(pictures, "mean-std", cache))
    theirs, ours = found
    assert ours == theirs == normalisation(pictures, "mean-std", cache)
    assert len(list(cache.iterdir())) == 1
