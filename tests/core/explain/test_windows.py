from __future__ import annotations

import numpy as np
import pytest

from core.explain.occlusion import mean_over_pixels
from core.explain.windows import Windows

SHAPES = [(64, 32, 16), (64, 20, 13), (64, 64, 16), (40, 512, 8), (33, 5, 4), (224, 32, 16), (10, 4, 4)]


def naive_mean(windows: Windows, values: np.ndarray) -> np.ndarray:
    total, count = np.zeros((2, windows.size, windows.size))
    for number, value in enumerate(values.ravel()):
        top, left = windows.corner(number)
        if not np.isnan(value):
            total[top : top + windows.side, left : left + windows.side] += value
            count[top : top + windows.side, left : left + windows.side] += 1
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


@pytest.mark.parametrize(("size", "window", "stride"), SHAPES)
def test_every_pixel_is_covered_and_no_window_leaves_the_picture(size: int, window: int, stride: int) -> None:
    windows = Windows.over(size, window, stride)
    assert len(windows) == windows.shape[0] * windows.shape[1]
    assert windows.starts[0] == 0
    assert windows.starts[-1] + windows.side == size
    assert np.all(mean_over_pixels(windows, np.ones(windows.shape, np.float32)) == 1)


def test_the_last_window_is_anchored_to_the_edge() -> None:
    assert Windows.over(64, 20, 13).starts == (0, 13, 26, 39, 44)
    assert len(Windows.over(224, 32, 16)) == 169
    assert len(Windows.over(160, 32, 16)) == 81


@pytest.mark.parametrize(("size", "window", "stride"), SHAPES)
def test_the_mean_is_that_of_a_naive_loop(size: int, window: int, stride: int) -> None:
    windows = Windows.over(size, window, stride)
    values = np.random.default_rng(0).normal(size=windows.shape).astype(np.float32)
    np.testing.assert_allclose(mean_over_pixels(windows, values), naive_mean(windows, values), atol=1e-5)
    values.ravel()[::3] = np.nan
    np.testing.assert_allclose(mean_over_pixels(windows, values), naive_mean(windows, values), atol=1e-5)


def test_coarse_windows_are_every_second_and_the_last() -> None:
    windows = Windows.over(64, 20, 13)  # 5 x 5
    assert windows.coarse() == [0, 2, 4, 10, 12, 14, 20, 22, 24]
    even = Windows.over(48, 12, 12)  # 4 x 4
    assert even.coarse() == [0, 2, 3, 8, 10, 11, 12, 14, 15]
    assert Windows.over(64, 64, 16).coarse() == [0]
