"""Sums over spans of time, with numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from tests.benchmarks.timeline import Batch, batches_of, common, gaps, length, timeline, union

# Two batches in ten seconds. The second one's steps lie beside the first one's network, but for its claim.
FIRST: Batch = {"claim": (0, 1), "read": (1, 1), "decode": (1, 2), "compute": (2, 6), "write": (6, 7)}
SECOND: Batch = {"claim": (1, 2), "read": (2, 2), "decode": (3, 5), "compute": (6, 9), "write": (9, 9.5)}


def test_union_joins_what_overlaps_or_touches() -> None:
    assert union([(3, 4), (0, 1), (0.5, 2), (2, 2.5)]) == [(0, 2.5), (3, 4)]


def test_common_is_what_lies_in_both() -> None:
    assert common([(0, 2), (3, 5)], [(1, 4), (6, 7)]) == [(1, 2), (3, 4)]


def test_gaps_are_what_lies_in_none() -> None:
    assert gaps([(1, 2), (4, 6)], 0, 8) == [(0, 1), (2, 4), (6, 8)]
    assert gaps([(0, 8)], 0, 8) == []
    assert gaps([], 0, 8) == [(0, 8)]


def test_length_is_the_sum() -> None:
    assert length([(0, 1), (2, 5)]) == 4


def test_the_time_of_two_batches() -> None:
    found = timeline([FIRST, SECOND], 0, 10)
    assert found["share"] == pytest.approx(
        {"claim": 0.2, "read": 0.0, "decode": 0.3, "wait": 0.0, "compute": 0.7, "write": 0.15}
    )
    assert found["overlap"] == pytest.approx({"claim": 0.0, "read": 0.0, "decode": 2 / 3, "write": 2 / 3})
    # The network waits from 0 to 2 and from 9 to 10, the last half second of which nothing is done.
    idle = {"all": 0.3, "claim": 0.2, "read": 0.0, "decode": 0.1, "write": 0.05, "nothing": 0.05}
    assert found["idle"] == pytest.approx(idle)
    assert found["spans"][1]["decode"] == [3, 5]
    assert found["batches"] == 2


def test_batches_of_another_time_and_those_that_never_ran_do_not_count() -> None:
    logged = [{"claim": [0.0, 1.0]}, *({"compute": [at, at + 1.0]} for at in (0.0, 5.0, 9.5))]
    assert batches_of(logged, 1, 10) == [{"compute": (5.0, 6.0)}]
