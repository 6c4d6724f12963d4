"""How much memory is free for a batch, and whether an error says that there was not enough."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
# Version 2 and version 1 of Linux's control groups: limit, usage, and the name in memory.stat of the page
# cache that is counted as used but would be given back.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated on ``device``: the GPU's own, or the machine's or container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min([_free_in_machine(), *(_free_in_cgroup(*files) for files in _CGROUPS)])


def _free_in_machine() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Not Linux. Half of what is installed is a guess, and out-of-memory errors correct it.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_cgroup(limit: Path, usage: Path, cache_name: str) -> int:
    """A container's memory limit less its use; a very large number where there is no limit."""
    unlimited = 1 << 62
    try:
        allowed = int(limit.read_text())  # "max" in version 2
        used = int(usage.read_text())
        statistics = dict(line.split() for line in (usage.parent / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return unlimited
    return max(0, allowed - used + int(statistics.get(cache_name, 0)))


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; on the CPU and on MPS it is a RuntimeError known by its words alone.

    An AcceleratorError is none, whatever it says: nothing that this process asks of the device works again.
    """
    if isinstance(error, torch.AcceleratorError):
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("DefaultCPUAllocator", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
