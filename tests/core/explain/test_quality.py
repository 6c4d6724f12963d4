"""Each measure on a case that can be computed by hand, and against the definition written out as loops."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.explain.quality import (
    deletion_insertion,
    max_sensitivity,
    pointing_game,
    randomisation,
    share_on_mask,
    sparsity,
    spearman,
    trimap_in_crop,
)
from core.vision.manifest import InputFormat
from core.vision.preprocessing import Preprocessing

EXAMPLES = Path(__file__).parents[2] / "examples"
RANDOM = np.random.default_rng(0)


def picture(size: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (size, size, 3), dtype=np.uint8)


def brightness_of_the_left_half(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A classifier for which pixels on the left count, all alike, and the others not at all."""
    share = batch[:, :, : batch.shape[2] // 2].mean(axis=(1, 2, 3)) / 255
    return np.stack([1 - share, share], axis=1)


# Deletion and insertion


def test_deletion_and_insertion_of_the_best_and_the_worst_order() -> None:
    """White on black, half of the pixels counting: removed first, the probability falls to 0 by half-way, an
    area of 1/4; removed last it begins to fall there, 3/4. Insertion mirrors it."""
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    best = np.zeros((8, 8), np.float32)
    best[:, :4] = 1
    for sign, deletion, insertion in ((1, 0.25, 0.75), (-1, 0.75, 0.25)):
        measured = deletion_insertion(
            brightness_of_the_left_half, white, sign * best, 1, steps=8, removed=black, blurred=black
        )
        assert measured["deletion_auc"] == pytest.approx(deletion)
        assert measured["insertion_auc"] == pytest.approx(insertion)
        assert measured["random_deletion_auc"] == pytest.approx(0.5, abs=0.1)
        assert measured["random_insertion_auc"] == pytest.approx(0.5, abs=0.1)
    assert measured["deletion_curve"] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("steps", [1, 5, 28, 36, 50])
def test_deletion_and_insertion_as_they_are_defined(steps: int) -> None:
    """One pixel after the other, without ranks, chunks or broadcasting."""
    original, values = picture(), np.random.default_rng(4).permutation(36).reshape(6, 6).astype(np.float32)
    weights = np.random.default_rng(5).normal(size=(6, 6, 3))

    def probabilities(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
        p = 1 / (1 + np.exp(-(batch / 255 * weights).sum(axis=(1, 2, 3))))
        return np.stack([p, 1 - p], axis=1)

    grey = np.rint(original.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    blurred = np.array(Image.fromarray(original).filter(ImageFilter.GaussianBlur(0.3)))
    order = sorted(((y, x) for y in range(6) for x in range(6)), key=lambda p: -values[p])
    deleted, inserted = original.copy(), blurred.copy()
    curves: tuple[list[float], list[float]] = ([], [])
    done = 0
    for step in range(steps + 1):
        while done < round(step * 36 / steps):
            deleted[order[done]] = grey
            inserted[order[done]] = original[order[done]]
            done += 1
        curves[0].append(probabilities(deleted[None])[0, 0])
        curves[1].append(probabilities(inserted[None])[0, 0])

    measured = deletion_insertion(probabilities, original, values, 0, steps=steps)
    for curve, name in zip(curves, ("deletion", "insertion"), strict=True):
        area = sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / steps
        assert measured[f"{name}_auc"] == pytest.approx(area)
        assert measured[f"{name}_curve"] == pytest.approx(curve, abs=1e-6)
    assert json.loads(json.dumps(measured)) == measured


def test_deletion_and_insertion_cost_what_they_promise_in_bounded_batches() -> None:
    sizes = []

    def probabilities(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
        sizes.append(len(batch))
        return brightness_of_the_left_half(batch)

    deletion_insertion(probabilities, picture(), np.ones((6, 6)), 1)
    assert sum(sizes) == 4 * 29
    assert max(sizes) <= 16


def test_a_flat_map_is_as_good_as_its_control() -> None:
    """In the order of memory it would remove row by row, and score whatever lies at the top."""
    white, black = np.full((32, 32, 3), 255, np.uint8), np.zeros((32, 32, 3), np.uint8)
    measured = deletion_insertion(
        lambda batch: brightness_of_the_left_half(batch.swapaxes(1, 2)),
        white,
        np.zeros((32, 32)),
        1,
        removed=black,
    )
    assert measured["deletion_auc"] == pytest.approx(0.5, abs=0.05)


def test_the_seed_decides_about_the_control_alone() -> None:
    values = np.arange(36.0).reshape(6, 6)
    first, again, other = (
        deletion_insertion(brightness_of_the_left_half, picture(), values, 1, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["deletion_auc"] == other["deletion_auc"]
    assert first["random_deletion_auc"] != other["random_deletion_auc"]


def test_deletion_refuses_what_does_not_fit() -> None:
    for values, steps in ((np.ones((5, 6)), 28), (np.ones((6, 6)), 0), (np.full((6, 6), np.nan), 28)):
        with pytest.raises(ValueError, match=r"belong|steps|finite"):
            deletion_insertion(brightness_of_the_left_half, picture(), values, 1, steps=steps)


# Max-sensitivity


def test_a_map_that_never_moves_is_not_sensitive() -> None:
    assert max_sensitivity(lambda _: np.ones((6, 6)), picture()) == 0.0


def test_sensitivity_of_a_map_that_is_the_picture() -> None:
    """On mid-grey nothing is clipped: the change is the noise itself, never more than the radius."""
    grey = np.full((6, 6, 3), 100, np.uint8)
    measured = max_sensitivity(lambda p: p[..., 0].astype(float), grey, radius=4, samples=50)
    assert measured is not None
    # Uniform noise in -4...4 has a standard deviation of sqrt(20 / 3).
    assert math.sqrt(20 / 3) / 100 < measured <= 4 / 100


def test_sensitivity_is_the_largest_of_its_samples() -> None:
    seen: list[NDArray[np.float64]] = []

    def explain(p: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(np.sqrt(p.astype(float)).sum(axis=-1))
        return seen[-1]

    measured = max_sensitivity(explain, picture(), radius=9, samples=7, seed=2)
    reference, *others = seen
    assert len(others) == 7
    changes = [math.sqrt(((o - reference) ** 2).sum()) / math.sqrt((reference**2).sum()) for o in others]
    assert measured == pytest.approx(max(changes))
    assert len(set(changes)) == 7


def test_noise_stays_within_the_radius_and_the_range_of_pixels() -> None:
    seen: list[NDArray[np.int64]] = []
    extremes = np.zeros((40, 40, 3), np.uint8)
    extremes[:20] = 255

    def explain(p: NDArray[np.uint8]) -> NDArray[np.float64]:
        assert p.dtype == np.uint8
        seen.append(p.astype(np.int64) - extremes)
        return p[..., 0].astype(np.float64)

    max_sensitivity(explain, extremes, radius=3, samples=2)
    for noise in seen[1:]:
        assert set(np.unique(noise[20:])) == {0, 1, 2, 3}
        assert set(np.unique(noise[:20])) == {-3, -2, -1, 0}


def test_sensitivity_of_no_evidence_is_undefined() -> None:
    assert max_sensitivity(lambda _: np.zeros((6, 6)), picture()) is None


# Sparsity


def test_sparsity_by_hand() -> None:
    assert sparsity(np.ones((4, 4))) == pytest.approx(0)
    assert sparsity(np.array([[0, 0], [-7.0, 0]])) == pytest.approx(3 / 4)
    # 1 and 3 among two: half of the mean difference (2 + 2) / 4, over the mean 2.
    assert sparsity(np.array([[3.0, 1.0]])) == pytest.approx(1 / 4)
    assert sparsity(np.zeros((4, 4))) == 0


def test_sparsity_is_half_the_relative_mean_difference() -> None:
    """Gini's own definition, over all pairs, knows nothing of sorting."""
    values = RANDOM.normal(size=(5, 7)) ** 3
    magnitudes = np.abs(values).ravel().tolist()
    n = len(magnitudes)
    differences = sum(abs(a - b) for a in magnitudes for b in magnitudes)
    assert sparsity(values) == pytest.approx(differences / (2 * n * sum(magnitudes)))
    assert sparsity(-5 * values) == pytest.approx(sparsity(values))


# On the animal


TRIMAP = np.array([[1, 1, 3, 2], [1, 1, 3, 2], [3, 3, 3, 2], [2, 2, 2, 2]], np.uint8)


def at(**positions: float) -> NDArray[np.float64]:
    values = np.zeros((4, 4))
    for position, value in positions.items():
        values[int(position[1]), int(position[2])] = value
    return values


def test_pointing_game() -> None:
    assert pointing_game(at(_11=2, _33=1), TRIMAP) is True
    assert pointing_game(at(_11=1, _33=2), TRIMAP) is False
    assert pointing_game(at(_11=1, _02=9), TRIMAP) is True, "the border decides nothing"
    assert pointing_game(at(_00=1, _11=1, _33=1), TRIMAP) is True, "two maxima of three"
    assert pointing_game(at(_00=1, _32=1, _33=1), TRIMAP) is False
    assert pointing_game(np.zeros((4, 4)), TRIMAP) is None
    assert pointing_game(at(_11=-1, _33=-2), TRIMAP) is None
    assert pointing_game(np.ones((4, 4)), np.full((4, 4), 3)) is None


def test_share_on_mask() -> None:
    measured = share_on_mask(at(_00=3, _11=3, _33=2, _02=100, _10=-50), TRIMAP)
    assert measured == {"share": pytest.approx(6 / 8), "area": pytest.approx(4 / 11)}
    even = share_on_mask(np.full((4, 4), 0.1), TRIMAP)
    assert even["share"] == pytest.approx(even["area"])
    assert share_on_mask(-np.ones((4, 4)), TRIMAP)["share"] is None
    assert share_on_mask(np.ones((4, 4)), np.full((4, 4), 3)) == {"share": None, "area": None}


def test_masks_of_another_size_are_refused() -> None:
    for measure in (pointing_game, share_on_mask):
        with pytest.raises(ValueError, match="trimap"):
            measure(np.ones((5, 5)), TRIMAP)


@pytest.mark.parametrize("size", [32, 160])
@pytest.mark.parametrize("name", ["Abyssinian_20", "american_bulldog_38"])
def test_the_trimap_is_cropped_as_its_photo(name: str, size: int) -> None:
    """The share of the animal in each crop pixel, by the very resampling that the photo gets, is above one
    half where the trimap of the crop says so; except on the outline, where a pixel holds both."""
    trimap = np.asarray(Image.open(EXAMPLES / "trimaps" / f"{name}.png"))
    preprocessing = Preprocessing(
        InputFormat(size=size, resize_scale=1.14, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    )
    place = preprocessing.placement(trimap.shape[1], trimap.shape[0])
    cropped = trimap_in_crop(trimap, place)
    assert cropped.shape == (size, size)
    animal = Image.fromarray(np.where(trimap == 1, 255, 0).astype(np.uint8)).convert("RGB")
    share = preprocessing.crop(animal)[..., 0]
    clear = (share < 25) | (share > 230)
    assert clear.mean() > 0.5
    np.testing.assert_array_equal((cropped == 1)[clear], (share > 127)[clear])


def test_the_trimap_of_another_photo_is_refused() -> None:
    place = Preprocessing(
        InputFormat(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    ).placement(50, 40)
    with pytest.raises(ValueError, match="trimap"):
        trimap_in_crop(np.ones((50, 40), np.uint8), place)


# Randomisation


def test_spearman_by_hand() -> None:
    rising = np.array([1.0, 2, 3, 4, 5])
    assert spearman(rising, rising**3) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    # Without ties: 1 - 6 * sum(d^2) / (n (n^2 - 1)) = 1 - 6 * 8 / 120.
    assert spearman(rising, np.array([2.0, 1, 4, 5, 3])) == pytest.approx(0.6)
    assert spearman(rising, np.ones(5)) is None
    with pytest.raises(ValueError, match="cannot be compared"):
        spearman(rising, np.ones(4))


def test_spearman_with_ties_is_pearson_of_mean_ranks() -> None:
    a, b = RANDOM.integers(0, 6, (2, 5, 8)).astype(float)

    def ranks(values: NDArray[np.float64]) -> list[float]:
        flat = values.ravel().tolist()
        return [sum(o < v for o in flat) + (sum(o == v for o in flat) + 1) / 2 for v in flat]

    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])


def test_randomisation_of_an_edge_detector_and_of_a_network() -> None:
    def edges(p: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.diff(p.astype(float).sum(axis=-1), axis=0)

    pictures = [RANDOM.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(3)]
    same = randomisation(edges, edges, pictures)
    assert same == {
        "spearman": pytest.approx(1),
        "spearman_absolute": pytest.approx(1),
        "pictures": 3,
    }
    inverted = randomisation(edges, lambda p: -edges(p), pictures)
    assert inverted["spearman"] == pytest.approx(-1)
    assert inverted["spearman_absolute"] == pytest.approx(1)
    noise = np.random.default_rng(9)
    unlike = randomisation(edges, lambda p: noise.normal(size=(39, 40)), pictures)
    assert abs(unlike["spearman"]) < 0.1
    assert abs(unlike["spearman_absolute"]) < 0.1


def test_flat_maps_do_not_count_in_the_randomisation() -> None:
    def explain(p: NDArray[np.uint8]) -> NDArray[np.float64]:
        return p[..., 0].astype(float)

    black = np.zeros((6, 6, 3), np.uint8)
    assert randomisation(explain, explain, [picture(), black])["pictures"] == 1
    nothing = {"spearman": None, "spearman_absolute": None, "pictures": 0}
    assert randomisation(explain, explain, [black]) == nothing
