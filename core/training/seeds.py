"""Randomness as a function of the position in the run, never of what was drawn before.

Each draw has a generator of its own, seeded by what it is for: ("order", stage, epoch), ("augment", stage,
epoch, step). So there is no state of a generator to save: a run that was killed goes on with the very numbers
it would have drawn, whatever other threads do.
"""

from __future__ import annotations

import hashlib
import os

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose; different purposes have nothing in common."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator on the CPU: numbers that are drawn there are the same for every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def make_deterministic(device: torch.device) -> None:
    """Choose algorithms that give the same sums in every run. To be called before the device's first use.

    On the CPU they do anyway, for the same number of threads. On CUDA torch warns of operators without one.
    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory with nan would find reads of it; ours has been looked at, and it costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
