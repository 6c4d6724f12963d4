from __future__ import annotations

# ruff: noqa: RUF001 - typographic minus and times are meant
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from core.explain import layout
from core.explain.colour import Scale
from core.explain.layout import PAPER, number

PAPER_RGB = ImageColor.getrgb(PAPER)


def ink_columns(image: Image.Image) -> np.ndarray:
    return np.flatnonzero((np.asarray(image) != PAPER_RGB).any(axis=(0, 2)))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.0123, "0.012"),
        (3.83, "3.8"),
        (19.6, "20"),
        (99.6, "100"),
        (1234, "1234"),
        (0.0096, "0.0096"),
        (9.6e-4, "9.6\u00a0×\u00a010⁻⁴"),
        (-0.5, "−0.50"),
        (1.2345e-5, "1.2\u00a0×\u00a010⁻⁵"),
        (-9.96e7, "−1.0\u00a0×\u00a010⁸"),
        (5e-324, "4.9\u00a0×\u00a010⁻³²⁴"),
        (3.4e38, "3.4\u00a0×\u00a010³⁸"),
    ],
)
def test_numbers_have_two_significant_digits(value: float, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize("width", [30, 200, 1104])
@pytest.mark.parametrize(
    "words", ["of many short words " * 20, "unbreakable" * 30, "a " + "b" * 400 + " c", ""]
)
def test_text_stays_within_its_width(words: str, width: int) -> None:
    block = layout.text(words, 26, width=width)
    assert block.width == width
    columns = ink_columns(block)
    if words:
        assert columns.size
        # The last pixels of a line that fits are free, so nothing was cut off there.
        assert columns.max() < width - 1 or width == 30
    else:
        assert columns.size == 0


def test_text_is_as_high_as_its_lines() -> None:
    one = layout.text("word", 26).height
    assert layout.text("word\nword\nword", 26).height == 3 * one
    assert layout.text("word " * 500, 26).height > 10 * one


def test_a_non_breaking_space_does_not_break() -> None:
    width = 120  # enough for either word, not for both
    assert layout.text("99.9 percent", 26, width=width).height == 2 * layout.text("99.9", 26).height
    block = layout.text("> 1\u00a0%", 26, width=60)
    assert block.height == 2 * layout.text("1", 26).height


def test_text_is_aligned() -> None:
    assert ink_columns(layout.text("word", width=400)).max() < 150
    assert ink_columns(layout.text("word", width=400, align="right")).min() > 250


def test_rows_and_columns_keep_every_pixel() -> None:
    red, blue = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (30, 40), "blue")
    side_by_side = layout.row([red, blue], gap=5)
    assert side_by_side.size == (55, 40)
    assert side_by_side.getpixel((19, 9)) == (255, 0, 0)
    assert side_by_side.getpixel((22, 5)) == PAPER_RGB
    assert side_by_side.getpixel((25, 39)) == (0, 0, 255)
    stacked = layout.column([red, blue], gap=5)
    assert stacked.size == (30, 55)
    assert stacked.getpixel((0, 15)) == (0, 0, 255)
    assert layout.grid([red] * 5, columns=2, gap=3).size == (43, 36)


def test_where_no_image_is_there_is_paper() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        sizes = random.integers(1, 30, size=(random.integers(1, 6), 2)).tolist()
        images = [Image.new("RGB", (width, height), "red") for width, height in sizes]
        gap = int(random.integers(0, 6))
        side_by_side, stacked = layout.row(images, gap), layout.column(images, gap)
        for block, along in ((side_by_side, 0), (stacked, 1)):
            expected, place = layout.blank(*block.size), [0, 0]
            for image in images:
                expected.paste(image, (place[0], place[1]))
                place[along] += image.size[along] + gap
            np.testing.assert_array_equal(np.asarray(block), np.asarray(expected))


def test_squares_fill_a_row() -> None:
    for columns in (1, 4, 5, 6, 12):
        side = layout.side_of(columns, 14)
        assert layout.WIDTH - columns < columns * side + 14 * (columns - 1) <= layout.WIDTH


def test_numbers_are_enlarged_as_a_network_does_it() -> None:
    values = np.array([[0.0, 1.0], [-2.0, 5.0]], np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(8, 8), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(layout.enlarged(values, 8), expected, atol=1e-6)


def test_colour_bar_runs_from_the_lowest_to_the_highest_colour() -> None:
    scale = Scale(3.0, signed=True)
    bar = np.asarray(layout.colour_bar(scale, "against", "for", 301))[13]
    expected = scale.colours(np.linspace(-3, 3, 301))
    np.testing.assert_array_equal(bar[1:-1], expected[1:-1])  # the frame takes the first and the last
