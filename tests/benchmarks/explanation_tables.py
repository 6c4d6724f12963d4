"""The figures of ``explanations`` as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from tests.benchmarks.work import PRECISIONS


def tables(figures: dict[str, Any], size: int) -> list[Table]:
    return [_speed(figures, size), _where(figures, size), _checks(figures, size)]


def _speed(figures: dict[str, Any], size: int) -> Table:
    table = Table(
        "what", "ours, s", "theirs, s", "times faster", "rounds", "by processor", title_justify="left"
    )
    table.title = f"{size} pixels, {figures['device']}: seconds, least / median, and how many times faster"
    seconds = figures["seconds"]
    rows = [
        (f"{name}: the original", name, f"original {name}", faster)
        for name, faster in figures["against_the_original"].items()
    ]
    rows += [
        (f"{name}: captum", name.split()[0], f"captum {name}", faster)
        for name, faster in figures["against_captum"].items()
    ]
    for label, ours, theirs, faster in rows:
        pairs = [
            f"{taken['least']:.2f} / {taken['median']:.2f}" for taken in (seconds[ours], seconds[theirs])
        ]
        spread = f"{faster['lowest']:.1f} to {faster['highest']:.1f}"
        table.add_row(label, *pairs, f"{faster['ratio']:.1f}", spread, f"{faster['by_processor']:.1f}")
    return table


def _where(figures: dict[str, Any], size: int) -> Table:
    table = Table(
        "method", "F (forward passes)", "s at peak", "share of peak", "drawing", title_justify="left"
    )
    peaks = ", ".join(f"{rate} GFLOP/s in {name}" for name, rate in figures["peak_gflops"].items())
    table.title = f"{size} pixels: where the time goes. Peak of a matrix product here: {peaks}"
    for name, work in figures["work"].items():
        passes = ", ".join(f"{count:g} {kind}" for kind, count in work["F"].items())
        shares = [f"{work[share]:.0%}" for share in ("share_of_peak", "share_drawing")]
        table.add_row(name, passes, f"{work['seconds_at_peak']:.2f}", *shares)
    for precision in PRECISIONS:
        one = figures["F_seconds"][precision]
        table.add_row(f"one F in {precision}", f"{one * 1000:.1f} ms")
    return table


def _checks(figures: dict[str, Any], size: int) -> Table:
    table = Table("what", "figure", title=f"{size} pixels: that none did less", title_justify="left")
    checks = figures["checks"]
    for name, errors in checks["integrated_gradients"].items():
        far = (
            "" if errors["map_error"] is None else f"; {errors['map_error']:.1%} from the fine integral's map"
        )
        table.add_row(
            f"Integrated Gradients, {name}", f"completeness {errors['completeness_error']:.2%}{far}"
        )
    table.add_row("Integrated Gradients, our gradients", str(checks["gradients"]))
    correlation = checks["occlusion_rank_correlation_with_captum"]
    table.add_row("Occlusion, rank correlation with captum's float32 map", f"{correlation:.4f}")
    table.add_row("precision", ", ".join(f"{name} {kind}" for name, kind in checks["precision"].items()))
    return table
