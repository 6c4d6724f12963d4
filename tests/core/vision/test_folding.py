from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from core.vision.folding import fold_batchnorm
from core.vision.resnet import ResNet

from .conftest import randomise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_folded_network_computes_the_same(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = ResNet((2, 2, 2, 2))
    randomise(network)
    network = network.eval().to(memory_format=memory_format)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batchnorm(network)
    pictures = torch.randn(2, 3, 64, 64).contiguous(memory_format=memory_format)
    with torch.inference_mode():
        pairs = zip(folded.features(pictures), network.features(pictures), strict=True)
        for (_, found), (_, expected) in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(folded(pictures), network(pictures), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # it was a copy that was folded


def test_a_dead_channel_with_tiny_variance_folds_exactly() -> None:
    torch.manual_seed(1)
    network = ResNet((1, 1, 1, 1)).eval()
    norm = network.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var[:8] = 1e-12
    pictures = 1e-3 * torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            fold_batchnorm(network).stem(pictures), network.stem(pictures), rtol=1e-4, atol=1e-4
        )


def test_folding_into_bfloat16_rounds_each_weight_once_and_spares_the_classifier() -> None:
    torch.manual_seed(4)
    network = ResNet((1, 1, 1, 1), 3)
    randomise(network)
    network.eval().to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact, rounded = fold_batchnorm(network), fold_batchnorm(network, torch.bfloat16)
    for name, parameter in rounded.named_parameters():
        expected = exact.get_parameter(name)
        if name.startswith("fc."):
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, expected)
        else:
            assert torch.equal(parameter, expected.to(torch.bfloat16)), name
            assert parameter.stride() == expected.stride()
    # Nothing is shared with the network that was folded: what is done to one is not done to the other.
    for made in (exact, rounded):
        made.to(torch.float16)
        for parameter in made.parameters():
            parameter.detach().fill_(7)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_folding_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="folded before"):
        fold_batchnorm(fold_batchnorm(ResNet((1, 1, 1, 1))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_operators_compute_the_same_and_only_without_gradient(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    network = ResNet((2, 1, 1, 1))
    randomise(network)
    folded = fold_batchnorm(network.eval()).to(dtype)
    pictures = torch.randn(2, 3, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
    expected = dict(folded.features(pictures.clone().requires_grad_(True)))
    assert all(output.grad_fn is not None for output in expected.values())
    with torch.inference_mode():
        before = pictures.clone()
        fused = folded.features(pictures)
        assert torch.equal(pictures, before)
        through = folded(pictures)  # in which blocks overwrite what came from the block before
        assert torch.equal(pictures, before)
        assert torch.equal(through, folded.head(fused[-1][1]))
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for name, output in fused:
        # All outputs are still there at the end: none was written over by the block that follows.
        torch.testing.assert_close(output, expected[name].detach(), rtol=tolerance, atol=tolerance)
        assert output.is_contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.inference_mode():
        for name, output in folded.features(pictures):
            torch.testing.assert_close(output, expected[name].detach(), rtol=tolerance, atol=tolerance)


def test_fused_operators_are_used_where_this_machine_has_them() -> None:
    folded = fold_batchnorm(ResNet((1, 1, 1, 1)).eval())
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        folded(torch.randn(1, 3, 64, 64))
    called = {event.key for event in profiled.key_averages()}
    has_them: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    assert ("mkldnn::_convolution_pointwise" in called) == has_them


def test_packed_weights_follow_the_weights() -> None:
    torch.manual_seed(3)
    network = ResNet((1, 1, 1, 1))
    randomise(network)
    folded = fold_batchnorm(network.eval(), torch.bfloat16)
    pictures = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        rounded = folded(pictures.bfloat16())
        torch.testing.assert_close(folded.float()(pictures), rounded, rtol=0.05, atol=0.05)
        before = folded.to(torch.bfloat16).stem(pictures.bfloat16())
        folded.get_parameter("conv1.weight").mul_(2)
        folded.get_parameter("conv1.bias").mul_(2)
        assert torch.equal(folded.stem(pictures.bfloat16()), 2 * before)
