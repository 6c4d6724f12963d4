"""Pictures decoded once, as bytes that batches are cut from.

Decoding is the slow part of loading: done in every epoch it would take the cores away from the network. Here
each picture is decoded once for a stage and kept at the stage's size in a file that is mapped into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.files import replacing
from core.training.data import Pictures, Watch, unwatched
from core.training.sources import Indices
from core.vision.manifest import InputFormat
from core.vision.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Store:
    """pixels: uint8 [N, S, S, 3]. targets: int64 [N]. aspects: the originals' w / h, float32 [N]."""

    pixels: Pixels
    targets: Tensor
    aspects: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def whole_pictures(
    pictures: Pictures, chosen: Indices, size: int, cache: Path, watch: Watch[Any] = unwatched
) -> Store:
    """For training: the whole picture squeezed into ``size`` x ``size``.

    No pixel at the edge is lost, and :mod:`core.training.augment` knows the true aspect, so that what it cuts
    out is not distorted by the squeezing.
    """

    def squeeze(image: Image.Image) -> Pixels:
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))

    return _stored(pictures, chosen, size, cache, "whole", squeeze, watch)


def served_crops(
    pictures: Pictures, chosen: Indices, form: InputFormat, cache: Path, watch: Watch[Any] = unwatched
) -> Store:
    """For evaluation: exactly what the service would show to the network."""
    crop = Preprocessing(form).crop
    return _stored(pictures, chosen, form.size, cache, f"crop-{form.resize_scale:g}", crop, watch)


def batches(
    store: Store, order: Sequence[Indices], *, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(uint8 [n, S, S, 3], targets [n], aspects [n]) for each element of ``order``, one read ahead.

    pinned: pixels in memory from which a GPU copies while it computes.
    """

    def cut(indices: Indices) -> tuple[Tensor, Tensor, Tensor]:
        pixels = torch.from_numpy(store.pixels[indices])
        return pixels.pin_memory() if pinned else pixels, store.targets[indices], store.aspects[indices]

    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for indices in order:
            following = reader.submit(cut, indices)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _stored(
    pictures: Pictures,
    chosen: Indices,
    size: int,
    cache: Path,
    kind: str,
    make: Callable[[Image.Image], Pixels],
    watch: Watch[Any],
) -> Store:
    key = hashlib.sha256(pictures.digest.encode() + chosen.tobytes()).hexdigest()[:16]
    path = cache / f"{kind}-{size}-{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path, alone=False) as unfinished:  # runs with the same data share the cache
            shape = (len(chosen), size, size, 3)
            pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            decoded = pictures.source.pictures(chosen)
            for row, (_, image) in enumerate(watch(decoded, f"decoding to {size} px", len(chosen))):
                assert image is not None  # the index knows the damaged ones, and they were not chosen
                pixels[row] = make(image)
            pixels.flush()
            del pixels
    widths, heights = pictures.index.sizes[chosen].T
    return Store(
        pixels=np.load(path, mmap_mode="r", allow_pickle=False),
        targets=torch.from_numpy(pictures.source.targets[chosen]),
        aspects=torch.from_numpy((widths / heights).astype(np.float32)),
    )
