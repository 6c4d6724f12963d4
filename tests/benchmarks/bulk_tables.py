"""The figures of ``bulk`` as tables."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import RenderableType
from rich.table import Table


def tables(figures: dict[str, Any]) -> list[RenderableType]:
    return [_speed(figures), _processors(figures), _timeline(figures), _memory(figures)]


def _speed(figures: dict[str, Any]) -> Table:
    table = Table("way", "pictures a second", "of the bare network", "rounds", title_justify="left")
    best = figures["best_batch"]
    bare = [speed["rate"] for one in figures["rounds"] for speed in one["bare"]]
    table.title = (
        f"A bulk of {figures['pictures']} photos at {figures['size']} pixels, SQLite, one worker, "
        f"{figures['device'] or 'CPU'}"
    )
    table.add_row(
        f"bare network, batches of {best}",
        f"{statistics.median(bare):.1f}",
        "",
        f"{min(bare):.1f} to {max(bare):.1f} a second",
    )
    for name, found in figures["ratios"].items():
        spread = f"{found['lowest']:.1%} to {found['highest']:.1%}"
        table.add_row(name, f"{found['rate']:.1f}", f"{found['ratio']:.1%}", spread)
    farthest = max(one["whole"]["farthest_score"] for one in figures["rounds"])
    table.add_row("farthest score from the bare network's", f"{farthest:.4f}")
    return table


def _processors(figures: dict[str, Any]) -> Table:
    title = f"Processors' time for a picture; there are {figures['processors']}"
    table = Table("part", "figure", title=title, title_justify="left")
    for name, value in figures["arithmetic"].items():
        table.add_row(name, f"{value:.1%}" if name.startswith("share") else f"{value:.1f} ms")
    return table


def _timeline(figures: dict[str, Any]) -> Table:
    table = Table("step", "under way", "beside the network", "the network waits", title_justify="left")
    table.title = "The worker's time while the batch runs, median of the rounds"
    lines = [one["whole"]["timeline"] for one in figures["rounds"]]

    def median(kind: str, step: str) -> str:
        values = [line[kind][step] for line in lines if step in line[kind]]
        return f"{statistics.median(values):.1%}" if values else ""

    for step in lines[0]["share"]:
        table.add_row(step, *(median(kind, step) for kind in ("share", "overlap", "idle")))
    table.add_row("nothing of these", "", "", median("idle", "nothing"))
    table.add_row("all", "", "", median("idle", "all"))
    return table


def _memory(figures: dict[str, Any]) -> Table:
    table = Table("process", "resident", title="Memory", title_justify="left")
    for name, family in figures["memory"].items():
        for i, resident in enumerate(family):
            table.add_row(f"{name}'s child" if i else name, f"{resident / (1 << 20):.0f} MiB")
    return table
