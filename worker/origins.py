"""Where an ``io`` worker sends to and downloads from, so that a server that hangs holds up no other."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

MOST_KNOWN = 100
"""Slow origins, and resting URLs, that are remembered: the latest. Each is a condition in the statement that
picks what is next.
"""
LOOK_AGAIN_SECONDS = 1.0
"""After a look that found nothing but what is closed. Each walks through all of that."""


def origin(url: str) -> str:
    """Where a URL leads, as the beginning that it has in common with all that lead there."""
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}/"


@dataclass(frozen=True)
class Closed:
    """Where nothing more is to go now: whole origins, and single URLs of others."""

    origins: Sequence[str] = ()
    urls: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.origins or self.urls)


class Origins:
    """How many of the ``places`` each origin has now, and which are closed: they may have no other one yet.

    An origin that took longer than ``slow_seconds`` is slow until it was quick again. All slow ones together
    have half of the places, so that however many hang, and however much there is for them, the others go on.
    ``each`` bounds the places of any one. A URL that asked to be left alone rests, and it alone: on a host of
    many customers the others have done nothing.
    """

    def __init__(self, places: int, *, slow_seconds: float, each: float = math.inf) -> None:
        self._of_slow_ones = max(1, places // 2)
        self._each = each
        self._slow_seconds = slow_seconds
        self._picking = threading.Lock()
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._slow: dict[str, None] = {}  # the longest known first, here and below
        self._rests: dict[str, float] = {}  # URLs, until when
        self._look_at = 0.0

    def take(self, pick: Callable[[Closed], T | None], url_of: Callable[[T], str]) -> T | None:
        """What ``pick`` finds past what is closed. The origin of its URL has a place until :meth:`leave`.

        One thread at a time picks, so that two do not both take a last place. After a look in vain past what
        is closed, the next one has time, unless a place is left before.
        """
        with self._picking:
            closed = self._closed()
            if closed and time.monotonic() < self._look_at:
                return None
            picked = pick(closed)
            if picked is not None:
                with self._lock:
                    self._busy[origin(url_of(picked))] += 1
            elif closed:
                self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
            return picked

    def leave(self, url: str, seconds: float) -> None:
        """After so many seconds of work."""
        where = origin(url)
        with self._lock:
            self._busy[where] -= 1
            if not self._busy[where]:
                del self._busy[where]
            self._slow.pop(where, None)
            if seconds > self._slow_seconds:
                self._slow[where] = None
                _forget_some(self._slow)
            self._look_at = 0.0

    def rest(self, url: str, seconds: float) -> None:
        """Nothing more is to go to this URL for so long."""
        with self._lock:
            self._rests.pop(url, None)
            self._rests[url] = time.monotonic() + seconds
            _forget_some(self._rests)

    def _closed(self) -> Closed:
        with self._lock:
            now = time.monotonic()
            self._rests = {where: until for where, until in self._rests.items() if until > now}
            full = {where for where, busy in self._busy.items() if busy >= self._each}
            if sum(self._busy[where] for where in self._slow) >= self._of_slow_ones:
                full |= self._slow.keys()
            return Closed(sorted(full), sorted(self._rests))


def _forget_some(known: dict[str, Any]) -> None:
    if len(known) > MOST_KNOWN:
        del known[next(iter(known))]
