"""One line for each figure that has a goal, or is compared with somebody's; from the benchmarks' figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from tests.benchmarks.service import AT_GOAL, GOAL

Figures = dict[str, Any]
COMPARED_AT = "224"
MIB = 1 << 20


@dataclass(frozen=True)
class Line:
    """A row of the table.

    ratio: how many times better ours is than the other, with the lowest and highest of the rounds as spread.
    is_met: whether the goal is; None where there is none.
    """

    what: str
    ours: str
    other: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: str = ""
    is_met: bool | None = None


def summary(figures: Figures) -> list[Line]:
    """The lines of what was measured; a benchmark that was left out, or failed, leaves its lines out."""
    return [line for name, lines in _LINES.items() if name in figures for line in lines(figures[name])]


def table(lines: list[Line]) -> Table:
    shown = Table("what", "ours", "other", "ratio", "spread", "goal", "", title_justify="left")
    shown.title = "All figures. Ratio: how many times better ours is"
    for line in lines:
        mark = {None: "", True: "[green]met", False: "[red]missed"}[line.is_met]
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}x"
        spread = "" if line.spread is None else f"{line.spread[0]:.2f} to {line.spread[1]:.2f}"
        shown.add_row(line.what, line.ours, line.other, ratio, spread, line.goal, mark)
    return shown


# ---- each benchmark's lines


def _explanations(figures: Figures) -> Iterator[Line]:
    found = figures[COMPARED_AT]
    seconds = found["seconds"]

    def line(what: str, ours: str, theirs: str, faster: Figures, goal: float | None) -> Line:
        return Line(
            what,
            f"{seconds[ours]['least']:.2f} s",
            f"{seconds[theirs]['least']:.2f} s",
            faster["ratio"],
            (faster["lowest"], faster["highest"]),
            "" if goal is None else f"{goal:g}x",
            None if goal is None else faster["ratio"] >= goal,
        )

    original = found["against_the_original"]
    what = f"five explanations / original, {COMPARED_AT} px"
    yield line(what, "all five", "original all five", original["all five"], 40)
    for name in (name for name in original if name != "all five"):
        yield line(f"   {name} / original", name, f"original {name}", original[name], None)
    # Integrated Gradients with the steps that give captum our tolerance, and with those that are usual.
    captum = found["against_captum"]
    for name in sorted(captum, key=lambda name: float(seconds[f"captum {name}"]["least"])):
        yield line(f"{name} / captum", name.split()[0], f"captum {name}", captum[name], 8)
    checks = found["checks"]
    error = checks["integrated_gradients"]["ours"]["completeness_error"]
    yield Line("   same run: completeness error", f"{error:.2%}", goal="1 %", is_met=error <= 0.01)
    rank = checks["occlusion_rank_correlation_with_captum"]
    what = "   same run: occlusion's rank correlation"
    yield Line(what, f"{rank:.4f}", goal="0.99", is_met=rank >= 0.99)


def _fidelity(figures: Figures) -> Iterator[Line]:
    converged, photos = figures["certificates"]["converged"], figures["photos"]
    what = "photos with certified gradients"
    yield Line(what, f"{converged}", goal=f"{photos}", is_met=converged == photos)
    for method in ("grad_cam", "integrated_gradients", "occlusion"):
        better = figures["methods"][method]["better_deletion_than_random"]
        what = f"   deletion beats chance, {method}"
        yield Line(what, f"{better}", goal=f"most of {photos}", is_met=2 * better > photos)


def _bulk(figures: Figures) -> Iterator[Line]:
    for name, found in figures["ratios"].items():
        yield Line(
            f"bulk batch, {name} / bare network",
            f"{found['rate']:.1f} /s",
            f"{found['rate'] / found['ratio']:.1f} /s",
            found["ratio"],
            (found["lowest"], found["highest"]),
            "0.95x",
            found["ratio"] >= 0.95,
        )


def _service(figures: Figures) -> Iterator[Line]:
    items = figures["items_per_second"]
    what = "items/s, no network, posted one by one"
    yield Line(what, f"{items:.0f} /s", goal="2000 /s", is_met=items >= 2000)
    for name in (AT_GOAL, "no worker running", "beside a worker"):
        rate, p99 = figures["posts"][name]["per_second"], figures["posts"][name]["p99_ms"]
        what = f"POST, {figures['clients']} clients, {name}"
        # Whoever is asked for 500 a second has answered 499 of them in a second.
        yield Line(what, f"{rate:.0f} /s", goal="500 /s", is_met=rate >= 0.99 * GOAL)
        is_met = p99 < 50 if name == AT_GOAL else None
        yield Line(f"{what}: p99", f"{p99:.0f} ms", goal="50 ms" if is_met is not None else "", is_met=is_met)


def _ceilings(figures: Figures) -> Iterator[Line]:
    for database, found in figures.items():
        rate, alone = found["whole path of a batch"], found["batch"]["all_per_second"]
        what = f"items/s, no network, a batch, {database}"
        yield Line(what, f"{rate:.0f} /s", goal="2000 /s", is_met=rate >= 2000)
        yield Line("   of it the database alone", f"{alone:.0f} /s")


def _serving(figures: Figures) -> Iterator[Line]:
    ways = figures["clients"]
    ours, theirs = ways["Pawlens, POST /predict"], ways["LitServe"]
    for clients in theirs:
        mine, other = ours[clients], theirs[clients]
        pairs = zip(mine["per_second_of_each_round"], other["per_second_of_each_round"], strict=True)
        rounds = [a / b for a, b in pairs]
        who = f"{clients} client{'s' * (clients != '1')} / LitServe"
        yield Line(
            f"predictions/s, {who}",
            f"{mine['per_second']:.1f} /s",
            f"{other['per_second']:.1f} /s",
            round(median(rounds), 3),
            (min(rounds), max(rounds)),
        )
        for key, name in (("median_ms", "median"), ("p99_ms", "p99")):
            ratio = round(other[key] / mine[key], 3)
            yield Line(f"   {name}, {who}", f"{mine[key]:.0f} ms", f"{other[key]:.0f} ms", ratio)
    yield from _memory(figures["memory"])


def _memory(memory: Figures) -> Iterator[Line]:
    processes = memory["processes"]
    goals = {"api": 150, "io": 150, "predict": 1536, "explain": 1536}
    for name, goal in goals.items():
        family = [found for process, found in processes.items() if process.split(",")[0] == name]
        most = sum(found["most"] for found in family) / MIB
        added = sum(found["second_half"] for found in family) / MIB
        yield Line(
            f"memory: {name}, over {memory['jobs']:,} jobs",
            f"{most:.0f} MiB",
            f"second half {added:+.0f}",
            goal=f"{goal} MiB",
            is_met=most < goal,
        )


def _startup(figures: Figures) -> Iterator[Line]:
    for start, goal in {"first": None, "next": 3}.items():
        seconds = figures["seconds"][start]
        yield Line(
            f"worker's {start} start: import to prediction",
            f"{median(seconds):.1f} s",
            spread=(min(seconds), max(seconds)),
            goal="" if goal is None else f"{goal} s",
            is_met=None if goal is None else median(seconds) < goal,
        )
    yield Line("pawlens up, until ready", f"{median(figures['service']['next']):.1f} s")


_LINES: dict[str, Callable[[Figures], Iterator[Line]]] = {
    "explanations": _explanations,
    "fidelity": _fidelity,
    "bulk": _bulk,
    "service": _service,
    "ceilings": _ceilings,
    "serving": _serving,
    "startup": _startup,
}
