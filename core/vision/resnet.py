"""ResNet with bottleneck blocks, from scratch.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2015), https://arxiv.org/abs/1512.03385.
By default the stride of a stage lies on the 3x3 convolution ("ResNet v1.5", as in torchvision), not on the
first 1x1 as in the paper. Parameters are named as in torchvision, so that its weights load.

The input is already normalised: mean and standard deviation belong to the weights' manifest, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from core.vision.manifest import StrideOn

# The identity takes its place where core.vision.folding has folded it into the convolution.
Norm = nn.BatchNorm2d | nn.Identity


class Bottleneck(nn.Module):
    """1x1 to narrow, 3x3 to look around, 1x1 to widen by four; added to its own input.

    ``downsample`` projects the input where the block changes the shape; elsewhere the shortcut is the
    identity.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, stride_on: StrideOn) -> None:
        super().__init__()
        outputs = width * self.expansion
        first, second = (stride, 1) if stride_on == "first_1x1" else (1, stride)
        # No biases: the BatchNorm that follows would take them out again.
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first, bias=False)
        self.bn1: Norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2: Norm = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3: Norm = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        # x: [N, inputs, H, W] -> [N, 4 * width, H / stride, W / stride]
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        x += shortcut
        return F.relu(x, inplace=True)


class ResNet(nn.Module):
    """A stem, four stages of bottleneck blocks, and a linear classifier of the spatial mean.

    ``depths`` are the blocks of each stage; (3, 4, 23, 3) is ResNet-101, with 42,504,258 parameters for two
    classes. ``zero_init_residual`` starts each block as the identity (Goyal et al., 2017,
    https://arxiv.org/abs/1706.02677), so that blocks can be inserted into a trained network without changing
    what it computes.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (3, 4, 23, 3),
        num_classes: int = 2,
        *,
        stride_on: StrideOn = "3x3",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.depths = depths
        self.num_classes = num_classes
        self.stride_on = stride_on

        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1: Norm = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, depths[0], 1, stride_on)
        self.layer2 = _stage(256, 128, depths[1], 2, stride_on)
        self.layer3 = _stage(512, 256, depths[2], 2, stride_on)
        self.layer4 = _stage(1024, 512, depths[3], 2, stride_on)
        self.fc = nn.Linear(2048, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Keeps the variance of gradients through ReLUs; BatchNorm's own defaults (1 and 0) are right.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(cast(nn.BatchNorm2d, module.bn3).weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures [N, 3, H, W] to logits [N, num_classes]."""
        x = self.stem(x)
        for _, block in self.blocks():
            x = block(x)
        return self.head(x)

    def stem(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 64, H / 4, W / 4]."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.max_pool2d(x, 3, stride=2, padding=1)

    def blocks(self) -> Iterator[tuple[str, Bottleneck]]:
        """All blocks in the order of the forward pass, named as in the state dict: "layer1.0", ..."""
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for index, block in self.get_submodule(stage).named_children():
                yield f"{stage}.{index}", cast(Bottleneck, block)

    def head(self, x: Tensor) -> Tensor:
        """[N, 2048, H / 32, W / 32] -> logits [N, num_classes].

        The mean is taken in the classifier's type: with bfloat16 blocks and a float32 classifier the logits,
        where rounding would show, stay float32.
        """
        logits: Tensor = self.fc(x.mean(dim=(2, 3), dtype=self.fc.weight.dtype))
        return logits

    def features(self, x: Tensor) -> list[tuple[str, Tensor]]:
        """The output of the stem and of every block, in one forward pass and without hooks.

        ``head`` of the last is the logits, so one pass serves a prediction, feature maps, and gradients with
        respect to any layer. Shapes at 224 pixels: stem [N, 64, 56, 56], layer1 [N, 256, 56, 56],
        layer2 [N, 512, 28, 28], layer3 [N, 1024, 14, 14], layer4 [N, 2048, 7, 7].
        """
        x = self.stem(x)
        outputs = [("stem", x)]
        for name, block in self.blocks():
            x = block(x)
            outputs.append((name, x))
        return outputs


def _stage(inputs: int, width: int, depth: int, stride: int, stride_on: StrideOn) -> nn.Sequential:
    """``depth`` blocks; the first changes resolution and channels, the others keep them."""
    first = Bottleneck(inputs, width, stride, stride_on)
    others = (Bottleneck(width * Bottleneck.expansion, width, 1, stride_on) for _ in range(depth - 1))
    return nn.Sequential(first, *others)
