from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.functional import gaussian_blur

from core.explain.baselines import baseline_picture
from core.explain.explainer import Explainer
from core.explain.options import Baseline


def pixels(explainer: Explainer, name: Baseline, picture: NDArray[np.uint8]) -> np.ndarray:
    """The baseline as grey levels from 0 to 255: [3, S, S]."""
    baseline = explainer.baseline(name, explainer.tensor(picture))[0].numpy()
    statistics = explainer.manifest.input
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (statistics.mean, statistics.std))
    return np.asarray((baseline * std + mean) * 255)


@pytest.mark.parametrize(("name", "level"), [("black", 0.0), ("white", 255.0)])
def test_black_is_black_and_white_is_white(
    explainer: Explainer, picture: NDArray[np.uint8], name: Baseline, level: float
) -> None:
    np.testing.assert_allclose(pixels(explainer, name, picture), level, atol=1e-3)


def test_mean_is_the_mean_colour_of_the_training_set(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    expected = np.array(explainer.manifest.input.mean).reshape(3, 1, 1) * 255
    np.testing.assert_allclose(
        pixels(explainer, "mean", picture), np.broadcast_to(expected, (3, 64, 64)), atol=1e-3
    )


def test_blur_is_a_gaussian_in_pixels_of_a_twentieth_of_the_side(explainer: Explainer) -> None:
    impulse = np.zeros((64, 64, 3), np.uint8)
    impulse[32, 32] = 255
    blurred = pixels(explainer, "blur", impulse)[0]
    assert blurred.sum() == pytest.approx(255, rel=1e-3)
    offsets = np.arange(64) - 32
    variance = (blurred.sum(0) * offsets**2).sum() / blurred.sum()
    assert variance == pytest.approx((64 / 20) ** 2, rel=0.03)


def test_blur_is_torchvisions() -> None:
    pictures = torch.rand(2, 3, 50, 50)
    sigma = 50 / 20
    blurred = baseline_picture("blur", pictures, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(blurred, gaussian_blur(pictures, [17, 17], [sigma, sigma]))


def test_a_flat_picture_is_its_own_blur(explainer: Explainer) -> None:
    flat = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(explainer.baseline("blur", flat), flat)
