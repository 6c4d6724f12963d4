"""The page that a person looks at: what is common to all methods, and maps of the picture."""

from __future__ import annotations

# ruff: noqa: RUF001 - the sign between width and height is meant
from typing import Any

import numpy as np
from PIL import Image

from core.explain import layout, tiles, words
from core.explain.colour import Numbers, Pixels, Scale, signed_scale
from core.explain.explanation import Explanation
from core.explain.layout import MUTED, SMALL, TITLE, WIDTH, text

# A large overlay on the left; picture and heat map stacked on the right, together as high, captions included.
_LARGE, _LITTLE, _GAP = 738, 338, 28
_MARKS = {True: ("✓", "#1a7f5a"), False: ("!", "#b3541e"), None: ("•", MUTED)}


def panel(
    explanation: Explanation, picture: Pixels, scale: Scale | None, prediction: dict[str, Any] | None
) -> Image.Image:
    """RGB, 1200 pixels wide and as high as it takes. ``scale`` is the attribution's, if there is one."""
    if explanation.attribution is None or scale is None:
        blocks = [_opening(explanation, picture, prediction)]
    else:
        blocks = [
            _header(explanation, prediction, WIDTH),
            *_attribution(explanation, explanation.attribution, picture, scale),
            _notes(explanation),
        ]
    match explanation.method:
        case "integrated_gradients" if scale is not None and not scale.flat:
            blocks += _squares(explanation, picture)
        case "grad_cam" if explanation.layers:
            blocks += [layout.rule(), *tiles.depths(explanation, picture)]
        case "feature_maps":
            blocks += [tiles.channels(layer) for layer in explanation.layers]
        case "kernels":
            blocks += [tiles.kernels(layer) for layer in explanation.layers]
    return layout.page(blocks)


def _header(explanation: Explanation, prediction: dict[str, Any] | None, width: int) -> Image.Image:
    title = text(words.title(explanation), TITLE, bold=True, width=width)
    return layout.column(
        [title, text(words.decision(explanation, prediction), ink=MUTED, width=width)], gap=4
    )


def _opening(explanation: Explanation, picture: Pixels, prediction: dict[str, Any] | None) -> Image.Image:
    """Where no map lies over the picture: title and explanation, beside the picture if it plays a part."""
    side = 0 if explanation.method == "kernels" else 260
    width = WIDTH - side - _GAP if side else WIDTH
    says = layout.column(
        [
            _header(explanation, prediction, width),
            text(words.reading(explanation), width=width),
        ],
        gap=18,
    )
    return layout.row([layout.framed(layout.photo(picture, side)), says], _GAP) if side else says


def _attribution(
    explanation: Explanation, values: Numbers, picture: Pixels, scale: Scale
) -> list[Image.Image]:
    pictures = layout.row(
        [
            layout.captioned(
                layout.laid(values, picture, scale, _LARGE), "heat map over the picture in grey"
            ),
            layout.column(
                [
                    layout.captioned(layout.framed(layout.photo(picture, _LITTLE)), "what the network saw"),
                    layout.captioned(layout.heat(values, scale, _LITTLE), "heat map"),
                ],
                gap=22,
            ),
        ],
        _GAP,
    )
    label = explanation.target.label
    if scale.flat:
        why = "zero everywhere" if scale.signed else "nowhere positive"
        return [pictures, text(f"No evidence for “{label}”: the map is {why}.", bold=True)]
    bar = layout.colour_bar(scale, f"against {label}" if scale.signed else "", f"for {label}")
    return [pictures, layout.column([bar, text(words.unit(explanation), SMALL, ink=MUTED)], gap=0)]


def _notes(explanation: Explanation) -> Image.Image:
    lines = [text(words.reading(explanation))]
    for passed, sentence in words.findings(explanation):
        sign, ink = _MARKS[passed]
        mark = text(sign, width=40, bold=True, ink=ink)
        lines.append(layout.row([mark, text(sentence, width=WIDTH - 40)], gap=0))
    return layout.column(lines, gap=12)


def _squares(explanation: Explanation, picture: Pixels) -> list[Image.Image]:
    """Attributions of pixels, added up over squares of about 8 x 8. A person cannot add up red and blue dots,
    and completeness makes the sums as meaningful as the parts."""
    assert explanation.attribution is not None
    size = len(explanation.attribution)
    count = max(1, round(size / 8))
    edges = np.linspace(0, size, count, endpoint=False).round().astype(int)
    sums = np.add.reduceat(np.add.reduceat(explanation.attribution, edges, axis=0), edges, axis=1)
    scale = signed_scale(sums)
    if scale.flat:
        return []
    label = explanation.target.label
    side = WIDTH // 2 - _GAP // 2
    says = layout.column(
        [
            text("From further away", bold=True, width=side),
            text(
                f"Single pixels often cancel out. Here they are added up over {count} × {count} squares: "
                f"what is red on balance speaks for “{label}”.",
                width=side,
            ),
            layout.column(
                [
                    layout.colour_bar(scale, "against", "for", side),
                    text("log-odds per square", SMALL, ink=MUTED, width=side),
                ],
                gap=0,
            ),
        ],
        gap=18,
    )
    return [layout.rule(), layout.row([layout.laid(sums, picture, scale, side), says], _GAP)]
