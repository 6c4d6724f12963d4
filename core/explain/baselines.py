"""Pictures with nothing to see, each defined in pixels: what a method compares the picture with.

The choice matters: a dark animal on a black baseline gets no attribution, because its pixels do not differ
from the baseline (Sturmfels, Lundberg, Lee, "Visualizing the Impact of Feature Attribution Baselines", 2020,
https://distill.pub/2020/attribution-baselines/).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from core.explain.options import Baseline

# The Gaussian's, as a share of the side: 8 pixels at 160. An animal's outline survives, its fur does not.
BLUR_SIGMA = 1 / 20


def baseline_picture(name: Baseline, pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The baseline of each normalised picture: [N, 3, S, S] -> [N, 3, S, S], normalised too.

    mean, std: of the normalisation, [1, 3, 1, 1] with pixels in [0, 1]. ``mean`` is therefore the training
    set's mean colour, ``black`` and ``white`` are pixel values 0 and 1, and ``blur`` is the picture under a
    Gaussian with sigma S / 20, mirrored at the edges, which commutes with the normalisation.
    """
    match name:
        case "mean":
            return torch.zeros_like(pictures)
        case "black":
            return (-mean / std).expand_as(pictures)
        case "white":
            return ((1 - mean) / std).expand_as(pictures)
        case "blur":
            return _gaussian_blur(pictures, pictures.shape[-1] * BLUR_SIGMA)


def _gaussian_blur(pictures: Tensor, sigma: float) -> Tensor:
    """``pictures`` [N, C, H, W] under a Gaussian of ``sigma`` pixels, cut off at three of them.

    As torchvision's gaussian_blur, which takes two seconds and 130 MB to import. First by columns, then by
    rows: a Gaussian is the product of the two.
    """
    reach = round(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=pictures.dtype, device=pictures.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    channels = pictures.shape[1]
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
