"""A whole batch varied at random: one resampling, a few operations on all pixels, no loop over pictures.

Random numbers are drawn on the CPU from a generator that the caller seeds, so that a batch is the same on
every device and in every run; the pixels are worked on where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from core.training.config import Augmentation
from core.training.normalisation import Normalisation

# Of an erased rectangle: its share of the picture, and its height / width (Zhong et al., 2017,
# https://arxiv.org/abs/1708.04896, narrowed so that an animal is never gone altogether).
_ERASED_AREA, _ERASED_ASPECT = (0.02, 0.2), (0.4, 2.5)
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


@dataclass(frozen=True)
class Augmenter:
    """``size``: side of what comes out. ``classes``: length of a target."""

    settings: Augmentation
    normalisation: Normalisation
    size: int
    classes: int

    def __call__(
        self, pixels: Tensor, targets: Tensor, aspects: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """uint8 [N, S, S, 3] on any device, targets int64 [N] and aspects [N] on the CPU.

        Returns normalised pictures, float32 [N, 3, size, size] in channels_last, and the probability of each
        class, float32 [N, classes], both on the device of ``pixels``.
        """
        device = pixels.device
        x = pixels.permute(0, 3, 1, 2).float() / 255
        grid = F.affine_grid(
            self._boxes(aspects, generator).to(device), [len(x), 3, self.size, self.size], align_corners=False
        )
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = self._colours(x, generator)
        x = _standardised(x, self.normalisation)
        x = self._erase(x, generator)
        wanted = F.one_hot(targets, self.classes).float().to(device)
        x, wanted = self._mix(x, wanted, generator)
        return x.contiguous(memory_format=torch.channels_last), wanted

    def _boxes(self, aspects: Tensor, generator: torch.Generator) -> Tensor:
        """Where to cut, as affine maps [N, 2, 3] from the output to the squeezed picture, in [-1, 1].

        Area and aspect are drawn as by Szegedy et al. (2014, https://arxiv.org/abs/1409.4842), and measured
        in the original's geometry: ``aspects`` are the originals' width / height. A box that would reach
        beyond the picture is made smaller, and keeps its aspect.
        """
        count = len(aspects)
        area = _uniform(count, *self.settings.scale, generator)
        aspect = _log_uniform(count, *self.settings.aspect, generator)
        width, height = torch.sqrt(area * aspect / aspects), torch.sqrt(area / aspect * aspects)
        beyond = torch.maximum(width, height).clamp(min=1)
        width, height = width / beyond, height / beyond
        x = (1 - width) * _uniform(count, -1, 1, generator)
        y = (1 - height) * _uniform(count, -1, 1, generator)
        mirrored = torch.where(torch.rand(count, generator=generator) < self.settings.flip, -1.0, 1.0)
        zero = torch.zeros(count)
        return torch.stack([width * mirrored, zero, x, zero, height, y], dim=1).view(count, 2, 3)

    def _colours(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Brightness, contrast and saturation, [N, 3, H, W] in [0, 1]."""
        brightness, contrast, saturation = (
            _uniform(len(x), 1 - strength, 1 + strength, generator).to(x.device).view(-1, 1, 1, 1)
            for strength in (self.settings.brightness, self.settings.contrast, self.settings.saturation)
        )
        weights = torch.tensor(_GREY, device=x.device).view(1, 3, 1, 1)
        x = x * brightness
        grey = (x * weights).sum(1, keepdim=True)
        x = torch.lerp(grey, x, saturation)
        x = torch.lerp(grey.mean((2, 3), keepdim=True), x, contrast)
        return x.clamp_(0, 1)

    def _erase(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Put 0, the mean colour, in a rectangle of some of the pictures."""
        count = len(x)
        area = _uniform(count, *_ERASED_AREA, generator)
        area = torch.where(torch.rand(count, generator=generator) < self.settings.erase, area, 0.0)
        aspect = _log_uniform(count, *_ERASED_ASPECT, generator)
        return x.masked_fill_(self._rectangles(area, aspect, generator, x.device), 0)

    def _rectangles(
        self, area: Tensor, aspect: Tensor, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """One in each picture, anywhere within it: bool [N, 1, size, size], True inside.

        area: [N], as a share of the picture. aspect: [N], height / width.
        """
        count, size = len(area), self.size
        height, width = torch.sqrt(area * aspect) * size, torch.sqrt(area / aspect) * size
        top = torch.rand(count, generator=generator) * (size - height)
        left = torch.rand(count, generator=generator) * (size - width)
        places = torch.arange(size) + 0.5
        rows = (places >= top[:, None]) & (places < (top + height)[:, None])
        columns = (places >= left[:, None]) & (places < (left + width)[:, None])
        return rows.to(device)[:, None, :, None] & columns.to(device)[:, None, None, :]

    def _mix(self, x: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Each picture with another one of the batch, and their targets in the same shares."""
        if self.settings.cutmix and torch.rand((), generator=generator) < self.settings.cutmix:
            return self._cutmix(x, wanted, generator)
        if self.settings.mixup:
            return self._mixup(x, wanted, generator)
        return x, wanted

    def _cutmix(self, x: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A rectangle of the other picture in the place of this one's (Yun et al., 2019,
        https://arxiv.org/abs/1905.04899). Every share of its area is as likely."""
        count = len(x)
        area = torch.rand(count, generator=generator)
        inside = self._rectangles(area, torch.ones(count), generator, x.device)
        partner = torch.randperm(count, generator=generator).to(x.device)
        share = inside.float().mean((2, 3))  # of whole pixels, [N, 1]
        return torch.where(inside, x[partner], x), torch.lerp(wanted, wanted[partner], share)

    def _mixup(self, x: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The other picture laid over this one (Zhang et al., 2017, https://arxiv.org/abs/1710.09412)."""
        # torch draws from a Beta distribution with its global generator alone.
        seed = int(torch.randint(2**62, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(self.settings.mixup, self.settings.mixup))
        partner = torch.randperm(len(x), generator=generator).to(x.device)
        return torch.lerp(x[partner], x, share), torch.lerp(wanted[partner], wanted, share)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.exp(_uniform(count, math.log(low), math.log(high), generator))


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S] in channels_last, as for a prediction."""
    x = _standardised(pixels.permute(0, 3, 1, 2).float() / 255, normalisation)
    return x.contiguous(memory_format=torch.channels_last)


def _standardised(x: Tensor, normalisation: Normalisation) -> Tensor:
    mean, std = (
        torch.tensor(values, device=x.device).view(1, 3, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    return (x - mean) / std
