from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.training.augment import Augmenter, normalise
from core.training.config import Augmentation
from core.training.normalisation import Normalisation
from core.training.seeds import generator

COLOURS = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NOTHING: dict[str, Any] = {
    "scale": (1.0, 1.0),
    "aspect": (1.0, 1.0),
    "flip": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "erase": 0,
    "mixup": 0,
}


def augmenter(size: int = 32, **changes: Any) -> Augmenter:
    return Augmenter(Augmentation(**NOTHING | changes), COLOURS, size, classes=3)


def pictures(count: int = 6, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator(0, "test"))


def run(
    augment: Augmenter, pixels: Tensor, aspects: Tensor | None = None, purpose: int = 0
) -> tuple[Tensor, Tensor]:
    targets = torch.arange(len(pixels)) % 3
    shapes = torch.ones(len(pixels)) if aspects is None else aspects
    return augment(pixels, targets, shapes, generator(1, "augment", purpose))


def test_without_variation_it_is_what_validation_sees() -> None:
    pixels = pictures()
    found, wanted = run(augmenter(), pixels)
    torch.testing.assert_close(found, normalise(pixels, COLOURS), atol=1e-4, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert wanted.tolist() == torch.eye(3)[torch.arange(6) % 3].tolist()


def test_normalised_as_the_engine_does() -> None:
    pixels = pictures()
    expected = (pixels.float().permute(0, 3, 1, 2) / 255 - torch.tensor(COLOURS.mean).view(1, 3, 1, 1)) / (
        torch.tensor(COLOURS.std).view(1, 3, 1, 1)
    )
    torch.testing.assert_close(normalise(pixels, COLOURS), expected)


def test_the_same_generator_gives_the_same_batch() -> None:
    augment = Augmenter(Augmentation(), COLOURS, 24, 3)
    one, same, other = (run(augment, pictures(), purpose=purpose) for purpose in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])


def test_flips() -> None:
    pixels = pictures()
    found, _ = run(augmenter(flip=1), pixels)
    torch.testing.assert_close(found, normalise(pixels, COLOURS).flip(3), atol=1e-4, rtol=0)
    found, _ = run(augmenter(flip=0.5), pictures(200))
    plain = normalise(pictures(200), COLOURS)
    flipped = sum(bool((one - other).abs().max() > 0.1) for one, other in zip(found, plain, strict=True))
    assert 70 < flipped < 130


def test_boxes_have_area_and_aspect_of_the_original() -> None:
    """The squeezing is undone: a box of aspect 1 is a square of the original, whatever its shape."""
    augment = augmenter(scale=(0.2, 0.6), aspect=(0.8, 1.25))
    aspects = torch.linspace(0.6, 1.7, 500)
    boxes = augment._boxes(aspects, generator(0, "boxes"))
    width, height = boxes[:, 0, 0], boxes[:, 1, 1]  # shares of the picture's own
    shape = width * aspects / height
    area = width * height
    inside = (width < 1) & (height < 1)
    assert inside.float().mean() > 0.9
    assert 0.8 <= float(shape.min()) < 0.85
    assert 1.2 < float(shape.max()) <= 1.2501
    assert 0.2 <= float(area[inside].min()) < 0.25
    assert 0.5 < float(area[inside].max()) <= 0.6001
    # And nowhere outside of the picture.
    assert (width + boxes[:, 0, 2].abs()).max() <= 1 + 1e-6
    assert (height + boxes[:, 1, 2].abs()).max() <= 1 + 1e-6


def test_a_box_too_large_for_the_picture_keeps_its_shape() -> None:
    boxes = augmenter()._boxes(torch.tensor([2.0]), generator(0, "boxes"))
    assert boxes[0, 0, 0] == pytest.approx(0.5)  # the largest square: as high as the picture, half as wide
    assert boxes[0, 1, 1] == pytest.approx(1.0)


def test_a_circle_of_a_wide_picture_stays_a_circle() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-2, 2, 64), indexing="ij")
    inside = (x**2 + y**2 < 0.8**2).to(torch.uint8) * 255
    squeezed = inside[None, :, :, None].expand(1, 64, 64, 3)  # a picture twice as wide as high
    for purpose in range(20):
        found, _ = run(augmenter(64, scale=(1, 1)), squeezed, torch.tensor([2.0]), purpose)
        disc = found[0, 0] > 0
        rows, columns = disc.any(1).sum(), disc.any(0).sum()
        if disc[:, 0].any() or disc[:, -1].any():
            continue  # cut off by this crop
        assert abs(int(rows) - int(columns)) <= 2
        return
    raise AssertionError("no crop had the whole circle")


