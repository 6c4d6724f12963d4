"""How many threads compute, where fewer are faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Operations in here run on the thread that calls them; afterwards as many compute as before.

    Loading a network is a few thousand operations of microseconds. Shared among threads, each of them waits
    for the slowest; where another process has that one's core, it waits for the scheduler as well. Of two
    workers that start on two cores, each took ten times as long.

    The number belongs to the process: no other thread should be computing meanwhile.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
