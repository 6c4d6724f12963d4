"""What a figure was measured on. A figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_NVIDIA_FIELDS = ("uuid", "driver_version", "power.limit")


def machine() -> dict[str, Any]:
    """Processor, memory, versions, and how busy it was when this was asked."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name, as Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerator(device: torch.device) -> dict[str, Any]:
    """The GPU's name, driver and memory; of a CPU nothing. ``nvidia-smi`` is asked where there is one,
    because torch knows no driver's version."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    found: dict[str, Any] = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }
    for line in _nvidia_smi():
        values = dict(zip(_NVIDIA_FIELDS, line.split(", "), strict=False))
        if values["uuid"].endswith(str(properties.uuid)):
            found |= {"driver": values.get("driver_version"), "power_limit": values.get("power.limit")}
    return found


def _nvidia_smi() -> list[str]:
    """A line for each GPU; none where there is no such program, or no driver."""
    ask = ["nvidia-smi", f"--query-gpu={','.join(_NVIDIA_FIELDS)}", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(ask, check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()
    return []


def peak_bytes(device: torch.device) -> dict[str, int]:
    """The most memory so far: of this process, and of torch's allocator on a GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device)
        found["device_reserved"] = torch.cuda.max_memory_reserved(device)
    elif device.type == "mps":
        found["device"] = torch.mps.driver_allocated_memory()
    return found
