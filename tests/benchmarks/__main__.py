"""``python -m tests.benchmarks [NAME...]``: run all benchmarks, or those named, and print their tables."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.report import Report

NAMES = ("service", "explanations", "fidelity")
_KNOWS_QUICK = {"explanations", "fidelity"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    console = Console()
    console.width = max(console.width, 120)  # in a pipe it would be 80, and the tables would be cut
    machine = f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} processors"
    console.print(machine)
    figures: dict[str, Any] = {"machine": machine, "load": os.getloadavg()}
    for name in names:
        run = importlib.import_module(f"tests.benchmarks.{name}").run
        found = run(quick=arguments.quick) if name in _KNOWS_QUICK else run()
        if isinstance(found, Report):
            figures[name] = found.figures
            console.print(*found.tables, sep="\n")
        else:
            console.print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
