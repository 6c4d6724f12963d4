"""The figures of ``serving`` as tables."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table

OURS, THEIRS = "Pawlens, POST /predict", "LitServe"
NOTE = (
    "Same weights, preprocessing, precision, threads and largest batch; every picture is new.\n"
    "LitServe keeps no record: what it has accepted is lost with its process. Pawlens commits all of it."
)


def tables(figures: dict[str, Any]) -> list[RenderableType]:
    return [_ways(figures), _steps(figures)]


def _ways(figures: dict[str, Any]) -> Table:
    table = Table("clients", "way", "predictions/s", "of each round", "median, ms", "p99, ms", "LitServe's")
    table.title, table.title_justify = "One request, one answer", "left"
    ways = figures["clients"]
    for clients, theirs in ways[THEIRS].items():
        for way, found in ways.items():
            one = found[clients]
            table.add_row(
                clients,
                way,
                f"{one['per_second']:.1f}",
                " ".join(f"{rate:.1f}" for rate in one["per_second_of_each_round"]),
                f"{one['median_ms']:.0f}",
                f"{one['p99_ms']:.0f}",
                "" if way == THEIRS else f"{one['per_second'] / theirs['per_second']:.2f}x",
                end_section=way == THEIRS,
            )
    same = figures["answers"]
    labels = f"Of {same['photos']} photos {same['labels_equal']} have the same label from both"
    table.caption = f"{NOTE}\n{labels}; log-odds differ by {same['max_margin_error']:.2g} at most."
    return table


def _steps(figures: dict[str, Any]) -> Table:
    table = Table("clients", "queued, ms", "decoding, ms", "network, ms", "all else, ms")
    table.title, table.title_justify = f"{OURS}: where the median's time goes", "left"
    for clients, steps in figures["steps"].items():
        rest = figures["clients"][OURS][clients]["median_ms"] - sum(steps.values())
        table.add_row(clients, *(f"{milliseconds:.0f}" for milliseconds in (*steps.values(), rest)))
    table.caption = "All else: the form, checking the picture, two commits, and until the API sees the end."
    return table
