"""A deeper network that computes the same, so that most of the training is done by a shallow, cheap one.

The blocks added to a stage follow those that are there, and the weight of their last BatchNorm is zero: they
begin as the identity (Chen, Goodfellow, Shlens, "Net2Net", 2015, https://arxiv.org/abs/1511.05641; the zero
is that of Goyal et al., 2017, https://arxiv.org/abs/1706.02677). What was there keeps its names, by which
optimiser state and averages carry over.
"""

from __future__ import annotations

import torch

from core.training.config import Depths
from core.vision.resnet import ResNet


def grow(network: ResNet, depths: Depths, seed: int) -> ResNet:
    """A network of ``depths`` with the same outputs, bit for bit in float32, in training mode too.

    It has copies of the weights, on the CPU, and ``seed`` draws those of the new blocks. Raises ValueError if
    a stage would become shallower.
    """
    if any(new < old for old, new in zip(network.depths, depths, strict=True)):
        raise ValueError(f"{network.depths} cannot grow to {depths}")
    # A seed of its own, and the global generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        deeper = ResNet(
            depths, network.num_classes, stride_on=network.stride_on, zero_init_residual=True
        ).train(network.training)
    deeper.load_state_dict(deeper.state_dict() | network.state_dict())
    return deeper
