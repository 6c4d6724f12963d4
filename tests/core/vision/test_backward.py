from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.vision.backward import value_and_gradient
from core.vision.folding import FoldedResNet, fold_batchnorm
from core.vision.manifest import StrideOn
from core.vision.resnet import ResNet
from tests.machine import needs_fused_bfloat16

from .conftest import randomise


def folded(dtype: torch.dtype, stride_on: StrideOn = "3x3") -> FoldedResNet:
    torch.manual_seed(5)
    network = ResNet((2, 1, 2, 1), 3, stride_on=stride_on)
    randomise(network)
    return fold_batchnorm(network.eval().requires_grad_(False).to(memory_format=torch.channels_last), dtype)


def pictures(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(3, 3, 64, 64, generator=generator, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )


def score(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, [0, 2]].logsumexp(1)


def by_autograd(network: ResNet, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    values = score(network(x).float())
    (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), gradient


@pytest.mark.parametrize("stride_on", ["3x3", "first_1x1"])
def test_it_is_autograd_s(stride_on: StrideOn) -> None:
    network, x = folded(torch.float32, stride_on), pictures(torch.float32)
    before = x.clone()
    values, gradient = value_and_gradient(network, x, score)
    expected = by_autograd(network, x)
    torch.testing.assert_close(values, expected[0], rtol=1e-5, atol=1e-5)
    errors = (gradient - expected[1]).flatten(1).norm(dim=1) / expected[1].flatten(1).norm(dim=1)
    assert errors.median() < 1e-5
    # A ReLU whose input is zero up to rounding may be open here and shut there.
    assert errors.max() < 0.02
    assert torch.equal(x, before)
    assert all(parameter.grad is None for parameter in network.parameters())


@needs_fused_bfloat16
def test_in_bfloat16_it_is_as_near_to_float32_as_autograd_is() -> None:
    exact = by_autograd(folded(torch.float32), pictures(torch.float32))[1]
    network, x = folded(torch.bfloat16), pictures(torch.float32).bfloat16()

    def error(gradient: Tensor) -> float:
        return float((gradient.float() - exact).norm() / exact.norm())

    values, gradient = value_and_gradient(network, x, score)
    assert values.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert error(gradient) < 1.2 * error(by_autograd(network, x)[1]) < 0.3


def test_each_picture_has_its_own() -> None:
    network, x = folded(torch.float32), pictures(torch.float32)
    together = value_and_gradient(network, x, score)
    for index in range(len(x)):
        alone = value_and_gradient(network, x[index : index + 1], score)
        torch.testing.assert_close(alone[0][0], together[0][index], rtol=1e-5, atol=1e-5)
        scale = float(alone[1].abs().max())
        torch.testing.assert_close(alone[1][0], together[1][index], rtol=1e-4, atol=1e-5 * scale)


@needs_fused_bfloat16
def test_it_follows_the_weights() -> None:
    network, x = folded(torch.bfloat16), pictures(torch.bfloat16)
    before = value_and_gradient(network, x, score)[1]
    with torch.no_grad():
        network.get_parameter("layer1.1.conv2.weight").zero_()
        network.get_parameter("layer3.1.conv1.weight").zero_()
    after = value_and_gradient(network, x, score)[1]
    assert not torch.equal(before, after)
    expected = by_autograd(network, x)[1].float()
    assert (after.float() - expected).norm() < 0.3 * expected.norm()
