"""The five methods as the project before this one computed them: what ``explanations`` is measured against.

Written anew from a description of its arithmetic, faults included, because they decide what it cost: float32,
BatchNorm not folded, every depth of Grad-CAM by a forward and a backward pass of its own, a fixed number of
gradients of a probability that saturates, and pictures drawn again for each request. A full request costs
about 830 forward passes. Batches are of 16 pictures, which is its fastest setting.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from core.vision.resnet import ResNet

DEPTHS = 15
STEPS = 256
WINDOW, WINDOWS_A_SIDE = 32, 17
WINDOWS = WINDOWS_A_SIDE**2
CHANNELS = 12
BATCH = 16
METHODS = ("grad_cam", "integrated_gradients", "occlusion", "feature_maps", "kernels")


def grad_cam(network: ResNet, x: Tensor, index: int) -> bytes:
    """x: [1, 3, S, S]. For each of 15 depths one forward and one backward pass, at the 3x3 convolution inside
    the residual branch; each map stretched to its own minimum and maximum."""
    blocks = [block for _, block in network.blocks()]
    tiles = []
    for number in np.linspace(0, len(blocks) - 1, DEPTHS).round().astype(int):
        kept: list[Tensor] = []
        hook = blocks[number].conv2.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        try:
            probability = network(x.clone().requires_grad_(True)).softmax(1)[0, index]
        finally:
            hook.remove()
        # The ReLU that follows works in place on BatchNorm's output, so the tapped tensor is still intact.
        (gradient,) = torch.autograd.grad(probability, kept)
        weights = gradient.mean((2, 3), keepdim=True)
        map_ = F.relu((weights * kept[0].detach()).sum(1, keepdim=True))
        tiles.append(F.interpolate(map_, size=x.shape[2:], mode="bilinear")[0, 0].cpu().numpy())
    return _png(np.concatenate([_coloured(tile) for tile in tiles], axis=1))


def integrated_gradients(network: ResNet, x: Tensor, index: int, steps: int = STEPS) -> bytes:
    """x: [1, 3, S, S]. Right Riemann sum of the gradients of the probability, from a baseline of zeros."""
    total = torch.zeros_like(x)
    for start in range(0, steps, BATCH):
        times = torch.arange(start + 1, min(start + BATCH, steps) + 1, device=x.device) / steps
        points = (times.view(-1, 1, 1, 1) * x).requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(points).softmax(1)[:, index].sum(), points)
        total += gradient.sum(0)
    channels = (total / steps * x)[0].clamp(min=0)
    return _png(_coloured(channels.sum(0).cpu().numpy()))


@torch.no_grad()
def occlusion(network: ResNet, x: Tensor, index: int, windows: int = WINDOWS) -> bytes:
    """x: [1, 3, S, S]. The fall of the probability, at least 0, for each of 17 x 17 windows of 32 pixels, or
    for the first ``windows`` of them."""
    starts = np.linspace(0, x.shape[-1] - WINDOW, WINDOWS_A_SIDE).round().astype(int)
    corners = [(top, left) for top in starts for left in starts][:windows]
    plain = network(x).softmax(1)[0, index]
    heat, count = torch.zeros(2, *x.shape[2:], device=x.device)
    for start in range(0, len(corners), BATCH):
        part = corners[start : start + BATCH]
        covered = x.repeat(len(part), 1, 1, 1)
        for picture, (top, left) in zip(covered, part, strict=True):
            picture[:, top : top + WINDOW, left : left + WINDOW] = 0
        falls = (plain - network(covered).softmax(1)[:, index]).clamp(min=0)
        for fall, (top, left) in zip(falls, part, strict=True):
            heat[top : top + WINDOW, left : left + WINDOW] += fall
            count[top : top + WINDOW, left : left + WINDOW] += 1
    return _png(_coloured((heat / count.clamp(min=1)).cpu().numpy()))


@torch.no_grad()
def feature_maps(network: ResNet, x: Tensor, _index: int) -> bytes:
    """x: [1, 3, S, S]. The first channels of every stage, in a forward pass of their own."""
    last = {name.partition(".")[0]: maps for name, maps in network.features(x)}
    rows = []
    for maps in last.values():
        row = F.interpolate(maps[:, :CHANNELS], size=(64, 64))[0].cpu().numpy()
        rows.append(np.concatenate([_coloured(tile, "viridis") for tile in row], axis=1))
    return _png(np.concatenate(rows))


def kernels(network: ResNet, _x: Tensor, _index: int) -> bytes:
    """The first kernels of the first convolution and of every stage's last 3x3, drawn for each request."""
    last = {name.partition(".")[0]: block.conv2 for name, block in network.blocks()}
    convolutions: list[nn.Conv2d] = [network.conv1, *last.values()]
    rows = []
    for convolution in convolutions:
        weights = convolution.weight[:CHANNELS].mean(1, keepdim=True)
        tiles = F.interpolate(weights, size=(64, 64))[:, 0].cpu().numpy()
        rows.append(np.concatenate([_coloured(tile, "viridis") for tile in tiles], axis=1))
    return _png(np.concatenate(rows))


def _coloured(values: NDArray[np.float32], name: str = "magma") -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low + 1e-8)
    return np.asarray(colormaps[name](share, bytes=True)[..., :3], np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()
