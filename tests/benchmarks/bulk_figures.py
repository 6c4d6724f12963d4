"""What the measurements of ``bulk`` come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Round = dict[str, Any]


def ratios(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Pictures a second against those of the bare network, taken before and after in the same round."""
    pictures = figures["pictures"]
    ways: dict[str, tuple[Callable[[Round], float], slice]] = {
        "while the batch runs": (lambda one: one["whole"]["seconds"]["run"], slice(0, 2)),
        "as one batch": (lambda one: one["whole"]["seconds"]["all"], slice(0, 2)),
        "in parts": (lambda one: one["parts"]["seconds"]["all"], slice(1, 3)),
    }
    found = {}
    for name, (seconds, around) in ways.items():
        rates = [pictures / seconds(one) for one in figures["rounds"]]
        bare = [statistics.mean(speed["rate"] for speed in one["bare"][around]) for one in figures["rounds"]]
        ratios = [rate / network for rate, network in zip(rates, bare, strict=True)]
        found[name] = {
            "rate": statistics.median(rates),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return found


def arithmetic(figures: dict[str, Any]) -> dict[str, float]:
    """The processors' milliseconds for a picture, and what share of the bare network's rate they leave.

    ``at least``: when all else is done while the network stands still. ``at most``: when the processors never
    rest; some other work then falls into the pauses in which the network's threads wait for each other.
    """
    rounds, pictures = figures["rounds"], figures["pictures"]

    def least(part: str, name: str) -> float:
        return 1000.0 * float(min(one["whole"]["processor"][part][name] for one in rounds))

    def by_the_clock(*steps: str) -> float:
        lines = [one["whole"]["timeline"] for one in rounds]
        taken: list[float] = [line["seconds"] * sum(line["share"][step] for step in steps) for line in lines]
        return 1000.0 * min(taken) / float(pictures)

    rate = max(speed["rate"] for one in rounds for speed in one["bare"])
    there = 1000.0 * float(figures["processors"] / rate)
    decoding, upload = 1000.0 * float(figures["decode"]), least("upload", "api")
    database = by_the_clock("claim", "read", "write")
    worker, api, beat = (least("run", name) for name in ("predict", "api", "beat"))
    others = decoding + database + api + beat
    return {
        "there are, at the bare network's rate": there,
        "worker, network and all": worker,
        "decoding": decoding,
        "claiming, reading, writing, by the clock": database,
        "API, while it runs": api,
        "beat": beat,
        "API, upload": upload,
        "share while it runs, at least": there / (there + others),
        "share while it runs, at most": min(1.0, there / (worker + api + beat)),
        "share as one batch, at least": there / (there + others + upload),
        "share as one batch, at most": min(1.0, there / (worker + api + beat + upload)),
    }
