"""Networks are loaded once: the shipped one in float32, and a small one with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.vision.checkpoint import save_checkpoint
from core.vision.engine import Engine
from core.vision.manifest import InputFormat, ModelCard
from core.vision.resnet import ResNet

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "weights" / "resnet101-cat-dog.json"
EXAMPLES = sorted((REPOSITORY / "tests" / "examples").glob("*.jpg"))


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Weights and BatchNorm statistics as different from their initial values as training makes them."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + 0.5 * torch.rand(module.num_features, generator=generator))
                module.bias.copy_(0.1 * torch.randn(module.num_features, generator=generator))


def small_card(**changes: object) -> ModelCard:
    card = ModelCard(
        name="small",
        version="1",
        architecture="resnet14",
        labels=("cat", "dog", "fox"),
        input=InputFormat(size=64, resize_scale=1.14, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        temperature=1.5,
    )
    return card.model_copy(update=changes)


def two_class_weights(folder: Path) -> Path:
    """ResNet-14 with random weights for cat and dog, at 64 pixels: its manifest."""
    torch.manual_seed(11)
    network = ResNet((1, 1, 1, 1), 2)
    randomise(network)
    with torch.no_grad():
        network.fc.weight *= 100  # random weights are hardly moved by a picture
    path = folder / "two.json"
    save_checkpoint(network, path, small_card(labels=("cat", "dog")), dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def small_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-14 with random weights for three classes at 64 pixels."""
    torch.manual_seed(7)
    network = ResNet((1, 1, 1, 1), 3)
    randomise(network)
    path = tmp_path_factory.mktemp("weights") / "small.json"
    save_checkpoint(network, path, small_card(), dtype=torch.float32)
    return path


@pytest.fixture
def small_engine(small_manifest: Path) -> Engine:
    return Engine(small_manifest, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def shipped_engine() -> Engine:
    return Engine(SHIPPED, device="cpu", precision="fp32")
