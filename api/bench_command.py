"""``pawlens bench``: what this machine can do, and what a number of jobs a day needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from api.programs import become, options
from core.openmp import brief_waiting

if TYPE_CHECKING:
    from core.capacity import Figures, Plan

app = typer.Typer(help="Check and measure a machine, and plan how many are needed.", no_args_is_help=True)

EXAMPLE = Path(__file__).parent / "page" / "examples" / "bengal.webp"

Day = Annotated[float, typer.Option(min=0, metavar="N")]


@app.command()
def engine(
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", show_default="the setting")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32 or bf16.", show_default="the setting")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="MANIFEST", help="Of the network.", show_default="the setting")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Decode and explain this one.", exists=True)
    ] = None,
    largest_batch: Annotated[
        int | None, typer.Option(min=1, help="Of pictures.", show_default="256 on CUDA, else 32")
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="By torch.compile.", show_default="the setting"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Each figure once.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
) -> None:
    """Check the network against float32 on this machine, and measure predictions and explanations.

    Takes two to three minutes on two cores; it runs alone, without a service. The status is 1 if a check
    fails.
    """
    from api.cli import load_settings  # noqa: PLC0415

    settings = load_settings(device=device, precision=precision, weights=weights, compile=compiled)
    given = {
        "weights": settings.weights,
        "device": settings.device,
        "precision": settings.precision,
        "explained": picture or EXAMPLE,
        "photo": picture,
        "largest-batch": largest_batch,
        "threads": settings.threads,
        "json": json,
    }
    flags = ["--compile"] * settings.compile + ["--quick"] * quick
    become("core.measure", *options(given), *flags, environment=brief_waiting(os.environ))


@app.command()
def plan(
    predictions_per_day: Day = 0,
    explanations_per_day: Day = 0,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of `pawlens bench engine --json` or `make bench`."),
    ] = None,
    peak_factor: Annotated[
        float, typer.Option(min=1, help="Arrivals in the busiest hour, in those of the mean hour.")
    ] = 4,
    methods: Annotated[str, typer.Option(help="Of an explanation: names, separated by commas.")] = "all",
    picture_kb: Annotated[float, typer.Option(min=0, help="Mean size of a picture's file.")] = 400,
    retention_days: Annotated[
        float | None, typer.Option(min=0, help="Days that jobs are kept.", show_default="the setting")
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Share of the peak hour that workers may be busy.")
    ] = 0.7,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of one machine or GPU, in any currency.")
    ] = None,
) -> None:
    """Say how many workers, how much disk and what money so many jobs a day need; see docs/capacity.md."""
    from api.cli import load_settings  # noqa: PLC0415
    from core.capacity import Demand, Figures  # noqa: PLC0415
    from core.capacity import plan as planned  # noqa: PLC0415

    if predictions_per_day + explanations_per_day == 0:
        _refuse("Say how many: --predictions-per-day N, --explanations-per-day M, or both.")
    days = load_settings().retention_days if retention_days is None else retention_days
    if days == 0:
        _refuse("Jobs kept for ever need disk without end: give --retention-days.")
    demand = Demand(
        predictions_per_day=predictions_per_day,
        explanations_per_day=explanations_per_day,
        peak_factor=peak_factor,
        retention_days=days,
        methods=() if methods == "all" else tuple(name.strip() for name in methods.split(",")),
        picture_bytes=round(picture_kb * 1000),
        utilisation=utilisation,
        price_per_hour=price_per_hour,
    )
    try:
        found = Figures.read(figures)
        _show(planned(demand, found), found, are_shipped=figures is None)
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        _refuse(f"{figures or ''} {error}".strip())


def _show(made: Plan, figures: Figures, *, are_shipped: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from api.plan_table import plan_table  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console.width = 120  # a pipe has 80, and the table would be cut
    console.print(plan_table(made, figures))
    if are_shipped:
        console.print(
            f"These figures are not of your machine: they come with Pawlens and were measured on a "
            f"{figures.engine.described} at {figures.engine.measured_at}.\nMeasure yours: "
            "pawlens bench engine --json figures.json, then pawlens bench plan --figures figures.json ...",
            highlight=False,
        )


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise typer.Exit(1)
