"""Signals as messages that are read where it suits, instead of exceptions that may come anywhere."""

from __future__ import annotations

import select
import signal
import socket
from types import TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):
    """The first SIGINT, SIGTERM or SIGHUP: stop in order."""


class StopNow(Exception):
    """Another SIGINT or SIGTERM while stopping: do not wait any longer."""


class SignalInbox:
    """Collects signals from ``__enter__`` to ``__exit__``; only :meth:`wait` acts on them.

    The self-pipe trick: Python's own handler writes the number of each signal into a socket, so that waiting
    for time to pass ends as soon as a signal comes, be it a child's death or a request to stop.
    """

    def __enter__(self) -> Self:
        self._reader, writer = self._pair = socket.socketpair()
        for end in self._pair:
            end.setblocking(False)
        self._earlier_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        # Without a Python handler of some kind, nothing is written for the signal.
        self._earlier: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None) for number in (*STOP_SIGNALS, signal.SIGCHLD)
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._earlier_fd)
        for end in self._pair:
            end.close()

    def wait(self, seconds: float, *, stopping: bool = False) -> None:
        """Let the time pass, or less of it when a signal comes.

        Raises:
            StopRequested: told to stop, and not ``stopping`` yet.
            StopNow: told again, while ``stopping``. A hang-up is no second request: a terminal that closes
                sends one to everything in it.
        """
        readable, _, _ = select.select([self._reader], [], [], seconds)
        if not readable:
            return
        numbers = set(self._reader.recv(4096))
        if not stopping and numbers.intersection(STOP_SIGNALS):
            raise StopRequested
        if numbers & {signal.SIGINT, signal.SIGTERM}:
            raise StopNow
