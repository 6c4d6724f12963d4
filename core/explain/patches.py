"""The network on pictures that differ from one picture in a small square: what stays the same is done once.

A square changes only its projective field: the positions of a layer from which it can be seen at all. In the
early layers that is little more than the square itself. There only a crop is computed, cut from the one
picture's activations with the changed part pasted in; as soon as a crop would be nearly everything, the
changed part is pasted into the whole, and the rest of the network runs as usual. The result is exact.
Nakandala, Kumar, Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations" (SIGMOD 2019), https://doi.org/10.1145/3299869.3319874.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.explain.explainer import dtype_of
from core.vision.folding import FoldedBottleneck
from core.vision.resnet import ResNet

# A crop that has more than this share of a layer's positions costs, with its copies, as much as the layer.
_WORTHWHILE = 0.7


@dataclass(frozen=True)
class _Layer:
    """A part of the network: output i is a function of inputs stride * i - reach to stride * i + reach."""

    run: Callable[[Tensor], Tensor]
    consume: Callable[[Tensor], Tensor]  # the same, and may overwrite what it is given
    stride: int
    reach: int

    @property
    def margin(self) -> int:
        """Outputs at each edge of a crop that would need inputs from outside of it."""
        return -(-self.reach // self.stride)


@dataclass(frozen=True)
class _Step:
    """A layer on crops: ``changed`` outputs a side may change, and ``crop`` inputs are needed for them."""

    layer: _Layer
    inputs: Tensor  # of the one picture, [1, C, H, W]
    crop: int
    changed: int

    @property
    def outputs(self) -> int:
        return self.inputs.shape[-1] // self.layer.stride


class PatchedPicture:
    """One picture, any square of which can be replaced by that of another.

    picture, other: normalised [1, 3, S, S]; side: of the squares, in pixels, at most S. ``steps`` says how
    many layers are computed on crops; 0 with ``reuse=False``, or where the squares are too large.
    """

    def __init__(
        self, network: ResNet, picture: Tensor, other: Tensor, side: int, *, reuse: bool = True
    ) -> None:
        self._network = network
        self._side = side
        self._other = other.to(dtype_of(network))
        layers = _layers(network)
        with torch.inference_mode():
            inputs = picture.to(dtype_of(network), memory_format=torch.channels_last)
            self._steps: list[_Step] = []
            changed = side
            for layer in layers if reuse else []:
                step = _step(layer, inputs, changed)
                if step is None:
                    break
                self._steps.append(step)
                inputs, changed = layer.run(inputs), step.changed
            self._inputs = inputs
        self._rest = layers[len(self._steps) :]

    @property
    def steps(self) -> int:
        return len(self._steps)

    @torch.inference_mode()
    def logits(self, corners: Sequence[tuple[int, int]]) -> Tensor:
        """One row for each (top, left) of a square: float32 [N, classes]."""
        patches = torch.cat([_square(self._other, corner, self._side) for corner in corners])
        places = list(corners)
        for step in self._steps:
            patches, places = _advance(step, patches, places)
        # repeat() copies, also for one: what is pasted must never reach the cached picture.
        x = self._inputs.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        _paste(x, patches, places)
        for layer in self._rest:
            x = layer.consume(x)
        return self._network.head(x).float()


def _layers(network: ResNet) -> list[_Layer]:
    # The stem: a 7x7 of stride 2 with 3 pixels of padding, then a 3x3 of stride 2 with 1: 2 * 1 + 3 = 5.
    layers = [_Layer(network.stem, network.stem, stride=4, reach=5)]
    for _, block in network.blocks():
        before = int(block.conv1.stride[0])  # 2 only where a stage's stride lies on the first 1x1
        consume = block.consume if isinstance(block, FoldedBottleneck) else block
        layers.append(_Layer(block, consume, stride=before * int(block.conv2.stride[0]), reach=before))
    return layers


def _step(layer: _Layer, inputs: Tensor, changed: int) -> _Step | None:
    """The layer on crops of ``inputs``, of which ``changed`` a side differ; None where that saves nothing."""
    size = inputs.shape[-1]
    outputs = (changed - 1 + 2 * layer.reach) // layer.stride + 1
    crop = layer.stride * (outputs + 2 * layer.margin)
    # Crops are aligned with the stride, also where they are moved inwards from the far edge.
    if size % layer.stride or inputs.shape[-2] != size or crop**2 > _WORTHWHILE * size**2:
        return None
    return _Step(layer, inputs, crop, outputs)


def _advance(
    step: _Step, patches: Tensor, places: list[tuple[int, int]]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Changed inputs [N, C, h, h] at ``places`` -> changed outputs and their places.

    At an edge of the picture the crop ends where the picture does, and the layer's own padding is right. At
    the other edges of the crop it is wrong, and the outputs that saw it are cut off.
    """
    shape = (len(places), step.inputs.shape[1], step.crop, step.crop)
    crops = torch.empty(shape, dtype=patches.dtype, device=patches.device, memory_format=torch.channels_last)
    stride, margin = step.layer.stride, step.layer.margin
    inside, after = [], []
    for number, (top, left) in enumerate(places):
        place = [
            min(max(-(-(start - step.layer.reach) // stride), 0), step.outputs - step.changed)
            for start in (top, left)
        ]
        origin = [
            min(max(stride * (start - margin), 0), step.inputs.shape[-1] - step.crop) for start in place
        ]
        crops[number] = _square(step.inputs, (origin[0], origin[1]), step.crop)[0]
        inside.append((top - origin[0], left - origin[1]))
        after.append((place, origin))
    _paste(crops, patches, inside)
    found = step.layer.consume(crops)
    changed = [
        _square(
            found[number : number + 1],
            (place[0] - origin[0] // stride, place[1] - origin[1] // stride),
            step.changed,
        )
        for number, (place, origin) in enumerate(after)
    ]
    return torch.cat(changed), [(place[0], place[1]) for place, _ in after]


def _square(x: Tensor, corner: tuple[int, int], side: int) -> Tensor:
    top, left = corner
    return x[:, :, top : top + side, left : left + side]


def _paste(x: Tensor, patches: Tensor, places: Sequence[tuple[int, int]]) -> None:
    """Overwrite, in the n-th of ``x`` [N, C, H, W], the square at the n-th place by the n-th patch."""
    side = patches.shape[-1]
    for number, corner in enumerate(places):
        _square(x[number : number + 1], corner, side).copy_(patches[number : number + 1])
