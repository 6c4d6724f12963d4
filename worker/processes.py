"""One child process that is kept running: start, notice its death, wait a little, start it again, stop it.

Each child leads a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, which then
stops the children in their order, and so that one signal reaches whatever a child has started itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0
"""A child that lived so long was no failure to start: its next pause is the first one again."""

MAX_LOG_BYTES = 10 << 20

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Program:
    """What to run, and how long it may take to stop before it is killed."""

    name: str
    command: Sequence[str]
    log: Path
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 10.0
    pass_fds: Sequence[int] = ()


class Child:
    """A program, its present process if it has one, and how its earlier ones ended.

    Only the supervisor's main thread may call it: on Linux a child is bound to the life of the *thread*
    that made it (see :func:`_bound_to_parent`).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.name = program.name
        self.was_up = False  # set by the supervisor once the child has done what it is there for
        self.quick_deaths = 0
        self.restart_at: float | None = None
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process. Its output goes to the end of the log, after one rotation when that is large."""
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        rotate(program.log)
        with program.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(program.command),
                cwd=program.cwd,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=program.pass_fds,
                preexec_fn=_bound_to_parent(),  # noqa: PLW1509 - the supervisor has one thread
            )
        self.started_at, self.restart_at = time.monotonic(), None

    def reap(self) -> str | None:
        """How the process ended, in words, if it has ended since the last call; sets ``restart_at``."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        # What the dead process had started goes with it: a pool's child must not work on for nobody.
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process = None
        self._schedule_restart()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _schedule_restart(self) -> None:
        now = time.monotonic()
        self.quick_deaths = 1 if now - self.started_at >= STEADY_SECONDS else self.quick_deaths + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self.quick_deaths - 1), LONGEST_PAUSE_SECONDS)
        self.restart_at = now + pause

    def postpone(self) -> None:
        """Try once more after the longest pause."""
        self.restart_at = time.monotonic() + LONGEST_PAUSE_SECONDS

    def terminate(self) -> None:
        """Ask the process, and it alone, to end: how its own children end is its affair."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGKILL)

    def last_lines(self, count: int = 20) -> str:
        return last_lines(self.program.log, count)


def rotate(log: Path) -> None:
    """Put a large log aside as ``NAME.log.1``, in place of the one put aside before."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(_aside(log))


def rotate_open(log: Path) -> None:
    """The same for a log that a process has open: it is copied and emptied, since the process keeps its file.

    It must be open for appending, as :meth:`Child.start` opens it: then each write goes to the end of the
    file, wherever that is now. A line that is written between the copy and the cut is lost.
    """
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        shutil.copyfile(log, _aside(log))
        os.truncate(log, 0)


def _aside(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def last_lines(log: Path, count: int) -> str:
    """The end of the log, from before its last rotation where it has too few lines since."""
    try:
        end = _end(log)
    except OSError as error:
        return f"(no log: {error.strerror})"
    if end.count(b"\n") < count:
        with suppress(OSError):  # none was put aside
            end = _end(_aside(log)) + end
    return "\n".join(end.decode(errors="replace").splitlines()[-count:])


def _end(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return file.read()


def _signal_group(leader: int, number: signal.Signals) -> None:
    # Nobody may be left; macOS says "not permitted" where only a zombie is.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _bound_to_parent() -> Callable[[], None] | None:
    """On Linux, a function for the forked child that makes the kernel kill it when its parent dies.

    prctl(2), PR_SET_PDEATHSIG: survives exec, and is the only thing that still works when the supervisor
    itself is killed with SIGKILL. Elsewhere None: there, children of a killed supervisor live on.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call: no signal will come
            os._exit(1)

    return bind
