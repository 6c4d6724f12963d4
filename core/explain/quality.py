"""How far an explanation can be trusted, measured without knowing the method that made it.

Two questions. Is the map faithful to the network: deletion and insertion, max-sensitivity, randomisation?
Does it look where a person would: pointing game, share on the animal? And how concentrated is it: sparsity.

No measure is a verdict alone. Deletion and insertion show the network pictures unlike any it was trained on,
so each comes with a random order as its control; and a map may rightly lie outside of the animal where the
network does look outside of it.

All randomness comes from ``seed``. Pictures are uint8 [S, S, 3], maps [S, S] with positive for the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from core.explain.methods import DELETION_STEPS
from core.vision.preprocessing import Placement

Picture = NDArray[np.uint8]
Map = NDArray[np.floating[Any]]
Probabilities = Callable[[Picture], NDArray[np.floating[Any]]]
"""uint8 [N, S, S, 3] -> [N, classes], softmax; it bounds its own batches on the device."""

ANIMAL, BACKGROUND = 1, 2  # in the trimaps of Oxford-IIIT Pet; 3 is the border, which counts as neither

# Pictures handed to the network at once: at 1024 pixels a side, 29 of them would take 90 MB.
_CHUNK = 16


def deletion_insertion(
    probabilities: Probabilities,
    picture: Picture,
    attribution: Map,
    target: int,
    *,
    steps: int = DELETION_STEPS,
    removed: Picture | None = None,
    blurred: Picture | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Let the pixels that the map ranks highest vanish first, then appear first, and watch the probability.

    Petsiuk, Das, Saenko, "RISE" (BMVC 2018), https://arxiv.org/abs/1806.07421. Deletion replaces pixels by
    those of ``removed`` (by default the picture's mean colour), insertion restores them in ``blurred`` (by
    default a Gaussian blur of S / 20 pixels); both in ``steps`` equal parts, by the trapezoidal rule. Equal
    values are ranked at random, so that a flat map is as good as its control and no better.

    Returns ``deletion_auc`` (lower is better), ``insertion_auc`` (higher is better), the control's
    ``random_deletion_auc`` and ``random_insertion_auc``, all in [0, 1]; ``deletion_curve`` and
    ``insertion_curve`` of ``steps + 1`` probabilities of the target; ``steps`` and ``seed``. JSON-able.

    Costs 4 (steps + 1) forward passes. Raises ValueError for shapes that do not fit, a map that is not
    finite, or fewer than one step.
    """
    values = _finite(attribution)
    if picture.shape != (*values.shape, 3):
        raise ValueError(f"a map of {values.shape} does not belong to a picture of {picture.shape}")
    if steps < 1:
        raise ValueError("steps must be at least 1")
    removed = _mean_colour(picture) if removed is None else removed
    blurred = _blur(picture) if blurred is None else blurred
    random = np.random.default_rng(seed)
    ranked = np.lexsort((random.random(values.size), -values.ravel()))
    shuffled = random.permutation(values.size)

    def curve(start: Picture, end: Picture, order: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.concatenate(
            [np.asarray(probabilities(c), np.float64)[:, target] for c in _path(start, end, order, steps)]
        )

    deletion, insertion = curve(picture, removed, ranked), curve(blurred, picture, ranked)
    return {
        "deletion_auc": _area(deletion),
        "insertion_auc": _area(insertion),
        "random_deletion_auc": _area(curve(picture, removed, shuffled)),
        "random_insertion_auc": _area(curve(blurred, picture, shuffled)),
        "deletion_curve": [round(float(p), 6) for p in deletion],
        "insertion_curve": [round(float(p), 6) for p in insertion],
        "steps": steps,
        "seed": seed,
    }


def max_sensitivity(
    explain: Callable[[Picture], Map],
    picture: Picture,
    *,
    radius: int = 5,
    samples: int = 10,
    seed: int = 0,
    reference: Map | None = None,
) -> float | None:
    """The largest relative change of the map among ``samples`` pictures that look the same to a person.

    Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS
    2019), https://arxiv.org/abs/1901.09392: max over d of ||map(x + d) - map(x)|| / ||map(x)||, here with d
    uniform over the integers in [-radius, radius] grey levels for each pixel and channel; 5 of 255 is their
    0.02. Sampling bounds the true maximum from below.

    Returns a number from 0 (the map does not move) without upper limit, or None for a map without evidence,
    which has no norm to compare with. Costs ``samples`` explanations, and one more without ``reference``, the
    picture's own.
    """
    if radius < 1 or samples < 1:
        raise ValueError("radius and samples must be at least 1")
    reference = _finite(explain(picture) if reference is None else reference)
    length = np.linalg.norm(reference)
    if length == 0:
        return None
    random = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(samples):
        noise = random.integers(-radius, radius, size=picture.shape, endpoint=True)
        moved = np.clip(picture.astype(np.int64) + noise, 0, 255).astype(np.uint8)
        largest = max(largest, float(np.linalg.norm(_finite(explain(moved)) - reference) / length))
    return largest


def sparsity(attribution: Map) -> float:
    """The Gini index of the absolute values: 0 where all N pixels count the same, 1 - 1/N where one has all.

    Hurley, Rickard, "Comparing Measures of Sparsity" (IEEE Transactions on Information Theory 55, 2009),
    https://arxiv.org/abs/0811.4706. It does not depend on the map's scale. A map without evidence gets 0.
    """
    magnitudes = np.sort(np.abs(_finite(attribution)), axis=None)
    total = magnitudes.sum()
    if total == 0:
        return 0.0
    n = magnitudes.size
    weights = (n - np.arange(1, n + 1) + 0.5) / n
    return float(1 - 2 * np.sum(magnitudes / total * weights))


def pointing_game(attribution: Map, trimap: NDArray[np.integer[Any]]) -> bool | None:
    """Whether the map's maximum lies on the animal; over many pictures, the share of hits is the score.

    Zhang, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation Backprop" (ECCV 2016),
    https://arxiv.org/abs/1608.00507. In place of their tolerance of 15 pixels, pixels on the border are left
    out. Where several pixels share the maximum, as in maps made of blocks, their majority decides.

    ``trimap``: [S, S], 1 the animal, 2 the background, anything else undecided. None for a map without
    positive evidence, which points nowhere, and where all is border.
    """
    values, decided = _finite(attribution), _decided(attribution, trimap)
    if not decided.any() or (peak := values[decided].max()) <= 0:
        return None
    return bool(np.mean(trimap[decided & (values == peak)] == ANIMAL) > 0.5)


def share_on_mask(attribution: Map, trimap: NDArray[np.integer[Any]]) -> dict[str, float | None]:
    """How much of the positive evidence lies on the animal, and how much of the picture the animal takes.

    ``share``: positive mass on the animal / positive mass on animal and background, in [0, 1]; None without
    any. Known as relevance mass accuracy: Arras, Osman, Samek, "CLEVR-XAI" (Information Fusion 81, 2022),
    https://arxiv.org/abs/2003.07258. ``area``: pixels of the animal / pixels of animal and background, in
    [0, 1]; what a map that knows nothing scores. None where all is border.
    """
    positive, decided = np.maximum(_finite(attribution), 0), _decided(attribution, trimap)
    animal = trimap == ANIMAL
    mass, pixels = positive[decided].sum(), decided.sum()
    return {
        "share": float(positive[animal].sum() / mass) if mass > 0 else None,
        "area": float(animal.sum() / pixels) if pixels else None,
    }


def trimap_in_crop(trimap: NDArray[np.integer[Any]], place: Placement) -> NDArray[np.integer[Any]]:
    """[height, width] of the upright original -> [size, size] of the crop, by the nearest pixel: labels
    cannot be averaged."""
    if trimap.shape != (place.height, place.width):
        raise ValueError(f"trimap of {trimap.shape} for a picture of {(place.height, place.width)}")
    centres = np.arange(place.size) + 0.5
    columns = np.floor(place.offset_x + centres * place.scale_x).astype(np.intp)
    rows = np.floor(place.offset_y + centres * place.scale_y).astype(np.intp)
    return trimap[np.ix_(rows.clip(0, place.height - 1), columns.clip(0, place.width - 1))]


def randomisation(
    explain: Callable[[Picture], Map],
    explain_randomised: Callable[[Picture], Map],
    pictures: Sequence[Picture],
) -> dict[str, Any]:
    """Does the map depend on what the network has learned? Compare it with that of randomised weights.

    Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018), https://arxiv.org/abs/1810.03292. A
    method whose maps stay alike, as an edge detector's would, explains the picture and not the network.

    Returns the mean of Spearman's rank correlation over ``pictures``, of the signed maps (``spearman``) and
    of their absolute values (``spearman_absolute``), in [-1, 1] with 0 for no resemblance; and the number of
    ``pictures`` with it. Pictures with a flat map count in neither; None where no others are left.
    """
    signed, absolute = [], []
    for picture in pictures:
        trained, randomised = _finite(explain(picture)), _finite(explain_randomised(picture))
        signed.append(spearman(trained, randomised))
        absolute.append(spearman(np.abs(trained), np.abs(randomised)))
    return {
        "spearman": _mean(signed),
        "spearman_absolute": _mean(absolute),
        "pictures": sum(rho is not None for rho in signed),
    }


def spearman(first: Map, second: Map) -> float | None:
    """Spearman's rank correlation of two maps of one shape, in [-1, 1]; equal values share their mean rank.

    C. Spearman, "The Proof and Measurement of Association between Two Things" (1904). None where one of the
    maps is flat: all its ranks are equal.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of {first.shape} and {second.shape} cannot be compared")
    a, b = _ranks(_finite(first)), _ranks(_finite(second))
    a, b = a - a.mean(), b - b.mean()
    norms = np.sqrt((a * a).sum() * (b * b).sum())
    return float(np.clip((a * b).sum() / norms, -1, 1)) if norms > 0 else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; the mean of its ranks for each of several equal values."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[which.ravel()]
    return ranks


def _path(start: Picture, end: Picture, order: NDArray[np.intp], steps: int) -> Iterator[Picture]:
    """``steps + 1`` pictures from start to end, pixels replaced in the given order: chunks [n, S, S, 3]."""
    position = np.empty(order.size, np.intp)
    position[order] = np.arange(order.size)
    replaced_at = position.reshape(start.shape[:2])
    counts = [round(step * order.size / steps) for step in range(steps + 1)]
    for begin in range(0, len(counts), _CHUNK):
        part = counts[begin : begin + _CHUNK]
        yield np.stack([np.where((replaced_at < count)[..., None], end, start) for count in part])


def _area(curve: NDArray[np.float64]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))


def _mean_colour(picture: Picture) -> Picture:
    return np.broadcast_to(np.rint(picture.mean(axis=(0, 1))).astype(np.uint8), picture.shape)


def _blur(picture: Picture) -> Picture:
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(picture.shape[0] / 20)))


def _decided(attribution: Map, trimap: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    if trimap.shape != attribution.shape:
        raise ValueError(f"trimap of {trimap.shape} for a map of {attribution.shape}")
    decided: NDArray[np.bool_] = (trimap == ANIMAL) | (trimap == BACKGROUND)
    return decided


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _finite(attribution: Map) -> NDArray[np.float64]:
    """In float64: sums over a million pixels, and squares of tiny values, keep their digits."""
    values = np.asarray(attribution, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the map is not finite")
    return values
