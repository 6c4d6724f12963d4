"""What a run has measured, a line of JSON for each event, also across kills."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from core.files import replacing

JOURNAL = "metrics.jsonl"
"""Its name in a run's folder."""


class Journal:
    """Each line begins with the number of updates that the weights had seen."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @classmethod
    def reopened(cls, path: Path, updates: int) -> Self:
        """To go on after ``updates``: what came later is taken out, since it will be done again."""
        if path.exists():
            # A line that a kill left half-written comes after the checkpoint, too.
            whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            with replacing(path) as unfinished:
                unfinished.write_text(
                    "".join(line for line in whole if json.loads(line)["update"] <= updates)
                )
        return cls(path.open("a"))

    def write(self, updates: int, **values: Any) -> None:
        self._file.write(json.dumps({"update": updates, **values}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
