"""``python -m tests.chaos``: thousands of jobs while everything is killed. Prints what was lost: nothing."""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos import soak
from tests.chaos.aftermath import Report
from tests.chaos.postgres import RestartablePostgres
from tests.databases import TestRun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="[10000]")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite", help="[sqlite]")
    parser.add_argument("--seed", type=int, default=0, help="of when and what is killed [0]")
    parser.add_argument("--away", type=float, default=60, help="seconds, the longest absence of Valkey [60]")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    console = Console()
    console.width = max(console.width, 100)
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        options = {"seed": arguments.seed, "away_seconds": arguments.away, "say": console.print}
        if arguments.database == "sqlite":
            report = soak.run(Path(folder), f"sqlite:///{folder}/pawlens.db", arguments.jobs, **options)
        else:
            report = _on_postgres(Path(folder), arguments.jobs, options)
    show(report, console)
    return 0 if report.is_good else 1


def _on_postgres(folder: Path, jobs: int, options: dict[str, Any]) -> Report:
    """With a server of its own, which is restarted as well."""
    run = TestRun()
    try:
        server = RestartablePostgres(run.folder)
        server.start()
        try:
            return soak.run(folder, server.url, jobs, postgres=server, **options)
        finally:
            server.stop()
    finally:
        run.end()


def show(report: Report, console: Console) -> None:
    table = Table("fault", "times", "jobs", "lost", "doubled", "seconds to recover, median", "longest")
    for row in report.rows:
        seconds = row.seconds or [float("nan")]
        table.add_row(
            row.fault,
            *(str(number) for number in (row.times, row.jobs, row.lost, row.doubled)),
            f"{statistics.median(seconds):.1f}",
            f"{max(seconds):.1f}",
        )
    console.print(table)
    memory = Table("process", "MiB", "then", "connections", "then", "open files", "then")
    for name, before in report.before.items():
        after = report.after[name]
        figures = [
            f"{side[what]:.0f}" for what in ("MiB", "connections", "files") for side in (before, after)
        ]
        memory.add_row(name, *figures)
    console.print(memory)
    ends = ", ".join(f"{count} {state}" for state, count in report.ends.items())
    refused = ", ".join(f"{count} {why}" for why, count in report.refused.items()) or "none"
    left = ", ".join(f"{count} {what}" for what, count in report.left.items())
    console.print(f"{ends} in {report.seconds:.0f} s. Requests sent again: {refused}. Left: {left}.")
    for violation in [*report.violations[:50], *report.grown]:
        console.print(f"[red]{violation}")


if __name__ == "__main__":
    sys.exit(main())
