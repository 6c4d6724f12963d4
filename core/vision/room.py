"""Memory for pictures that are being decoded, shared by all threads of a process.

A file of one kilobyte may hold 25 million pixels. As WebP they take 400 MiB while they are decoded; eight
threads with such a file each took 3 GB.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """So many bytes. Who wants more than are free waits; who wants more than there are waits to be alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._freed = threading.Condition()
        self._queue = threading.Lock()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        wanted = min(wanted, self.size)
        with self._queue, self._freed:  # the first holds the queue while it waits: no small one overtakes it
            self._freed.wait_for(lambda: wanted <= self._free)
            self._free -= wanted
        try:
            yield
        finally:
            with self._freed:
                self._free += wanted
                self._freed.notify()
