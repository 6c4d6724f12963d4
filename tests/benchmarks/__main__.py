"""``make bench``: run all benchmarks, or those named, and end with one table of all that has a goal.

The figures go to ``build/bench/COMMIT.json``, the table's ratios beside it as a picture. What failed is said
and leaves its lines out; the exit status is 1 then. Take an idle machine: the head says how busy it was.
With --quick, storage, engine and fidelity are left out unless they are named.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from core.measure.machine import machine
from tests.benchmarks.plot import plot
from tests.benchmarks.report import Report
from tests.benchmarks.summary import summary, table

# In this order: what starts services first, then what keeps this process's own memory.
NAMES = (
    "startup",
    "serving",
    "service",
    "ceilings",
    "storage",
    "bulk",
    "engine",
    "explanations",
    "fidelity",
)
# These say what the service costs and whether explanations point at the right thing; neither is soon done.
NOT_IF_QUICK = ("storage", "engine", "fidelity")
FOLDER = Path("build/bench")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="one round, fewer pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there instead")
    arguments = parser.parse_args()
    names = [name for name in NAMES if name in arguments.names]
    if not arguments.names:
        names = [name for name in NAMES if not (arguments.quick and name in NOT_IF_QUICK)]
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    console = Console()
    console.width = max(console.width, 120)  # in a pipe it would be 80, and the tables would be cut

    figures: dict[str, Any] = {
        "commit": commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "machine": machine(),
    }
    console.print(heading(figures), highlight=False)
    failed: dict[str, str] = {}
    took: dict[str, int] = {}
    for name in names:
        started = time.monotonic()
        try:
            report: Report = importlib.import_module(f"tests.benchmarks.{name}").run(quick=arguments.quick)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            continue
        figures[name] = report.figures
        took[name] = round(time.monotonic() - started)
        console.print(*report.tables, f"{name}: {took[name]} s\n", sep="\n")
    lines = summary(figures)
    figures["load_after"] = list(os.getloadavg())
    figures["summary"] = [vars(line) for line in lines]
    figures |= {"failed": failed, "seconds_taken": took}
    path = arguments.json or FOLDER / f"{figures['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(heading(figures), table(lines), sep="\n", highlight=False)
    plot(lines, figures, heading(figures), path.with_suffix(".png"))
    console.print(f"{path} and {path.with_suffix('.png').name}", highlight=False)
    for name, why in failed.items():
        console.print(f"{name} failed: {why}", highlight=False)
    return 1 if failed else 0


def heading(figures: dict[str, Any]) -> str:
    """What the figures belong to, in two lines."""
    found = figures["machine"]
    memory = f"{found['memory_bytes'] / (1 << 30):.0f} GiB"
    kind = ", quick: each figure once or so" if figures["quick"] else ""
    return (
        f"commit {figures['commit']}, {figures['measured_at']}, load {found['load'][0]} before{kind}\n"
        f"{found['processor']}, {found['cores']} cores, {memory}, torch {found['torch']}, "
        f"Python {found['python']}"
    )


def commit() -> str:
    """The commit, with a + behind it where files have been changed since."""
    ask = ["git", "rev-parse", "--short=10", "HEAD"]
    try:
        known = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an archive without its history
    return known + "+" * bool(changed)


if __name__ == "__main__":
    sys.exit(main())
