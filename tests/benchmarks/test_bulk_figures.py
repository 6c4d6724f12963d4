"""Ratios and shares, from figures that can be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.bulk_figures import arithmetic, ratios


def round_of(run: float, all_: float, parts: float, bare: list[float]) -> dict[str, Any]:
    used = {"upload": {"api": 0.003}, "run": {"predict": 0.060, "api": 0.002, "beat": 0.001}}
    steps = {"claim": 0.01, "read": 0.005, "decode": 0.2, "write": 0.005}
    return {
        "bare": [{"rate": rate} for rate in bare],
        "whole": {
            "seconds": {"run": run, "all": all_},
            "processor": used,
            "timeline": {"seconds": run, "share": steps},
        },
        "parts": {"seconds": {"all": parts}},
    }


FIGURES = {
    "pictures": 100,
    "processors": 2,
    "decode": 0.004,
    "rounds": [
        round_of(10.0, 12.5, 20.0, [20.0, 20.0, 20.0]),
        round_of(5.0, 10.0, 8.0, [10.0, 30.0, 20.0]),
        round_of(8.0, 10.0, 10.0, [12.5, 12.5, 12.5]),
    ],
}


def test_each_round_is_compared_with_the_bare_network_around_it() -> None:
    found = ratios(FIGURES)
    assert found["while the batch runs"] == {"rate": 12.5, "ratio": 1.0, "lowest": 0.5, "highest": 1.0}
    assert found["as one batch"] == {"rate": 10.0, "ratio": 0.5, "lowest": 0.4, "highest": 0.8}
    # By then the second round's network has got slower: 12.5 a second against 25.
    assert found["in parts"] == {"rate": 10.0, "ratio": 0.5, "lowest": 0.25, "highest": 0.8}


def test_shares_lie_between_all_in_the_pauses_and_none() -> None:
    found = arithmetic(FIGURES | {"processors": 1.8})
    assert found["there are, at the bare network's rate"] == pytest.approx(60)
    assert found["claiming, reading, writing, by the clock"] == pytest.approx(1)  # 2 % of 5 s, 100 pictures
    assert found["share while it runs, at least"] == pytest.approx(60 / (60 + 4 + 1 + 2 + 1))
    assert found["share while it runs, at most"] == pytest.approx(60 / 63)
    assert found["share as one batch, at least"] == pytest.approx(60 / 71)
    assert found["share as one batch, at most"] == pytest.approx(60 / 66)
    assert arithmetic(FIGURES | {"processors": 4})["share as one batch, at most"] == 1.0
