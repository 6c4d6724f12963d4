"""Fold each BatchNorm into the convolution before it.

In evaluation mode BatchNorm is an affine map with fixed numbers, gamma * (y - mean) / sqrt(var + eps) + beta,
and a convolution followed by an affine map is a convolution with other weights and a bias. The network
computes the same and reads and writes its activations less often.
Jacob et al. (2018), https://arxiv.org/abs/1712.05877, section 3.2.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from core.vision.resnet import ResNet


def fold_batchnorm(network: ResNet) -> ResNet:
    """A copy of ``network`` (in evaluation mode) without BatchNorm; equal up to rounding.

    Every output of :meth:`ResNet.features` stays the same; the kernels do not, each is scaled.
    """
    folded = copy.deepcopy(network).eval()
    _fold(folded.conv1, folded.bn1)
    folded.bn1 = nn.Identity()
    for _, block in folded.blocks():
        _fold(block.conv1, block.bn1)
        _fold(block.conv2, block.bn2)
        _fold(block.conv3, block.bn3)
        block.bn1, block.bn2, block.bn3 = nn.Identity(), nn.Identity(), nn.Identity()
        if block.downsample is not None:
            convolution, norm = block.downsample
            _fold(convolution, norm)
            block.downsample = nn.Sequential(convolution)
    return folded


def _fold(convolution: nn.Module, norm: nn.Module) -> None:
    """Give ``convolution`` the weights and bias that also do the work of ``norm``."""
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        raise TypeError("only a convolution followed by BatchNorm2d can be folded; was it folded before?")
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("a BatchNorm without running statistics cannot be folded")
    with torch.no_grad():
        # In float64 this step adds nothing to the rounding of the forward pass, even where a dead channel's
        # tiny variance makes the quotient large.
        scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
        weight = convolution.weight.double() * scale[:, None, None, None]
        bias = norm.bias.double() - mean.double() * scale
        dtype = convolution.weight.dtype
        convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
