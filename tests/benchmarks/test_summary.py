"""From figures to lines, table and picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.benchmarks.plot import plot
from tests.benchmarks.service import AT_GOAL
from tests.benchmarks.summary import Line, summary, table


def serving() -> dict[str, Any]:
    def way(rates: list[float], milliseconds: float) -> dict[str, Any]:
        one = {
            "per_second": rates[1],
            "per_second_of_each_round": rates,
            "median_ms": milliseconds,
            "p99_ms": 2 * milliseconds,
        }
        return {"1": one, "8": one}

    processes = {
        "api": {"start": 90 << 20, "most": 149 << 20, "second_half": 0},
        "io": {"start": 90 << 20, "most": 151 << 20, "second_half": 1 << 20},
        "predict": {"start": 90 << 20, "most": 600 << 20, "second_half": 0},
        "predict, child": {"start": 90 << 20, "most": 1000 << 20, "second_half": 0},
        "explain": {"start": 90 << 20, "most": 100 << 20, "second_half": 0},
        "explain, child": {"start": 90 << 20, "most": 1000 << 20, "second_half": 0},
    }
    return {
        "clients": {
            "Pawlens, POST /predict": way([10.0, 12.0, 8.0], 50.0),
            "Pawlens, jobs, Prefer: wait": way([9.0, 9.0, 9.0], 60.0),
            "LitServe": way([10.0, 10.0, 10.0], 40.0),
        },
        "memory": {"jobs": 100, "processes": processes},
    }


def explanations() -> dict[str, Any]:
    faster = {"ratio": 26.0, "lowest": 25.0, "highest": 27.0}
    pair = {"least": 2.0, "median": 2.1}
    return {
        "224": {
            "seconds": {
                "all five": pair,
                "original all five": {"least": 52.0, "median": 53.0},
                "occlusion": pair,
                "captum occlusion": {"least": 20.0, "median": 20.0},
            },
            "against_the_original": {"all five": faster},
            "against_captum": {"occlusion": {"ratio": 10.0, "lowest": 9.0, "highest": 11.0}},
            "checks": {
                "integrated_gradients": {"ours": {"completeness_error": 0.004}},
                "occlusion_rank_correlation_with_captum": 0.9991,
            },
        }
    }


def by_name(figures: dict[str, Any]) -> dict[str, Line]:
    return {line.what.strip(): line for line in summary(figures)}


def test_what_was_not_measured_has_no_line() -> None:
    assert summary({"commit": "abc", "machine": {}}) == []


def test_explanations_are_met_or_missed_and_say_what_they_were_compared_with() -> None:
    lines = by_name({"explanations": explanations()})
    original = lines["five explanations / original, 224 px"]
    assert (original.ours, original.other) == ("2.00 s", "52.00 s")
    assert (original.ratio, original.spread, original.goal, original.is_met) == (26, (25, 27), "40x", False)
    assert lines["occlusion / captum"].is_met
    assert lines["same run: completeness error"].is_met


def test_speed_does_not_hide_that_less_was_done() -> None:
    figures = explanations()
    figures["224"]["checks"]["integrated_gradients"]["ours"]["completeness_error"] = 0.011
    assert by_name({"explanations": figures})["same run: completeness error"].is_met is False


def test_the_ratio_to_litserve_is_the_median_of_the_rounds() -> None:
    lines = by_name({"serving": serving()})
    first = lines["predictions/s, 1 client / LitServe"]
    assert (first.ratio, first.spread) == (1.0, (0.8, 1.2))
    assert first.goal == ""
    assert first.is_met is None
    assert lines["predictions/s, 8 clients / LitServe"].ours == "12.0 /s"
    assert lines["median, 8 clients / LitServe"].ratio == pytest.approx(0.8)  # slower is below one


def test_memory_of_a_worker_is_that_of_both_its_processes() -> None:
    lines = by_name({"serving": serving()})
    assert lines["memory: api, over 100 jobs"].is_met
    assert lines["memory: io, over 100 jobs"].is_met is False
    assert lines["memory: predict, over 100 jobs"].ours == "1600 MiB"
    assert lines["memory: predict, over 100 jobs"].is_met is False
    assert lines["memory: explain, over 100 jobs"].is_met


def test_bulk_service_and_start() -> None:
    posts = {"per_second": 501.0, "median_ms": 20.0, "p99_ms": 51.0}
    lines = by_name(
        {
            "bulk": {
                "ratios": {"as one batch": {"rate": 19.0, "ratio": 0.95, "lowest": 0.9, "highest": 1.0}}
            },
            "service": {
                "clients": 50,
                "posts": {"no worker running": posts, "beside a worker": posts, AT_GOAL: posts},
                "items_per_second": 1999.0,
            },
            "ceilings": {
                "sqlite": {"whole path of a batch": 2100.0, "batch": {"all_per_second": 4000}},
                "postgresql": {"whole path of a batch": 1900.0, "batch": {"all_per_second": 3000}},
            },
            "startup": {
                "seconds": {"first": [4.0, 5.0, 9.0], "next": [2.0, 2.9, 3.5]},
                "service": {"first": [9.0], "next": [8.0]},
            },
        }
    )
    assert lines["bulk batch, as one batch / bare network"].other == "20.0 /s"
    assert lines["bulk batch, as one batch / bare network"].is_met
    assert lines["items/s, no network, posted one by one"].is_met is False
    assert lines["items/s, no network, a batch, sqlite"].is_met
    assert lines["items/s, no network, a batch, postgresql"].is_met is False
    assert lines["POST, 50 clients, beside a worker"].is_met
    assert lines[f"POST, 50 clients, {AT_GOAL}: p99"].is_met is False
    assert lines["POST, 50 clients, beside a worker: p99"].is_met is None
    assert lines["worker's next start: import to prediction"].is_met
    assert lines["worker's first start: import to prediction"].is_met is None


def test_table_and_picture_show_every_line(tmp_path: Path) -> None:
    figures = {"serving": serving(), "explanations": explanations()}
    lines = summary(figures)
    console = Console(file=io.StringIO(), width=140)
    console.print(table(lines))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for line in lines:
        assert line.what.strip() in printed
    assert "26.00x" in printed
    assert "missed" in printed
    path = tmp_path / "figures.png"
    plot(lines, figures, "commit abc", path)
    with Image.open(path) as image:
        assert image.height > image.width / 2
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_nothing_to_be_drawn_is_no_picture(tmp_path: Path) -> None:
    plot([Line("memory", "1 MiB")], {}, "commit abc", tmp_path / "figures.png")
    assert list(tmp_path.iterdir()) == []
