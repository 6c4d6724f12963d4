from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.explain.explainer import Explainer
from core.explain.patches import PatchedPicture
from core.vision.folding import fold_batchnorm
from core.vision.manifest import StrideOn
from core.vision.resnet import ResNet

from ..vision.conftest import randomise


def network(stride_on: StrideOn = "3x3") -> ResNet:
    torch.manual_seed(2)
    made = ResNet((2, 2, 1, 1), stride_on=stride_on)
    randomise(made)
    return fold_batchnorm(made.eval().requires_grad_(False))


def pictures(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    picture, other = torch.randn(2, 1, 3, size, size, generator=generator)
    return picture, other


@pytest.mark.parametrize("stride_on", ["3x3", "first_1x1"])
@pytest.mark.parametrize(("size", "side"), [(96, 8), (96, 17), (128, 32), (128, 5), (64, 1)])
def test_crops_give_what_the_whole_picture_gives(stride_on: StrideOn, size: int, side: int) -> None:
    picture, other = pictures(size)
    made = network(stride_on)
    patched = PatchedPicture(made, picture, other, side)
    assert patched.steps > 0
    # At the edges, one pixel away from them, and at offsets of every kind to the strides.
    starts = [0, 1, 2, 3, 5, 14, 23, size // 2, size - side - 7, size - side - 1, size - side]
    corners = [*zip(starts, starts[::-1], strict=True), *zip(starts, starts[3:] + starts[:3], strict=True)]
    expected = []
    for top, left in corners:
        covered = picture.clone()
        here = (..., slice(top, top + side), slice(left, left + side))
        covered[here] = other[here]
        expected.append(covered)
    with torch.inference_mode():
        brute_force = made(torch.cat(expected))
    assert brute_force.std(0).min() > 1e-4  # the squares do matter
    torch.testing.assert_close(patched.logits(corners), brute_force, atol=1e-4, rtol=1e-4)


def test_squares_that_change_nearly_everything_are_computed_whole() -> None:
    picture, other = pictures(64)
    made = network()
    patched = PatchedPicture(made, picture, other, 64)
    assert patched.steps == 0
    with torch.inference_mode():
        torch.testing.assert_close(patched.logits([(0, 0)]), made(other), atol=1e-4, rtol=1e-4)


def test_sizes_that_the_strides_do_not_divide_are_computed_whole() -> None:
    picture, other = pictures(70)
    made = network()
    patched = PatchedPicture(made, picture, other, 8)
    assert patched.steps == 0
    covered = picture.clone()
    covered[..., 3:11, 60:68] = other[..., 3:11, 60:68]
    with torch.inference_mode():
        torch.testing.assert_close(patched.logits([(3, 60)]), made(covered), atol=1e-4, rtol=1e-4)


def test_the_cached_picture_is_not_written_to() -> None:
    picture, other = pictures(96)
    patched = PatchedPicture(network(), picture, other, 16)
    first = patched.logits([(40, 40), (0, 80)])
    patched.logits([(10, 20), (33, 64), (80, 80)])
    patched.logits([(7, 70)])
    torch.testing.assert_close(patched.logits([(40, 40), (0, 80)]), first)


def test_the_caller_s_picture_is_not_written_to() -> None:
    picture, other = pictures(64)
    picture = picture.to(memory_format=torch.channels_last)
    before = picture.clone()
    # One square, nothing computed on crops, the right type and format: there is no need for any copy.
    PatchedPicture(network(), picture, other, 64).logits([(0, 0)])
    torch.testing.assert_close(picture, before, atol=0, rtol=0)


def test_the_shipped_network_on_crops(shipped_explainer: Explainer, photo: NDArray[np.uint8]) -> None:
    x = shipped_explainer.tensor(photo)
    network = shipped_explainer.exact
    patched = PatchedPicture(network, x, torch.zeros_like(x), 32)
    assert patched.steps >= 4
    corners = [(0, 0), (64, 48), (128, 100)]
    covered = x.repeat(3, 1, 1, 1)
    for number, (top, left) in enumerate(corners):
        covered[number, :, top : top + 32, left : left + 32] = 0
    with torch.inference_mode():
        torch.testing.assert_close(patched.logits(corners), network(covered), atol=1e-4, rtol=0)
