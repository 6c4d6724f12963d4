"""``python -m tests.benchmarks [NAME...]``: run all benchmarks, or those named, and print one table each."""

from __future__ import annotations

import argparse
import importlib
import platform

from rich.console import Console

NAMES = ("service",)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    console = Console()
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    for name in names:
        console.print(importlib.import_module(f"tests.benchmarks.{name}").run())


if __name__ == "__main__":
    main()
