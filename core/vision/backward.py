"""The derivative of a folded network's answer by the picture, with the fused operators on the way forward.

Explanations differentiate by pictures and never by weights. Then little has to be remembered: a
convolution's derivative needs its weights alone, and a ReLU's is told by its own output. So the forward pass
can be the fast one of :mod:`core.vision.folding`, whose operators autograd does not know, and the way back is
the chain rule, block by block. Measured with AMX in bfloat16, four pictures of 224 pixels: 45 ms a picture,
63 by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from core.vision.folding import FoldedBottleneck, FoldedConvolution, FoldedResNet

_POOL: tuple[list[int], ...] = ([3, 3], [2, 2], [1, 1])  # the stem's kernel, stride and padding


@torch.no_grad()
def value_and_gradient(
    network: FoldedResNet, x: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """What autograd gives for ``score(network(x))``. ``x`` must be :func:`core.vision.folding.fusible`.

    x: [N, 3, H, W] of the convolutions' type. score: logits, float32 [N, classes] -> [N], each of its row.
    Returns the scores [N] and their derivatives [N, 3, H, W], of the type of ``x``.
    """
    first = cast(FoldedConvolution, network.conv1)
    before = first.fused(x)
    pooled, places = torch.ops.aten.max_pool2d_with_indices(before, *_POOL)
    steps: list[tuple[FoldedBottleneck, tuple[Tensor, ...]]] = []
    output = pooled
    for _, block in network.blocks():
        block = cast(FoldedBottleneck, block)
        steps.append((block, block.outputs(output)))
        output = steps[-1][1][-1]

    values, slope = _of_head(network.fc, output, score)
    height, width = output.shape[2:]
    gradient = (slope / (height * width)).to(x.dtype)[:, :, None, None]
    gradient = gradient.expand_as(output).contiguous(memory_format=torch.channels_last)
    while steps:
        block, outputs = steps.pop()
        gradient = _through(block, steps[-1][1][-1] if steps else pooled, outputs, gradient)
    gradient = torch.ops.aten.max_pool2d_with_indices_backward(
        gradient, before, *_POOL, [1, 1], False, places
    )
    return values, first.back(x, _where_positive(gradient, before))


def _of_head(
    classifier: nn.Linear, output: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The scores [N], and their derivatives by the mean over positions, [N, C]; so small, by autograd."""
    with torch.enable_grad():
        mean = output.mean(dim=(2, 3), dtype=classifier.weight.dtype).requires_grad_(True)
        values = score(classifier(mean).float())
        (slope,) = torch.autograd.grad(values.sum(), mean)
    return values.detach(), slope


def _through(block: FoldedBottleneck, x: Tensor, outputs: tuple[Tensor, ...], gradient: Tensor) -> Tensor:
    """From the derivative by the block's output to that by its input ``x``."""
    narrow, wide, output = outputs
    conv1, conv2, conv3 = (cast(FoldedConvolution, c) for c in (block.conv1, block.conv2, block.conv3))
    gradient = _where_positive(gradient, output)
    inside = _where_positive(conv3.back(wide, gradient), wide)
    inside = conv1.back(x, _where_positive(conv2.back(narrow, inside), narrow))
    if block.downsample is not None:
        gradient = cast(FoldedConvolution, block.downsample[0]).back(x, gradient)
    return inside.add_(gradient)


def _where_positive(gradient: Tensor, output: Tensor) -> Tensor:
    """Through a ReLU, in place."""
    through: Tensor = torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)
    return through
