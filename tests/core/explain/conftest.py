"""A small network with random weights, one that is linear and computed by hand, and the shipped one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from numpy.typing import NDArray
from torch import Tensor, nn

from core.explain.explainer import Explainer
from core.vision.engine import Engine
from core.vision.precision import synthetic_pictures
from core.vision.resnet import ResNet

from ..vision.conftest import EXAMPLES, SHIPPED, two_class_weights


@pytest.fixture(scope="session")
def two_class_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_class_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def explainer(two_class_manifest: Path) -> Explainer:
    """In float32."""
    return Explainer(Engine(two_class_manifest, device="cpu", precision="fp32"))


@pytest.fixture
def fast_explainer(two_class_manifest: Path) -> Explainer:
    """With a bfloat16 network beside the float32 one."""
    return Explainer(Engine(two_class_manifest, device="cpu", precision="bf16"))


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """uint8 [64, 64, 3]."""
    return synthetic_pictures(1, 64, seed=3)[0].numpy()


class Linear(nn.Module):
    """Logits linear in the pixels: means over cells of 4 x 4 pixels, times ``weight`` [2, 3 * 16 * 16].

    It has the parts of a ResNet that explanations ask for, and no blocks.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv1 = nn.Conv2d(3, 1, 1)
        self.weight = nn.Parameter(torch.randn(2, 3 * 16 * 16, generator=generator) / 50)
        with torch.no_grad():
            self.weight.view(2, 3, 16, 16)[:, :, 2, 7] = 0  # a cell that nothing depends on
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))

    def stem(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4)

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        return iter(())

    def head(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T

    def gradient(self, index: int) -> Tensor:
        """Of the log-odds of class ``index``, by every pixel: [1, 3, 64, 64]."""
        cells = (self.weight[index] - self.weight[1 - index]).view(1, 3, 16, 16) / 16
        return cells.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture
def linear(explainer: Explainer) -> Linear:
    """Takes the place of the network in ``explainer``."""
    network = Linear()
    explainer.exact = explainer.fast = cast(ResNet, network)
    return network


@pytest.fixture(scope="session")
def shipped_explainer() -> Explainer:
    """ResNet-101 with the shipped weights, in bfloat16 where that is fast here and certified."""
    return Explainer(Engine(SHIPPED, device="cpu"))


@pytest.fixture(scope="session")
def photo(shipped_explainer: Explainer) -> NDArray[np.uint8]:
    """The cat Abyssinian_123 as the shipped network sees it."""
    (path,) = (path for path in EXAMPLES if path.stem == "Abyssinian_123")
    return shipped_explainer.engine.prepare(path.read_bytes())


def assert_clean(explainer: Explainer) -> None:
    """No parameter can be trained, holds a gradient, or has hooks around it."""
    for network in {explainer.exact, explainer.fast, explainer.original}:
        for parameter in network.parameters():
            assert not parameter.requires_grad
            assert parameter.grad is None
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
            assert not module._backward_pre_hooks


class Canceled(Exception):
    """What a worker's progress raises when the job is no longer wanted."""
