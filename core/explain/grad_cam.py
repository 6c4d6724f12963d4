"""Grad-CAM: which regions each layer drew the class from.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV
2017), https://arxiv.org/abs/1610.02391: a channel's weight is the mean over positions of the derivative of
the class's score by its activation, and the map is ReLU(sum of weight * activation). Here the score is the
log-odds and the layers are the outputs of the blocks, after the residual sum. All come from one forward and
one backward pass.

The maps are kept signed; that only their positive part is shown as Grad-CAM is left to the rendering. After
the last block comes nothing but the mean and the classifier: for two classes its map, summed, is the log-odds
less the difference of the classifier's biases, so that there Grad-CAM is exact.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from numpy.typing import NDArray

from core.explain.explainer import Explainer, finite
from core.explain.explanation import Explanation, Floats, Layer, Progress, Target, no_progress
from core.explain.options import GradCamOptions
from core.explain.quality import sparsity
from core.explain.target import log_odds

# Depths shown besides the ends of the stages, at equal distances from the stem to the last block.
_DEPTHS = 15


def explain(
    explainer: Explainer,
    picture: NDArray[np.uint8],
    target: Target,
    options: GradCamOptions,  # noqa: ARG001 - the signature that all methods share
    progress: Progress = no_progress,
) -> Explanation:
    """``picture``: uint8 [S, S, 3].

    layers: signed maps float32 [H, W], each at its layer's resolution, by depth: the stem, the last block of
      each stage (``provenance["stage_ends"]``) and 15 depths (``provenance["grid"]``). The last is in
      log-odds; those before it are a first-order estimate, whose size cannot be compared with another's.
    attribution: the last of them, signed, bilinear to [S, S] with align_corners=False, so that a cell's
      centre lies over the centre of the pixels it stands for.
    quality: sparsity, the Gini index of its positive part, which is what Grad-CAM shows.

    Always float32: with two passes there is nothing to gain. Raises DeviceOutOfMemory, NonFiniteLogits, and
    whatever ``progress`` raises.
    """
    (maps,) = explainer.chunks(1, lambda _start, _stop: signed_maps(explainer, picture, target.index))
    names = list(maps)
    grid = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, _DEPTHS).round().astype(int))]
    ends = list({name.partition(".")[0]: name for name in names}.values())

    last = torch.from_numpy(maps[names[-1]])[None, None]
    upsampled = F.interpolate(last, size=picture.shape[:2], mode="bilinear", align_corners=False)
    attribution = upsampled[0, 0].numpy()
    progress(1, 1, attribution)
    return Explanation(
        method="grad_cam",
        target=target,
        attribution=attribution,
        layers=tuple(Layer(name, maps[name]) for name in names if name in ends or name in grid),
        quality={"sparsity": sparsity(np.maximum(attribution, 0))},
        provenance={
            **explainer.provenance(explainer.exact, "two passes: nothing to gain from less"),
            "evaluations": 1,
            "attribution_layer": names[-1],
            "stage_ends": ends,
            "grid": grid,
        },
    )


def signed_maps(explainer: Explainer, picture: NDArray[np.uint8], index: int) -> dict[str, Floats]:
    """For the stem and every block, by depth, sum over channels of weight * activation: float32 [H, W]."""
    network = explainer.exact
    with torch.enable_grad():
        # Nothing is differentiated by the picture: that it could be makes autograd record the passes.
        pixels = explainer.tensor(picture).requires_grad_(True)
        names, activations = zip(*network.features(pixels), strict=True)
        margin = log_odds(network.head(activations[-1]), index).sum()
        gradients = torch.autograd.grad(margin, activations)
    maps = {}
    for name, activation, gradient in zip(names, activations, gradients, strict=True):
        weights = gradient.mean(dim=(2, 3), keepdim=True)  # [1, C, 1, 1]
        maps[name] = finite((weights * activation.detach()).sum(1)[0]).cpu().numpy()
    return maps
