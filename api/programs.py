"""Doors to programs that load torch, which the API never does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn


def become(module: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Go on as this program, in this very process and in the user's own folder.

    ``-P``: a folder called ``core`` in there is not the package that is meant.
    """
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell, on purpose


def options(given: Mapping[str, Any]) -> list[str]:
    """``--name value`` for each that has one."""
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
