"""What a benchmark hands back, and how times are taken on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType


@dataclass(frozen=True)
class Report:
    """Tables for a person, and the same figures as JSON."""

    tables: list[RenderableType]
    figures: dict[str, Any]


@dataclass
class Times:
    """Seconds of one thing, once a round, by the clock and of this process's threads together.

    Disturbances only ever add to the clock: the least is the machine's own. On a machine that is busy with
    something else, the processor's seconds tell more.
    """

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def take(self, run: Callable[[], Any], *, parts: float = 1) -> Any:
        """Time ``run`` once; with ``parts``, it does one of so many equal parts of the whole."""
        started, used = time.perf_counter(), time.process_time()
        result = run()
        self.seconds.append((time.perf_counter() - started) * parts)
        self.processor.append((time.process_time() - used) * parts)
        return result

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def figures(self) -> dict[str, float]:
        return {
            "least": round(self.least, 4),
            "median": round(self.median, 4),
            "processor": round(min(self.processor), 4),
        }


def total(parts: Sequence[Times]) -> Times:
    """Round by round."""
    return Times(
        [sum(round_) for round_ in zip(*(part.seconds for part in parts), strict=True)],
        [sum(round_) for round_ in zip(*(part.processor for part in parts), strict=True)],
    )


def ratio(theirs: Times, ours: Times) -> dict[str, float]:
    """How many times faster ours is: by the least times, the lowest and highest of the rounds, and by the
    processor's least times."""
    rounds = [a / b for a, b in zip(theirs.seconds, ours.seconds, strict=True)]
    return {
        "ratio": round(theirs.least / ours.least, 2),
        "lowest": round(min(rounds), 2),
        "highest": round(max(rounds), 2),
        "by_processor": round(min(theirs.processor) / min(ours.processor), 2),
    }
