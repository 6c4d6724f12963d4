"""Fold each BatchNorm into the convolution before it, and on a CPU the additions and ReLUs as well.

In evaluation mode BatchNorm is an affine map with fixed numbers, gamma * (y - mean) / sqrt(var + eps) + beta,
and a convolution followed by an affine map is a convolution with other weights and a bias. The network
computes the same and reads and writes its activations less often.
Jacob et al. (2018), https://arxiv.org/abs/1712.05877, section 3.2.

What then follows each convolution, ReLU or the sum with the shortcut and ReLU, is done by oneDNN while the
results are still in a register: https://uxlfoundation.github.io/oneDNN/dev_guide_attributes_post_ops.html.
These are the operators that torch.compile would call, without a compiler; autograd does not know them, so
that where it records the network runs as usual (:mod:`core.vision.backward` does without it). In float32 the
logits differ by rounding alone (6e-8 at most was seen).
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from core.vision.resnet import Bottleneck, ResNet
from core.vision.threads import one_thread


class _Packed(NamedTuple):
    """``version``: the convolution's own weights when these were made of them."""

    version: int
    weights: Tensor


class FoldedConvolution(nn.Conv2d):
    """A convolution whose weights do BatchNorm's work too.

    bfloat16 weights are kept a second time, in the order in which AMX reads them, and a third time for the
    way back, once it is wanted. They would be made in every call otherwise, which for a single picture takes
    as long as half of the network.
    """

    _ahead: _Packed | None = None
    _back: _Packed | None = None

    def fused(self, x: Tensor, after: str = "relu") -> Tensor:
        """With ``after`` applied to the result."""
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weights, self.bias, *self._shape, after, [], ""
        )
        return found

    def fused_sum(self, x: Tensor, other: Tensor, *, overwrite: bool) -> Tensor:
        """relu(other + what comes of ``x``). Written over ``other`` it takes a fifth off a forward pass."""
        found: Tensor
        arguments = (self._weights, self.bias, *self._shape, "add", 1, "relu", [], "")
        if overwrite:
            found = torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *arguments)
        else:
            found = torch.ops.mkldnn._convolution_pointwise.binary(x, other, *arguments)
        return found

    def back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """From the derivative by the output to that by the input ``x``, of which only the shape matters."""
        found: Tensor
        if self.stride == (1, 1) and self.weight.dtype == torch.bfloat16:
            # A convolution that keeps the size is turned back by another one, with the kernels mirrored.
            if self._back is None or self._back.version != self.weight._version:
                self._back = self._packed(self.weight.transpose(0, 1).flip(2, 3))
            found = torch.ops.mkldnn._convolution_pointwise(
                gradient, self._back.weights, None, *self._shape, "none", [], ""
            )
        else:
            padding, stride, dilation, groups = self._shape
            shape = stride, padding, dilation, False, [0, 0], groups
            wanted = [True, False, False]
            found, _, _ = torch.ops.aten.convolution_backward(gradient, x, self.weight, None, *shape, wanted)
        return found

    @property
    def _weights(self) -> Tensor:
        if self.weight.dtype != torch.bfloat16:
            return self.weight
        if self._ahead is None or self._ahead.version != self.weight._version:
            self._ahead = self._packed(self.weight)
        return self._ahead.weights

    @property
    def _shape(self) -> tuple[Any, ...]:
        return self.padding, self.stride, self.dilation, self.groups

    def _packed(self, weights: Tensor) -> _Packed:
        plain = weights.detach().contiguous(memory_format=torch.channels_last)
        packed = torch.ops.mkldnn._reorder_convolution_weight(plain, *self._shape)
        return _Packed(self.weight._version, packed)


class FoldedBottleneck(Bottleneck):
    """A block without BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return self._fused(x, keep=True)[-1] if fusible(x) else super().forward(x)

    def consume(self, x: Tensor) -> Tensor:
        """The same, faster; ``x`` may be overwritten."""
        return self._fused(x, keep=False)[-1] if fusible(x) else super().forward(x)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes of each of the three convolutions, after its ReLU. ``x`` must be :func:`fusible`."""
        return self._fused(x, keep=True)

    def _fused(self, x: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        shortcut = x
        if self.downsample is not None:
            shortcut = cast(FoldedConvolution, self.downsample[0]).fused(x, "none")
        conv1, conv2, conv3 = (cast(FoldedConvolution, c) for c in (self.conv1, self.conv2, self.conv3))
        first = conv1.fused(x)
        second = conv2.fused(first)
        return first, second, conv3.fused_sum(second, shortcut, overwrite=not keep or shortcut is not x)


class FoldedResNet(ResNet):
    """A network without BatchNorm; :func:`fold_batchnorm` makes it."""

    def forward(self, x: Tensor) -> Tensor:
        if not fusible(x):
            return super().forward(x)
        x = self.stem(x)
        for _, block in self.blocks():
            x = cast(FoldedBottleneck, block).consume(x)
        return self.head(x)

    def stem(self, x: Tensor) -> Tensor:
        if not fusible(x):
            return super().stem(x)
        return F.max_pool2d(cast(FoldedConvolution, self.conv1).fused(x), 3, stride=2, padding=1)


@one_thread()
def fold_batchnorm(network: ResNet, dtype: torch.dtype | None = None) -> FoldedResNet:
    """A copy of ``network`` (in evaluation mode) without BatchNorm; equal up to rounding.

    With ``dtype`` its convolutions are of that type; the classifier, with the mean before it, keeps its own.
    Every output of :meth:`ResNet.features` stays the same; the kernels do not, each is scaled.
    """
    # The modules are copied and the tensors are not: folding makes new ones, and memory that is touched for
    # the first time costs more than the arithmetic.
    tensors = chain(network.parameters(), network.buffers())
    folded = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    folded.fc = copy.deepcopy(network.fc)
    _fold(folded.conv1, folded.bn1, dtype)
    folded.bn1 = nn.Identity()
    for _, block in folded.blocks():
        _fold(block.conv1, block.bn1, dtype)
        _fold(block.conv2, block.bn2, dtype)
        _fold(block.conv3, block.bn3, dtype)
        block.bn1, block.bn2, block.bn3 = nn.Identity(), nn.Identity(), nn.Identity()
        if block.downsample is not None:
            convolution, norm = block.downsample
            _fold(convolution, norm, dtype)
            block.downsample = nn.Sequential(convolution)
        # Made anew, its random weights would take longer to draw than the network takes to load.
        block.__class__ = FoldedBottleneck
    folded.__class__ = FoldedResNet
    return cast(FoldedResNet, folded)


def fusible(x: Tensor) -> bool:
    """Whether oneDNN's fused operators can take the place of torch's own for ``x``."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32


def _fold(convolution: nn.Module, norm: nn.Module, dtype: torch.dtype | None) -> None:
    """Give ``convolution`` the weights and bias that also do the work of ``norm``."""
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        raise TypeError("only a convolution followed by BatchNorm2d can be folded; was it folded before?")
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("a BatchNorm without running statistics cannot be folded")
    with torch.no_grad():
        # In float64 the sums add nothing to the rounding of the forward pass, even where a dead channel's
        # tiny variance makes the quotient large. The product is as exact in the weights' own type.
        scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
        weight = convolution.weight * scale.to(convolution.weight.dtype)[:, None, None, None]
        bias = norm.bias.double() - mean.double() * scale
        dtype = dtype or convolution.weight.dtype
        convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    convolution.__class__ = FoldedConvolution
