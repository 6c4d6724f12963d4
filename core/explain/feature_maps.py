"""Feature maps: what the channels of each stage respond to in this picture.

The outputs of the stem and of the four stages, as the network hands them on: after ReLU, so never negative. A
channel is dead in a picture if it is zero everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.explain.explainer import Explainer, finite
from core.explain.explanation import Explanation, Layer, Progress, Target, no_progress
from core.explain.options import FeatureMapsOptions
from core.explain.target import log_odds


def explain(
    explainer: Explainer,
    picture: NDArray[np.uint8],
    target: Target,
    options: FeatureMapsOptions,
    progress: Progress = no_progress,
) -> Explanation:
    """``picture``: uint8 [S, S, 3].

    layers: of the stem and of each stage's last block, by depth, float32 [channels, H, W], the channels that
      rank highest first: by mean activation, or by contribution to the log-odds, which is Grad-CAM's
      weight times the activation, summed over positions. Ties keep the channels' order.
    attribution: None; a channel says what is seen, not what speaks for the class.

    Always float32. Raises DeviceOutOfMemory, NonFiniteLogits, and whatever ``progress`` raises.
    """
    rank = _by_contribution if options.by == "contribution" else _by_activation
    (ranked,) = explainer.chunks(1, lambda _start, _stop: rank(explainer, picture, target.index))
    layers = []
    for name, (maps, scores) in ranked.items():
        values, order = maps.cpu().numpy(), np.argsort(-scores.cpu().numpy(), kind="stable")
        channels = tuple(order[: options.channels].tolist())
        dead = tuple(channel for channel in channels if not values[channel].any())
        layers.append(Layer(name, values[list(channels)], channels, dead))
    progress(1, 1, None)
    return Explanation(
        method="feature_maps",
        target=target,
        attribution=None,
        layers=tuple(layers),
        provenance={
            **explainer.provenance(explainer.exact, "one or two passes: nothing to gain from less"),
            "by": options.by,
            "channels": {layer.name: list(layer.channels) for layer in layers},
        },
    )


Ranked = dict[str, tuple[Tensor, Tensor]]
"""Of each layer the maps [C, H, W] and the channels' scores [C]."""


@torch.inference_mode()
def _by_activation(explainer: Explainer, picture: NDArray[np.uint8], _index: int) -> Ranked:
    features = _stage_ends(explainer.exact.features(explainer.tensor(picture)))
    return {name: (finite(maps)[0], maps[0].mean((1, 2))) for name, maps in features.items()}


def _by_contribution(explainer: Explainer, picture: NDArray[np.uint8], index: int) -> Ranked:
    network = explainer.exact
    with torch.enable_grad():
        outputs = network.features(explainer.tensor(picture).requires_grad_(True))
        margin = log_odds(network.head(outputs[-1][1]), index).sum()
        features = _stage_ends(outputs)
        gradients = torch.autograd.grad(margin, list(features.values()))
    return {
        name: (
            finite(maps.detach())[0],
            gradient[0].mean((1, 2)) * maps.detach()[0].sum((1, 2)),
        )
        for (name, maps), gradient in zip(features.items(), gradients, strict=True)
    }


def _stage_ends(outputs: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The last output of each stage: "layer1.0" and "layer1.2" share the stage "layer1"."""
    last = {name.partition(".")[0]: name for name, _ in outputs}
    return {name: output for name, output in outputs if name in last.values()}
