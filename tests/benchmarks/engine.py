"""``pawlens bench engine`` on this machine, in a process of its own: the figures that its planner needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from core.measure.tables import tables
from tests.benchmarks.report import Report


def run(quick: bool = False) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.json"
        command = [sys.executable, "-m", "api.cli", "bench", "engine", "--json", str(path)]
        # Its status is 1 if a check failed, which its table says.
        subprocess.run([*command, *["--quick"] * quick], stdout=subprocess.DEVNULL, check=False)
        figures = json.loads(path.read_text())
    return Report(tables(figures), figures)