def test_colours_by_hand() -> None:
    pixels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    pixels[..., 0] = 100
    grey = 0.299 * 100 / 255
    augment = augmenter(8, saturation=1)
    found, _ = run(augment, pixels)
    raw = found * torch.tensor(COLOURS.std).view(1, 3, 1, 1) + torch.tensor(COLOURS.mean).view(1, 3, 1, 1)
    red, green, blue = raw[0, :, 4, 4].tolist()
    assert green == pytest.approx(blue, abs=1e-5)
    share = (red - green) / (100 / 255)  # how much of the colour is left, 0 to 2
    assert 0 <= share <= 2
    if green > 0:  # not clipped
        assert red == pytest.approx(grey + share * (100 / 255 - grey), abs=1e-4)


def test_brightness_moves_every_pixel_by_one_factor() -> None:
    pixels = pictures(50, 16) // 2
    found, _ = run(augmenter(16, brightness=0.5), pixels)
    raw = found * torch.tensor(COLOURS.std).view(1, 3, 1, 1) + torch.tensor(COLOURS.mean).view(1, 3, 1, 1)
    factors = raw.mean((1, 2, 3)) / (pixels.float().mean((1, 2, 3)) / 255)
    assert 0.5 <= float(factors.min()) < 0.65
    assert 1.35 < float(factors.max()) <= 1.501
    expected = pixels.permute(0, 3, 1, 2) / 255 * factors.view(-1, 1, 1, 1)
    torch.testing.assert_close(raw, expected, atol=1e-3, rtol=0)


def test_erasing_puts_the_mean_colour_in_a_rectangle() -> None:
    pixels = torch.full((300, 32, 32, 3), 255, dtype=torch.uint8)
    found, _ = run(augmenter(erase=0.5), pixels)
    erased = found[:, 0] == 0
    some = erased.any((1, 2))
    assert 110 < int(some.sum()) < 190
    for mask in erased[some]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        assert 0.01 < float(mask.float().mean()) < 0.25


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    # Each picture is of one grey that its class determines, so that the target can be read off the pixels.
    pixels = torch.stack([torch.full((8, 8, 3), 100 * label, dtype=torch.uint8) for label in (0, 1, 2)])
    shares = []
    for purpose in range(30):
        found, wanted = run(augmenter(8, mixup=1.0), pixels, purpose=purpose)
        torch.testing.assert_close(wanted.sum(1), torch.ones(3))
        grey = found[:, 0].mean((1, 2)) * COLOURS.std[0] + COLOURS.mean[0]
        torch.testing.assert_close(grey, wanted @ torch.tensor([0.0, 100, 200]) / 255, atol=1e-4, rtol=0)
        shares.append(float(wanted.max()))
    assert min(shares) < 0.9


def test_cutmix_puts_a_rectangle_of_another_picture_and_its_share_of_the_target() -> None:
    pixels = torch.stack([torch.full((16, 16, 3), 100 * label, dtype=torch.uint8) for label in (0, 1, 2)])
    colours = normalise(pixels, COLOURS)[:, 0, 0, 0]
    mixed = 0
    for purpose in range(30):
        found, wanted = run(augmenter(16, cutmix=1), pixels, purpose=purpose)
        torch.testing.assert_close(wanted.sum(1), torch.ones(3))
        for own in range(3):
            # Which class each pixel belongs to, told by its colour.
            belongs = (found[own, 0, :, :, None] - colours).abs().argmin(-1)
            shares = torch.bincount(belongs.flatten(), minlength=3) / 16**2
            torch.testing.assert_close(wanted[own], shares)
            foreign = belongs != own
            assert torch.equal(foreign, foreign.any(1)[:, None] & foreign.any(0)[None])
            mixed += bool(foreign.any())
    assert mixed > 40


def test_cutmix_takes_its_share_of_the_batches() -> None:
    pixels = torch.stack([torch.full((8, 8, 3), 100 * label, dtype=torch.uint8) for label in (0, 1, 2)])
    kinds = {"cutmix": 0, "mixup": 0}
    for purpose in range(200):
        found, wanted = run(augmenter(8, cutmix=0.25, mixup=1.0), pixels, purpose=purpose)
        if not torch.equal(wanted, torch.eye(3)):
            # mixup leaves each picture of one colour.
            kinds["mixup" if torch.allclose(found, found[:, :, :1, :1], atol=1e-4) else "cutmix"] += 1
    assert 20 < kinds["cutmix"] < 70
    assert kinds["mixup"] > 100
