"""``pawlens train`` and ``pawlens evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from api.programs import become, options

PANEL = "Training"

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/tiny.yaml.")]
Data = Annotated[
    str | None, typer.Option(metavar="PATH", help="Folder or archive of class folders, for data.path.")
]
Change = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be repeated.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def add_to(app: typer.Typer) -> None:
    for command in (train, evaluate):
        app.command(rich_help_panel=PANEL)(command)


def train(
    config: Config,
    data: Data = None,
    change: Change = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, and lose what was done.")] = False,
) -> None:
    """Train a network from scratch; run again, it goes on where it was stopped or killed."""
    become("core.training.train", config, *_common(data, change, device), *(["--fresh"] if fresh else []))


def evaluate(
    config: Config,
    data: Data = None,
    change: Change = None,
    device: Device = "auto",
    weights: Annotated[
        str | None, typer.Option(metavar="MANIFEST", help="Measure these, and leave them as they are.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="validation, test or all.", show_default="test")] = None,
    sizes: Annotated[str | None, typer.Option(metavar="PIXELS,...", help="Choose the input size.")] = None,
    scales: Annotated[str | None, typer.Option(metavar="SCALE,...", help="Choose the resize scale.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="For the report.")] = None,
) -> None:
    """Measure weights, calibrate a run's own, and write a report as HTML and JSON."""
    given = {"weights": weights, "part": part, "sizes": sizes, "scales": scales, "out": out}
    become("core.training.evaluate", config, *_common(data, change, device), *options(given))


def _common(data: str | None, changes: Sequence[str] | None, device: str) -> list[str]:
    return [
        *options({"device": device, "data": data}),
        *(word for change in changes or () for word in ("--set", change)),
    ]
