"""Kernels: the patterns of weights that the network looks for. They depend on the weights alone.

Only the first convolution reads colours, so only its kernels can be looked at as pictures (Zeiler, Fergus,
"Visualizing and Understanding Convolutional Networks", 2014, https://arxiv.org/abs/1311.2901). Of the 3x3
convolutions in the blocks one sees slices: the 3 x 3 weights from one input channel to one output channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.explain.explainer import Explainer
from core.explain.explanation import Explanation, Floats, Layer, Progress, Target, no_progress
from core.explain.options import KernelsOptions


def explain(
    explainer: Explainer,
    picture: NDArray[np.uint8] | None,  # noqa: ARG001 - the signature that all methods share
    target: Target,
    options: KernelsOptions,
    progress: Progress = no_progress,
) -> Explanation:
    """Neither ``picture`` nor ``target`` has any influence: the result can be kept for all pictures.

    layers, by depth, the raw trained weights (before any BatchNorm was folded in), largest norm first:
      "conv1": float32 [kernels, 3, 7, 7], channels R, G, B.
      "layerN.M.conv2", the last block of each stage: float32 [kernels, 3, 3], slices of kernels; ``channels``
      are the output channels, and ``provenance["slices"]`` has their (output, input) pairs. Each output
      channel is shown once, by the slice of its largest norm.
    attribution: None.
    """
    network = explainer.original
    convolutions = {"conv1": network.conv1}
    ends = {name.partition(".")[0]: (name, block) for name, block in network.blocks()}
    convolutions |= {f"{name}.conv2": block.conv2 for name, block in ends.values()}

    layers, slices = [], {}
    for name, convolution in convolutions.items():
        weights = convolution.weight.detach().float().cpu().numpy()  # [output, input, k, k]
        if name == "conv1":
            chosen = strongest(weights, options.kernels)
            layers.append(Layer(name, weights[list(chosen)], chosen))
        else:
            inputs = np.square(weights).sum((2, 3)).argmax(1)
            kernels = weights[np.arange(len(weights)), inputs]
            chosen = strongest(kernels, options.kernels)
            layers.append(Layer(name, kernels[list(chosen)], chosen))
            slices[name] = [[output, int(inputs[output])] for output in chosen]
    progress(1, 1, None)
    return Explanation(
        method="kernels",
        target=target,
        attribution=None,
        layers=tuple(layers),
        provenance={
            **explainer.provenance(network, "the weights as they were trained"),
            "channels": {layer.name: list(layer.channels) for layer in layers},
            "slices": slices,
        },
    )


def strongest(kernels: Floats, count: int) -> tuple[int, ...]:
    """Numbers of the ``count`` kernels with the largest L2 norm, in that order; ties keep the kernels'."""
    norms = np.square(kernels.astype(np.float64)).sum(axis=tuple(range(1, kernels.ndim)))
    return tuple(np.argsort(-norms, kind="stable")[:count].tolist())
