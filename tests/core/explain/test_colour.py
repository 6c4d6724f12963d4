"""Colours are checked against the published tables themselves, not against what the code drew before."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from core.explain.colour import NonFiniteMap, Scale, kernel_colours, overlay, signed_scale, unsigned_scale

# The ends of ColorBrewer's RdBu and of magma, as published.
DARK_RED, WHITE, DARK_BLUE = (103, 0, 31), (247, 247, 247), (5, 48, 97)
MAGMA_FIRST, MAGMA_LAST = (0, 0, 3), (251, 252, 191)


def test_signed_colours_are_red_for_white_at_zero_and_blue_against() -> None:
    drawn = Scale(2.0, signed=True).colours(np.array([2.0, 0.0, -2.0]))
    assert drawn.dtype == np.uint8
    assert [tuple(colour) for colour in drawn.tolist()] == [DARK_RED, WHITE, DARK_BLUE]


def test_signed_colours_are_saturated_beyond_the_limit() -> None:
    drawn = Scale(1.0, signed=True).colours(np.array([7.0, -1e30]))
    assert [tuple(colour) for colour in drawn.tolist()] == [DARK_RED, DARK_BLUE]


def test_equal_strengths_are_equally_far_from_white() -> None:
    scale = Scale(1.0, signed=True)
    table = colormaps["RdBu_r"].resampled(255)
    for step in range(128):
        strength = step / 127
        both = scale.colours(np.array([strength, -strength]))
        assert both.tolist() == table([127 + step, 127 - step], bytes=True)[:, :3].tolist()


def test_unsigned_colours_are_magma_from_zero_to_the_maximum() -> None:
    values = np.array([[-3.0, 0.0], [2.0, 4.0]], np.float32)
    scale = unsigned_scale([values])
    assert scale == Scale(4.0, signed=False)
    drawn = scale.colours(values)
    assert [tuple(c) for c in drawn.reshape(-1, 3).tolist()] == [
        MAGMA_FIRST,
        MAGMA_FIRST,
        tuple(colormaps["magma"](128, bytes=True)[:3]),
        MAGMA_LAST,
    ]


def test_a_weak_map_that_is_nowhere_zero_is_not_stretched_from_its_minimum() -> None:
    values = np.array([0.9, 1.0])
    first, last = unsigned_scale([values]).colours(values).astype(int)
    assert np.abs(first - last).max() < 60


def test_maps_of_one_row_share_the_largest_maximum() -> None:
    assert unsigned_scale([np.array([1.0]), np.array([[5.0]]), np.array([-9.0])]).limit == 5.0


def test_signed_limit_is_the_99th_percentile_of_the_absolute_values() -> None:
    values = np.concatenate([np.linspace(-1, 1, 2001), [1000.0]])
    assert signed_scale(values).limit == pytest.approx(np.sort(np.abs(values))[1981], rel=1e-3)
    assert signed_scale(values, percentile=100).limit == 1000.0
    assert signed_scale(-values) == signed_scale(values)


def test_a_few_values_among_zeros_set_the_limit_by_their_maximum() -> None:
    values = np.zeros(1000)
    values[3], values[5] = 0.25, -0.5
    assert signed_scale(values).limit == 0.5


@pytest.mark.parametrize("signed", [True, False])
def test_a_flat_map_has_the_colour_of_zero(signed: bool) -> None:
    values = np.zeros((3, 3), np.float32)
    scale = signed_scale(values) if signed else unsigned_scale([values])
    assert scale.flat
    assert set(map(tuple, scale.colours(values).reshape(-1, 3).tolist())) == {
        WHITE if signed else MAGMA_FIRST
    }


def test_a_map_without_positive_values_is_flat_where_only_they_count() -> None:
    assert unsigned_scale([np.array([-1.0, -2.0])]).flat


def test_the_smallest_floats_are_divided_exactly() -> None:
    values = np.array([1e-45, -1e-45, 0], np.float32)
    drawn = signed_scale(values).colours(values)
    assert [tuple(colour) for colour in drawn.tolist()] == [DARK_RED, DARK_BLUE, WHITE]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    values = np.array([0.0, bad], np.float32)
    with pytest.raises(NonFiniteMap, match="cannot be drawn"):
        signed_scale(values)
    with pytest.raises(NonFiniteMap, match="cannot be drawn"):
        unsigned_scale([np.zeros(2), values])
    with pytest.raises(NonFiniteMap, match="cannot be drawn"):
        kernel_colours(np.full((1, 3, 1, 1), bad))


def test_overlay_keeps_the_picture_in_grey_and_the_heat_in_colour() -> None:
    # Pure red, green and blue have the grey levels 76.2, 149.7 and 29.1 by BT.601.
    picture = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    heat = np.array([[[100, 0, 200]] * 3], np.uint8)
    expected = [[round(0.55 * grey + 0.45 * c) for c in (100, 0, 200)] for grey in (76.245, 149.685, 29.07)]
    assert overlay(picture, heat)[0].tolist() == expected
    assert overlay(picture, heat, opacity=1.0).tolist() == heat.tolist()


def test_kernels_keep_their_hue_and_zero_is_mid_grey() -> None:
    kernels = np.zeros((3, 3, 1, 2))
    kernels[0, :, 0, 0] = [2.0, 0.0, -1.0]  # red, no green, less than no blue
    kernels[1, :, 0, 0] = [-2.0, 1.0, 0.0]
    drawn = kernel_colours(kernels)
    assert drawn.shape == (3, 1, 2, 3)
    assert drawn[0, 0, 0].tolist() == [255, 128, 64]
    assert drawn[1, 0, 0].tolist() == [0, 191, 128]
    assert (drawn[2] == 128).all()


def test_kernels_that_are_all_zero_are_grey() -> None:
    assert (kernel_colours(np.zeros((2, 3, 7, 7))) == 128).all()
