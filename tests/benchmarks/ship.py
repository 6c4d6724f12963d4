"""Make the figures of a run of ``make bench`` those that ``pawlens bench plan`` takes where none are given.

python -m tests.benchmarks.ship build/bench/COMMIT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core.capacity import SHIPPED, Figures


def main() -> None:
    given = Path(sys.argv[1])
    Figures.read(given)  # raises if the planner could not read it
    found = json.loads(given.read_text())
    SHIPPED.write_text(json.dumps({part: found[part] for part in ("engine", "storage")}, indent=1) + "\n")


if __name__ == "__main__":
    main()
