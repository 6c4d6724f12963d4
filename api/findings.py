"""What a check of ``pawlens doctor`` answers with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from core.settings import Settings

SUBPROCESS_SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``broken`` makes the command fail; a ``warning`` does not."""

    level: Literal["ok", "warning", "broken"]
    subject: str
    text: str


Check = Callable[[Settings], Iterator[Finding]]


def run_python(
    code: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own, which may import torch and may crash.

    -P: a folder called ``core`` where the command was given is not our ``core``.
    """
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )
