"""Setting a page: text, pictures, colour bars, in rows and columns, from top to bottom.

Everything is a Pillow image on the page's own background, made to measure and then put together. A matplotlib
Figure would do the same in several times the time, and most of its conveniences come through pyplot and
rcParams, which threads share. Fonts are DejaVu, which matplotlib carries along, so that a page looks the same
on every machine.

1200 pixels wide: a phone shows a third of that, so nothing that matters is set smaller than 26.
"""

from __future__ import annotations

# ruff: noqa: RUF001, RUF002 - minus and times are set as what they are, not as hyphen and x
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.explain.colour import Numbers, Pixels, Scale, overlay

MARGIN = 48
WIDTH = 1200 - 2 * MARGIN  # between the margins

PAPER, INK, MUTED, LINE = "#fcfcfa", "#1d2430", "#626b78", "#d9dbd6"

TITLE, BODY, SMALL = 50, 30, 26


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    # Raqm, where it is installed, would set some letters by a fraction of a pixel elsewhere.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def text(
    words: str,
    size: int = BODY,
    *,
    width: int = WIDTH,
    bold: bool = False,
    ink: str = INK,
    align: Literal["left", "right"] = "left",
) -> Image.Image:
    """A paragraph, wrapped to ``width``; a line feed begins a new line."""
    font = _font(size, bold)
    lines = [line for part in words.split("\n") for line in _wrapped(part, font, width)]
    leading = round(1.42 * size)
    block = blank(width, leading * len(lines))
    draw = ImageDraw.Draw(block)
    x, anchor = (0, "ls") if align == "left" else (width, "rs")
    for index, line in enumerate(lines):
        # On the baseline: centred lines would jump with their descenders.
        draw.text((x, index * leading + round(1.05 * size)), line, font=font, fill=ink, anchor=anchor)
    return block


def _wrapped(words: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    line = ""
    for word in words.split(" "):  # not split(): that would take non-breaking spaces for breaks
        if line and font.getlength(f"{line} {word}") <= width:
            line = f"{line} {word}"
            continue
        if line:
            yield line
        *full, line = _broken(word, font, width)
        yield from full
    yield line


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """One word in as many pieces as it takes: names of classes may be anything."""
    if font.getlength(word) <= width:
        return [word]
    pieces = [word[0]]
    for letter in word[1:]:
        if font.getlength(pieces[-1] + letter) <= width:
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def framed(image: Image.Image) -> Image.Image:
    """With a hairline around it, inside: maps that are white at the edge would run out into the paper."""
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=LINE)
    return image


def photo(pixels: Pixels, side: int) -> Image.Image:
    """uint8 [H, W, 3] -> a square of ``side``."""
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def enlarged(values: Numbers, side: int) -> Numbers:
    """Numbers [H, W] at another resolution, bilinear. Colours come after, so that none is shown that is not
    on the scale: half-way between red and blue would be violet."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def heat(values: Numbers, scale: Scale, side: int) -> Image.Image:
    """Numbers [H, W] as a square of ``side``."""
    return framed(Image.fromarray(scale.colours(enlarged(values, side))))


def laid(values: Numbers, picture: Pixels, scale: Scale, side: int) -> Image.Image:
    """Numbers [H, W] laid over the picture in grey."""
    colours = scale.colours(enlarged(values, side))
    return framed(Image.fromarray(overlay(np.asarray(photo(picture, side)), colours)))


def cells(pixels: Pixels, side: int) -> Image.Image:
    """uint8 [h, w, 3] -> a square of ``side`` in which every cell of the grid can be told apart."""
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def captioned(image: Image.Image, caption: str, size: int = SMALL) -> Image.Image:
    return column([image, text(caption, size, width=image.width, ink=MUTED)], gap=6)


def row(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Side by side, tops aligned."""
    block = blank(sum(i.width for i in images) + gap * (len(images) - 1), max(i.height for i in images))
    x = 0
    for image in images:
        block.paste(image, (x, 0))
        x += image.width + gap
    return block


def column(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """One below the other, left edges aligned."""
    block = blank(max(i.width for i in images), _height(images, gap))
    _stack(images, gap, block, 0)
    return block


def _height(images: Sequence[Image.Image], gap: int) -> int:
    return sum(i.height for i in images) + gap * (len(images) - 1)


def _stack(images: Sequence[Image.Image], gap: int, onto: Image.Image, margin: int) -> None:
    y = margin
    for image in images:
        onto.paste(image, (margin, y))
        y += image.height + gap


def grid(images: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    starts = range(0, len(images), columns)
    return column([row(images[start : start + columns], gap) for start in starts], gap)


def side_of(columns: int, gap: int, width: int = WIDTH) -> int:
    """Of squares that fill ``width``."""
    return (width - gap * (columns - 1)) // columns


def rule() -> Image.Image:
    return Image.new("RGB", (WIDTH, 2), LINE)


def colour_bar(scale: Scale, low: str, high: str, width: int = WIDTH) -> Image.Image:
    """The scale with its numbers; ``low`` and ``high`` say what its ends mean.

    There is nothing to read from the colours of a flat map, so it has no bar.
    """
    ends = np.linspace(-scale.limit if scale.signed else 0, scale.limit, width)
    bar = framed(Image.fromarray(np.tile(scale.colours(ends), (26, 1, 1))))
    labels = blank(width, 46)
    draw, font = ImageDraw.Draw(labels), _font(SMALL, bold=False)
    last = number(scale.limit)
    draw.text((0, 24), f"−{last}  {low}" if scale.signed else f"0  {low}", font=font, fill=MUTED, anchor="lm")
    draw.text((width, 24), f"{high}  {'+' if scale.signed else ''}{last}", font=font, fill=MUTED, anchor="rm")
    if scale.signed:
        draw.text((width / 2, 24), "0", font=font, fill=MUTED, anchor="mm")
    return column([bar, labels], gap=0)


def number(value: float) -> str:
    """Two significant digits, in the way they are written by hand: 0.012, 3.8, 1.2 × 10⁻⁵."""
    if value == 0:
        return "0"
    exponent = int(f"{abs(value):.1e}".partition("e")[2])
    if -4 < exponent < 4:
        return f"{value:.{max(0, 1 - exponent)}f}".replace("-", "−")
    digits = f"{value / 10.0**exponent:.1f}" if exponent > -300 else f"{value:.1e}".partition("e")[0]
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits}\u00a0×\u00a010{raised}".replace("-", "−")


def page(blocks: Sequence[Image.Image], gap: int = 30) -> Image.Image:
    """The blocks, one below the other, within the margins."""
    whole = blank(WIDTH + 2 * MARGIN, _height(blocks, gap) + 2 * MARGIN)
    _stack(blocks, gap, whole, MARGIN)
    return whole
