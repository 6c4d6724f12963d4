from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.vision.checkpoint import save_checkpoint
from core.vision.engine import Engine
from core.vision.resnet import ResNet

from ..vision.conftest import randomise, small_card


@pytest.fixture(scope="package")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-14 with random weights for cat and dog, at 64 pixels."""
    torch.manual_seed(11)
    network = ResNet((1, 1, 1, 1), 2)
    randomise(network)
    with torch.no_grad():
        network.fc.weight *= 100  # random weights are hardly moved by a picture
    path = tmp_path_factory.mktemp("weights") / "two.json"
    save_checkpoint(network, path, small_card(labels=("cat", "dog")), dtype=torch.float32)
    return path


@pytest.fixture
def engine(manifest: Path) -> Engine:
    return Engine(manifest, device="cpu", precision="fp32")
