"""Doing one thing after the other in some of a worker's threads, until there is nothing left to do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


def drain(
    do_one: Callable[[], bool],
    *,
    places: threading.BoundedSemaphore,
    stopping: threading.Event,
    seconds: float = math.inf,
) -> bool:
    """Call ``do_one`` until it finds nothing to do or the time is up; True when there may be more.

    Returns at once when as many threads as there are ``places`` do so.
    """
    if not places.acquire(blocking=False):
        return False
    leave_at = time.monotonic() + seconds
    try:
        while not stopping.is_set():
            if not do_one():
                return False
            if time.monotonic() >= leave_at:
                break
        return True
    finally:
        places.release()
