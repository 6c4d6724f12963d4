"""Where an ``io`` worker sends to and downloads from, so that a server that hangs holds up no other."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

MOST_KNOWN = 100
"""Origins that are remembered as slow, and as resting: the latest. Each is a condition in the statement that
picks what is next.
"""
LOOK_AGAIN_SECONDS = 1.0
"""After a look that found nothing for open origins. Each walks through all that waits for closed ones."""


def origin(url: str) -> str:
    """Where a URL leads, as the beginning that it has in common with all that lead there."""
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}/"


class Origins:
    """How many of the ``places`` each origin has now, and which are closed: they may have no other one yet.

    An origin that took longer than ``slow_seconds`` is slow until it was quick again. All slow ones together
    have half of the places, so that however many hang, and however much there is for them, the others go on.
    ``each`` bounds the places of any one. One that asked to be left alone rests.
    """

    def __init__(self, places: int, *, slow_seconds: float, each: float = math.inf) -> None:
        self._of_slow_ones = max(1, places // 2)
        self._each = each
        self._slow_seconds = slow_seconds
        self._choosing = threading.Lock()
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._slow: dict[str, None] = {}  # the longest known first, here and below
        self._rests: dict[str, float] = {}  # until when
        self._look_at = 0.0

    @contextmanager
    def choosing(self) -> Iterator[list[str] | None]:
        """The origins that are closed, or None when there is no need to look now.

        One thread at a time chooses, so that two do not both take a last place.
        """
        with self._choosing:
            closed = self._closed()
            yield None if closed and time.monotonic() < self._look_at else closed

    def found_nothing(self) -> None:
        """A look with closed origins was in vain: the next one has time, unless a place is left before."""
        self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS

    def enter(self, where: str) -> None:
        with self._lock:
            self._busy[where] += 1

    def leave(self, where: str, seconds: float, *, rest: float = 0.0) -> None:
        """After so many seconds of work; nothing more is to go there for the seconds of ``rest``."""
        with self._lock:
            self._busy[where] -= 1
            if not self._busy[where]:
                del self._busy[where]
            self._slow.pop(where, None)
            self._rests.pop(where, None)
            if seconds > self._slow_seconds:
                self._slow[where] = None
            if rest:
                self._rests[where] = time.monotonic() + rest
            for known in (self._slow, self._rests):
                if len(known) > MOST_KNOWN:
                    del known[next(iter(known))]
            self._look_at = 0.0

    def _closed(self) -> list[str]:
        with self._lock:
            now = time.monotonic()
            self._rests = {where: until for where, until in self._rests.items() if until > now}
            full = {where for where, busy in self._busy.items() if busy >= self._each}
            if sum(self._busy[where] for where in self._slow) >= self._of_slow_ones:
                full |= self._slow.keys()
            return sorted(full | self._rests.keys())
