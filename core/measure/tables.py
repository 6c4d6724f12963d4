"""The figures of one machine for a person."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table

MIB = 1 << 20


def tables(figures: dict[str, Any]) -> list[RenderableType]:
    return [_machine(figures), _checks(figures), _rates(figures), _explanations(figures)]


def _machine(figures: dict[str, Any]) -> Table:
    machine, engine, model = figures["machine"], figures["engine"], figures["model"]
    load = machine["load"][0]
    busy = "; it was busy with something else, so these figures are too low" if load > 0.5 else ""
    accelerator = machine["accelerator"]
    table = Table(show_header=False, title="Machine and engine", title_justify="left")
    memory = f"{machine['memory_bytes'] / (1 << 30):.0f} GiB"
    table.add_row("machine", f"{machine['processor']}, {machine['cores']} cores, {memory}")
    table.add_row("load before", f"{load:.1f}{busy}")
    if accelerator:
        table.add_row(
            "accelerator",
            f"{accelerator['name']}, {accelerator['memory_bytes'] / (1 << 30):.0f} GiB, "
            f"driver {accelerator.get('driver', 'unknown')}, CUDA {accelerator['cuda']}",
        )
    table.add_row("torch", machine["torch"])
    table.add_row("network", f"{model['name']} at {model['size']} pixels, {model['sha256'][:12]}")
    table.add_row("device", f"{engine['device']}, {engine['threads']} threads")
    table.add_row("precision", f"{engine['precision']}: {engine['why']}")
    table.add_row("compiled", _compiled(engine))
    first = engine["first_prediction_seconds"]
    table.add_row("start", f"loaded in {engine['load_seconds']:.1f} s, first prediction {first:.2f} s")
    for phase, peak in figures["peak_bytes"].items():
        parts = [f"{name.replace('_', ' ')} {bytes_ // MIB} MiB" for name, bytes_ in peak.items()]
        table.add_row(f"peak memory, {phase}", ", ".join(parts))
    return table


def _compiled(engine: dict[str, Any]) -> str:
    compiled = engine.get("compile")
    return f"{compiled['state']}: {compiled['why']}" if compiled else "no; ask for it with --compile"


def _checks(figures: dict[str, Any]) -> Table:
    table = Table("check", "", "found", title="Is it right?", title_justify="left")
    for check in figures["checks"]:
        table.add_row(check["name"], "[green]ok" if check["passed"] else "[red]FAILED", check["detail"])
    return table


def _rates(figures: dict[str, Any]) -> Table:
    table = Table("batch", "pictures/s", "median", "slowest", "ms a batch", title_justify="left")
    table.title = "Predictions, in the fastest round"
    for rate in figures["rates"]:
        mark = "  best" if rate["batch"] == figures["best_batch"] else ""
        speeds = (f"{rate[key]:.1f}" for key in ("pictures_per_second", "median", "lowest", "milliseconds"))
        table.add_row(f"{rate['batch']}{mark}", *speeds)
    whole = figures["from_bytes"]
    table.add_row(f"{figures['best_batch']}, from files", f"{whole['pictures_per_second']:.1f}")
    table.caption = (
        f"Files: {whole['photo']}; {whole['decode_milliseconds']:.1f} ms to decode one on one core; "
        f"with {whole['cores']} cores side by side {whole['decode_share']:.0%} of the time"
    )
    return table


def _explanations(figures: dict[str, Any]) -> Table:
    table = Table("method", "s", "median", "slowest", "first", "precision", "files, kB", title_justify="left")
    table.title = "Explanations with drawing, in the fastest round"
    total = bytes_ = 0.0
    for name, cost in figures["explain"].items():
        size = sum(cost["artifact_bytes"].values())
        total, bytes_ = total + cost["seconds"], bytes_ + size
        seconds = (f"{cost[key]:.2f}" for key in ("seconds", "median", "highest", "first"))
        table.add_row(name, *seconds, cost["precision"], f"{size / 1000:.0f}")
    table.add_row("all five", f"{total:.2f}", "", "", "", "", f"{bytes_ / 1000:.0f}")
    return table
