"""The figures as a picture: ratios with their spreads and goals, and predictions a second by clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from tests.benchmarks.summary import Line

BETTER, WORSE, OTHER, GOAL = "#2a6f97", "#bc6c25", "#c9c9c9", "#d1495b"


def plot(lines: Sequence[Line], figures: dict[str, Any], heading: str, path: Path) -> None:
    """Write PNG or SVG, by the ending of ``path``. What was not measured has no panel."""
    compared = [line for line in lines if line.ratio is not None and line.ratio > 0]
    ways = figures.get("serving", {}).get("clients")
    heights = [0.3 * len(compared) + 0.8] * bool(compared) + [2.6] * (2 * bool(ways))
    if not heights:
        return
    size = (9, sum(heights) + 0.8)
    figure, grid = plt.subplots(
        len(heights), figsize=size, height_ratios=heights, layout="constrained", squeeze=False
    )
    figure.suptitle(heading, fontsize=9)
    panels = list(grid[:, 0])
    if compared:
        _ratios(panels.pop(0), compared)
    if ways:
        _by_clients(panels.pop(0), ways, "per_second", "predictions a second")
        _by_clients(panels.pop(0), ways, "p99_ms", "99th percentile, ms", log=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _ratios(axes: Axes, lines: Sequence[Line]) -> None:
    """Bars from 1, to the right where ours is better, on a logarithmic axis."""
    axes.set_xscale("log")
    ends = [1.0]
    for row, line in enumerate(lines):
        ratio = line.ratio or 1.0
        axes.barh(row, ratio - 1, left=1, color=BETTER if ratio >= 1 else WORSE, height=0.6)
        if line.spread:
            axes.plot(line.spread, (row, row), color="black", linewidth=1, marker="|")
        known = [ratio, *(line.spread or ())]
        if line.goal.endswith("x"):
            goal = float(line.goal[:-1])
            axes.plot(goal, row, color=GOAL, marker="D", markersize=5, linestyle="none")
            known.append(goal)
        axes.annotate(f"   {ratio:.2f}x", (max(1.0, *known), row), va="center", fontsize=8)
        ends += known
    axes.set_yticks(range(len(lines)), [line.what.strip() for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(min(ends) * 0.8, max(ends) * 2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(
        "how many times better ours is; diamond: the goal; line: the spread of the rounds", fontsize=9
    )
    axes.spines[["top", "right"]].set_visible(False)


def _by_clients(axes: Axes, ways: dict[str, Any], key: str, label: str, *, log: bool = False) -> None:
    width = 0.8 / len(ways)
    clients = list(next(iter(ways.values())))
    for number, (way, found) in enumerate(ways.items()):
        places = [column + (number - (len(ways) - 1) / 2) * width for column in range(len(clients))]
        shade = {"color": OTHER} if way == "LitServe" else {"color": BETTER, "alpha": 0.6 if number else 1.0}
        bars = axes.bar(places, [found[count][key] for count in clients], 0.95 * width, label=way, **shade)
        axes.bar_label(bars, fmt=lambda value: f"{value:.0f}" if value >= 100 else f"{value:.3g}", fontsize=7)
    axes.set_xticks(range(len(clients)), [f"{count} client{'s' * (count != '1')}" for count in clients])
    axes.set_ylabel(label)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(y=0.2)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
