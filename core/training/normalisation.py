"""Centre and spread of the training pictures' colours, computed once and kept as JSON.

Only the training part is looked at: validation pictures must not have a say in how they are seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.files import replacing
from core.training.data import Pictures, Watch, unwatched

Method = Literal["mean-std", "median-mad"]
Triple = tuple[float, float, float]

# The median absolute deviation of a normal distribution is this share of its standard deviation.
_MAD_OF_NORMAL = 0.6744897501960817


@dataclass(frozen=True)
class Normalisation:
    """``(pixel - mean) / std`` for pixels in [0, 1], channels R, G, B."""

    mean: Triple
    std: Triple


def normalisation(
    pictures: Pictures, method: Method, cache: Path, watch: Watch[Any] = unwatched
) -> Normalisation:
    """Of the training part, at full resolution, every picture with the same weight whatever its size."""
    chosen = pictures.part("train")
    key = hashlib.sha256(pictures.digest.encode() + chosen.tobytes()).hexdigest()[:16]
    path = cache / f"normalisation-{method}-{key}.json"
    if path.exists():
        stored = json.loads(path.read_text())
        return Normalisation(tuple(stored["mean"]), tuple(stored["std"]))
    total = np.zeros((3, 256))
    for _, picture in watch(pictures.source.pictures(chosen), "measuring colours", len(chosen)):
        assert picture is not None
        counts = np.array(picture.histogram(), np.float64).reshape(3, 256)
        total += counts / (picture.width * picture.height)
    found = from_histogram(total, method)
    cache.mkdir(parents=True, exist_ok=True)
    content = {"data": pictures.digest, "method": method, **asdict(found)}
    with replacing(path, alone=False) as unfinished:  # runs with the same data share the cache
        unfinished.write_text(json.dumps(content, indent=2))
    return found


def from_histogram(counts: NDArray[np.float64], method: Method) -> Normalisation:
    """Exact for pixels of 8 bits. ``counts``: how often each value from 0 to 255 occurs, [3, 256].

    median-mad: the median, and the median absolute deviation scaled so that it is the standard deviation
    where colours are distributed normally.
    """
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    if method == "mean-std":
        centre = shares @ values
        spread = np.sqrt((shares * (values - centre[:, None]) ** 2).sum(axis=1))
    else:
        centre = np.array([_median(values, share) for share in shares])
        deviations = np.abs(values - centre[:, None])
        spread = np.array([_median(*row) for row in zip(deviations, shares, strict=True)]) / _MAD_OF_NORMAL
    # Pictures of one colour have no spread; 1/255 is the least that differs.
    spread = np.maximum(spread, 1 / 255)
    return Normalisation(_triple(centre), _triple(spread))


def _median(values: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(shares[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1])])


def _triple(values: NDArray[np.float64]) -> Triple:
    red, green, blue = (round(float(value), 8) for value in values)
    return red, green, blue
