"""Runs that take seconds: ResNet-14 on stripes of 32 pixels, grown to ResNet-26."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training.config import Configuration
from core.training.train import train

CONFIGS = Path(__file__).parents[3] / "configs"


def configuration(output: Path, cache: Path, **changes: Any) -> Configuration:
    """Two stages of one epoch with 4 steps; a checkpoint after every third step, and at an epoch's end."""
    content: dict[str, Any] = {
        "experiment": {"name": "small", "seed": 3, "output": output, "checkpoint_steps": 3, "log_steps": 1},
        "data": {"source": "generated", "per_class": 26, "cache": cache, "validation": 0.2, "test": 0.15},
        "precision": "fp32",
        "optimiser": {"average": 0.8},
        "stages": [
            {"depths": [1, 1, 1, 1], "size": 32, "epochs": 1, "batch": 8},
            {"depths": [2, 2, 2, 2], "size": 32, "epochs": 1, "batch": 8, "rate": 5e-4},
        ],
    }
    return Configuration.model_validate(content | changes)


STEPS = 8


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of decoded pictures; it is keyed by the data, so all runs may share it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Configuration:
    """A run that nothing has interrupted."""
    config = configuration(tmp_path_factory.mktemp("runs"), cache)
    train(config, device="cpu")
    return config


Other = Callable[[], object]


@pytest.fixture
def at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[Other], None]:
    """Lets ``other`` happen, as if in another process, just before the next file takes its place."""

    def arrange(other: Other) -> None:
        replace = Path.replace

        def replaced(path: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "replace", replace)
            monkeypatch.setattr(os, "getpid", lambda: -1)
            other()
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", replaced)

    return arrange


def contents(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Bit for bit, through dictionaries and lists."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}.{index}")
    else:
        assert one == other, where
