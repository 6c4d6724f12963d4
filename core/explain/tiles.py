"""Rows of tiles for what lies inside the network: depths of Grad-CAM, channels, kernels."""

from __future__ import annotations

# ruff: noqa: RUF001 - the sign between width and height is meant
from collections.abc import Sequence
from itertools import groupby

from PIL import Image, ImageDraw

from core.explain import layout, words
from core.explain.colour import Pixels, Scale, kernel_colours, signed_scale, unsigned_scale
from core.explain.explanation import Explanation, Layer
from core.explain.layout import LINE, MUTED, SMALL, WIDTH, text

_GRID_COLUMNS, _GRID_GAP = 5, 20
_FINE = 22  # pixels; for names of layers and channels only


def depths(explanation: Explanation, picture: Pixels) -> list[Image.Image]:
    """The last layer of every stage over the picture; then the grid of depths, a line or less for each stage.

    Each map is on a scale of its own. Only after the last block is the network linear, so that weight times
    activation adds up to the log-odds; before it that is a first-order estimate, which may be many times as
    large as the log-odds or as small: on one scale the largest would leave the others black.
    """
    layers = explanation.layers
    ends = {words.stage(layer.name): layer for layer in layers}
    columns = max(4, len(ends))
    side = layout.side_of(columns, 20)
    tiles = []
    for end in ends.values():
        scale = unsigned_scale([end.values])
        tiles.append(_depth(layout.laid(end.values, picture, scale, side), words.depth(end.name), scale))
    heading = [text("The end of each stage", bold=True), text(words.DEPTHS, SMALL, ink=MUTED)]
    blocks = [layout.column([layout.column(heading, 2), layout.grid(tiles, columns, 20)], gap=18)]
    if len(layers) > len(ends):
        named = explanation.provenance.get("grid", [layer.name for layer in layers])
        chosen = [layer for layer in layers if layer.name in named]
        stages = [list(group) for _, group in groupby(chosen, _stage)]
        blocks += [layout.row([_stage_of_depths(s) for s in line], _GRID_GAP) for line in _packed(stages)]
    return blocks


def _depth(tile: Image.Image, name: str, scale: Scale) -> Image.Image:
    most = "nowhere positive" if scale.flat else f"up to {layout.number(scale.limit)}"
    return layout.captioned(tile, f"{name}\n{most}", _FINE)


def _packed(stages: Sequence[list[Layer]]) -> list[list[list[Layer]]]:
    """Lines of stages: as many side by side as have room for their tiles, in order."""
    lines: list[list[list[Layer]]] = []
    for stage in stages:
        if lines and sum(map(len, lines[-1])) + len(stage) <= _GRID_COLUMNS:
            lines[-1].append(stage)
        else:
            lines.append([stage])
    return lines


def _stage_of_depths(layers: Sequence[Layer]) -> Image.Image:
    side = layout.side_of(_GRID_COLUMNS, _GRID_GAP)
    columns = min(len(layers), _GRID_COLUMNS)
    width = columns * side + (columns - 1) * _GRID_GAP
    tiles = []
    for layer in layers:
        scale = unsigned_scale([layer.values])
        tiles.append(_depth(layout.heat(layer.values, scale, side), words.block(layer.name), scale))
    rows, cells = layers[0].values.shape
    heading = [
        text(words.depth(_stage(layers[0])), SMALL, bold=True, width=width),
        text(f"{cells} × {rows}", _FINE, ink=MUTED, width=width),
    ]
    return layout.column([layout.column(heading, 2), layout.grid(tiles, columns, _GRID_GAP)], gap=8)


def _stage(layer: Layer) -> str:
    return words.stage(layer.name)


def channels(layer: Layer) -> Image.Image:
    """One scale for the layer; channels that never respond are left empty."""
    maps = layer.values if layer.values.ndim == 3 else layer.values[None]
    scale = unsigned_scale(list(maps))
    side = _tile_side(len(maps))
    tiles = []
    for channel, values in zip(layer.channels or range(len(maps)), maps, strict=True):
        dead = channel in layer.dead
        tile = _empty(side) if dead else layout.framed(layout.cells(scale.colours(values), side))
        tiles.append(layout.captioned(tile, f"{channel}: dead" if dead else f"channel {channel}", _FINE))
    return _band(_grid_of(layer), scale, "", tiles, _columns(len(tiles)))


def kernels(layer: Layer) -> Image.Image:
    """In colour where the layer reads colours, [kernels, 3, h, w]; else one slice each, [kernels, h, w]."""
    weights = layer.values if layer.values.ndim > 2 else layer.values[None]
    count = len(weights)
    scale = signed_scale(weights, percentile=100)
    in_colour = weights.ndim == 4
    drawn = kernel_colours(weights) if in_colour else scale.colours(weights)
    side = _tile_side(count)
    tiles = [
        layout.captioned(layout.framed(layout.cells(kernel, side)), f"kernel {number}", _FINE)
        for number, kernel in zip(layer.channels or range(count), drawn, strict=True)
    ]
    return _band(_grid_of(layer), scale, "grey is 0" if in_colour else "", tiles, _columns(count))


def _columns(count: int) -> int:
    """Six tiles a row are large enough for a phone; of more than 24 the page would grow too long."""
    return 6 if count <= 24 else 12


def _tile_side(count: int) -> int:
    return layout.side_of(_columns(count), 14)


def _grid_of(layer: Layer) -> str:
    height, width = layer.values.shape[-2:]
    return f"{words.depth(layer.name)} · {width} × {height}"


def _band(name: str, scale: Scale, unit: str, tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles under the name of what they share: a layer or a stage, and a scale."""
    limits = text(words.limits(scale), SMALL, ink=MUTED, width=WIDTH // 3, align="right")
    heading = layout.row([text(name, bold=True, width=WIDTH - limits.width), limits], gap=0)
    below = [text(unit, SMALL, ink=MUTED)] if unit else []
    gap = 14 if columns > 5 else 20
    return layout.column([layout.column([heading, *below], 2), layout.grid(tiles, columns, gap)], gap=12)


def _empty(side: int) -> Image.Image:
    """Crossed out: a channel without response is no dark map."""
    tile = layout.blank(side, side)
    draw = ImageDraw.Draw(tile)
    draw.line((0, 0, side, side), fill=LINE, width=2)
    draw.line((0, side, side, 0), fill=LINE, width=2)
    return layout.framed(tile)
