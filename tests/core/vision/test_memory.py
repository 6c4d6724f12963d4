from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.vision import memory

CPU = torch.device("cpu")


def cgroup(folder: Path, limit: str, used: int, cache: int) -> tuple[Path, Path, str]:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return folder / "memory.max", folder / "memory.current", "inactive_file"


def test_free_memory_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", (cgroup(tmp_path, "max", 100, 0),))
    assert memory.free_memory(CPU) == 5000 * 1024


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", (cgroup(tmp_path, "1000", 700, 200),))
    assert memory.free_memory(CPU) == 500
    monkeypatch.setattr(memory, "_CGROUPS", (cgroup(tmp_path, "1000", 1300, 200),))
    assert memory.free_memory(CPU) == 0


def test_without_linux_half_of_what_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = memory.free_memory(CPU)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUPS", ())
    assert known > 0
    assert 100_000_000 < memory.free_memory(CPU) < 1 << 50


def test_out_of_memory_on_this_machines_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not memory.is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))
