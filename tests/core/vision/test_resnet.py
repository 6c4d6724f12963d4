from __future__ import annotations

import pytest
import torch
import torchvision

from core.vision.resnet import ResNet

from .conftest import randomise


def test_resnet101_has_42_504_258_parameters_for_two_classes() -> None:
    with torch.device("meta"):
        network = ResNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 42_504_258


def test_logits_equal_torchvision_on_the_same_weights() -> None:
    torch.manual_seed(0)
    oracle = torchvision.models.resnet101(num_classes=2)
    randomise(oracle)
    network = ResNet()
    network.load_state_dict(oracle.state_dict(), strict=True)
    pictures = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        expected = oracle.eval()(pictures)
        torch.testing.assert_close(network.eval()(pictures), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3  # the pictures and classes differ, so that equality means something


def test_initial_values_have_the_variance_of_torchvisions() -> None:
    torch.manual_seed(0)
    mine, oracle = (
        ResNet((1, 1, 1, 1)),
        torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=2),
    )
    for (name, found), (other_name, expected) in zip(
        mine.named_parameters(), oracle.named_parameters(), strict=True
    ):
        assert name == other_name
        if found.dim() == 4:
            assert found.std().item() == pytest.approx(expected.std().item(), rel=0.05)


def test_the_stride_can_lie_on_the_first_1x1() -> None:
    v1_5, v1 = ResNet((1, 1, 1, 1)), ResNet((1, 1, 1, 1), stride_on="first_1x1")
    for block in ("layer2.0", "layer3.0", "layer4.0"):
        assert v1_5.get_submodule(f"{block}.conv1").stride == (1, 1)
        assert v1_5.get_submodule(f"{block}.conv2").stride == (2, 2)
        assert v1.get_submodule(f"{block}.conv1").stride == (2, 2)
        assert v1.get_submodule(f"{block}.conv2").stride == (1, 1)
    pictures = torch.randn(1, 3, 64, 64)
    v1.load_state_dict(v1_5.state_dict())
    with torch.inference_mode():
        assert not torch.allclose(v1.eval()(pictures), v1_5.eval()(pictures), rtol=1e-2)


def test_features_are_the_stem_and_every_block_and_lead_to_the_logits() -> None:
    torch.manual_seed(1)
    network = ResNet((2, 1, 3, 1)).eval()
    pictures = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = network.features(pictures)
        torch.testing.assert_close(network.head(features[-1][1]), network(pictures), rtol=0, atol=0)
    assert [name for name, _ in features] == [
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer3.1", "layer3.2", "layer4.0",
    ]  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in features}
    assert shapes["stem"] == (2, 64, 16, 24)
    assert shapes["layer1.1"] == (2, 256, 16, 24)
    assert shapes["layer4.0"] == (2, 2048, 2, 3)


def test_gradients_with_respect_to_every_block_come_from_one_pass() -> None:
    torch.manual_seed(2)
    network = ResNet((1, 1, 1, 1)).eval().requires_grad_(False)
    picture = torch.randn(1, 3, 64, 64, requires_grad=True)
    features = [tensor for _, tensor in network.features(picture)]
    logits = network.head(features[-1])
    gradients = torch.autograd.grad(logits[0, 1], [picture, *features])
    # The head is linear: at the last block the gradient is the class's weight over the number of positions.
    expected = network.fc.weight[1].view(1, -1, 1, 1).expand_as(features[-1]) / 4
    torch.testing.assert_close(gradients[-1], expected)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_zero_init_residual_lets_blocks_be_inserted_unnoticed() -> None:
    torch.manual_seed(3)
    shallow = ResNet((1, 1, 1, 1)).eval()
    deep = ResNet((3, 2, 2, 2), zero_init_residual=True).eval()
    deep.load_state_dict(shallow.state_dict(), strict=False)
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(deep(pictures), shallow(pictures))


def test_the_head_keeps_float32_logits_after_bfloat16_blocks() -> None:
    network = ResNet((1, 1, 1, 1)).to(torch.bfloat16)
    network.fc.float()
    assert network.head(torch.zeros(1, 2048, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
