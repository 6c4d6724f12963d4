"""What a worker did with its time, from the steps of the batches that it logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Span = tuple[float, float]
Batch = dict[str, Span]
"""Step -> its begin and end, in seconds of the system's monotonic clock."""

STEPS = ("claim", "read", "decode", "wait", "compute", "write")
BESIDE = ("claim", "read", "decode", "write")
"""Steps that may take place while the network computes another batch."""
SHOWN = 12
"""Batches whose steps are kept, to draw them."""


def batches_of(logged: Iterable[Mapping[str, Sequence[float]]], begin: float, end: float) -> list[Batch]:
    """The batches that were computed within this time."""
    batches = [{name: (span[0], span[1]) for name, span in steps.items()} for steps in logged]
    computed = [batch for batch in batches if "compute" in batch]
    return [batch for batch in computed if begin <= batch["compute"][0] <= batch["compute"][1] <= end]


def timeline(batches: Sequence[Batch], begin: float, end: float) -> dict[str, Any]:
    """How the time from ``begin`` to ``end`` was used.

    share: of the whole time, for how much each step was under way.
    overlap: of each step that may be beside it, how much took place while the network computed.
    idle: the share in which the network computed nothing, and how much of that each other step was under way
        (several at once count each) or ``nothing`` was.
    spans: the steps of some batches from the middle, in seconds from ``begin``.
    """
    spans = {step: union(batch[step] for batch in batches if step in batch) for step in STEPS}
    computing, whole = spans["compute"], end - begin
    idle = gaps(computing, begin, end)
    others = union(span for step in BESIDE for span in spans[step])
    middle = max(0, len(batches) // 2 - SHOWN // 2)
    return {
        "batches": len(batches),
        "seconds": whole,
        "share": {step: length(spans[step]) / whole for step in STEPS},
        "overlap": {
            step: length(common(spans[step], computing)) / (length(spans[step]) or 1.0) for step in BESIDE
        },
        "idle": {
            "all": length(idle) / whole,
            **{step: length(common(spans[step], idle)) / whole for step in BESIDE},
            "nothing": (length(idle) - length(common(others, idle))) / whole,
        },
        "spans": [
            {step: [began - begin, ended - begin] for step, (began, ended) in batch.items()}
            for batch in batches[middle : middle + SHOWN]
        ],
    }


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time in spans that do not overlap, in order."""
    merged: list[Span] = []
    for began, ended in sorted(spans):
        if merged and began <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], ended)
        else:
            merged.append((began, ended))
    return merged


def common(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The time that lies in both; each list without overlaps within itself."""
    both = [(max(a, c), min(b, d)) for a, b in some for c, d in others]
    return [(began, ended) for began, ended in both if began < ended]


def gaps(spans: Sequence[Span], begin: float, end: float) -> list[Span]:
    """The time from ``begin`` to ``end`` that lies in none of the spans, which do not overlap."""
    edges = [begin, *(edge for span in spans for edge in span), end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def length(spans: Sequence[Span]) -> float:
    return sum(ended - began for began, ended in spans)
