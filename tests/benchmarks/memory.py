"""Resident memory of a running service, process by process, and whether it stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
from rich.table import Table

from tests.processes import Service

MIB = 1 << 20


def family(pid: int) -> list[psutil.Process]:
    """The process and all that it has started."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def sample(service: Service) -> dict[str, int]:
    """Resident bytes. A worker of the network is two: Celery's process, and its child with the network."""
    found: dict[str, int] = {}
    for name, process in service.processes.items():
        parent, *children = family(process.pid)
        found[name] = parent.memory_info().rss
        for child in children:
            found[f"{name}, child"] = found.get(f"{name}, child", 0) + child.memory_info().rss
    return found


def figures(samples: Sequence[dict[str, int]], jobs: int, explained: int) -> dict[str, Any]:
    """At the start, the most of all samples, and what the second half of the predictions has added.

    The last sample is the one after the explanations.
    """
    *predicting, _explained = samples
    middle, end = predicting[len(predicting) // 2], predicting[-1]
    return {
        "jobs": jobs,
        "explained": explained,
        "processes": {
            name: {
                "start": samples[0][name],
                "most": max(found.get(name, 0) for found in samples),
                "second_half": end.get(name, 0) - middle.get(name, 0),
            }
            for name in samples[0]
        },
    }


def table(memory: dict[str, Any]) -> Table:
    shown = Table("process", "at the start, MiB", "most, MiB", "second half*, MiB", title_justify="left")
    shown.title = f"Resident memory over {memory['jobs']:,} jobs, {memory['explained']} of them explained"
    shown.caption = "* what the second half of the predictions has added"
    for name, found in memory["processes"].items():
        sizes = (f"{found[key] / MIB:.0f}" for key in ("start", "most"))
        shown.add_row(name, *sizes, f"{found['second_half'] / MIB:+.0f}")
    return shown
