"""Pictures with nothing to see, each defined in pixels: what a method compares the picture with.

The choice matters: a dark animal on a black baseline gets no attribution, because its pixels do not differ
from the baseline (Sturmfels, Lundberg, Lee, "Visualizing the Impact of Feature Attribution Baselines", 2020,
https://distill.pub/2020/attribution-baselines/).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

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
            sigma = pictures.shape[-1] * BLUR_SIGMA
            kernel = 2 * round(3 * sigma) + 1
            blurred: Tensor = transforms.gaussian_blur(pictures, [kernel, kernel], [sigma, sigma])
            return blurred
