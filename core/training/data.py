"""What is in a source, and its split into train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.files import replacing
from core.training import duplicates
from core.training.config import Data, TrainingError
from core.training.duplicates import Hashes
from core.training.seeds import derive
from core.training.sources import Indices, Source, open_source

Part = Literal["train", "validation", "test"]

T = TypeVar("T")
Watch = Callable[[Iterator[T], str, int], Iterator[T]]
"""Passes a long iteration on and shows how far it is: what is iterated, in words, and how many there are."""


def unwatched(iterator: Iterator[T], doing: str, total: int) -> Iterator[T]:  # noqa: ARG001 - a Watch
    return iterator


@dataclass(frozen=True)
class Index:
    """What one look at every picture has found. Row i belongs to picture i of the source.

    pixels: the first 16 bytes of its pixels' SHA-256, uint8 [N, 16]. hashes: uint64 [N, 2], see
    :func:`duplicates.difference_hash`. sizes: width and height, int32 [N, 2]; 0 for a damaged picture.
    """

    pixels: NDArray[np.uint8]
    hashes: Hashes
    sizes: NDArray[np.int32]

    @classmethod
    def of_nothing(cls, count: int) -> Self:
        """Before any picture was looked at."""
        return cls(
            np.zeros((count, 16), np.uint8), np.zeros((count, 2), np.uint64), np.zeros((count, 2), np.int32)
        )

    @property
    def whole(self) -> NDArray[np.bool_]:
        return self.sizes[:, 0] > 0


@dataclass(frozen=True)
class Pictures:
    """A source, looked through and split. ``parts`` are indices into the source, in rising order.

    digest: SHA-256 of names, classes and pixels of all pictures: the data themselves, wherever they lie.
    """

    source: Source
    index: Index
    parts: dict[Part, Indices]
    digest: str
    summary: dict[str, Any]

    def part(self, name: Part) -> Indices:
        if not len(self.parts[name]):
            raise TrainingError(f"There is no {name} part; the configuration's data section makes none.")
        return self.parts[name]


def open_pictures(
    data: Data, seed: int, watch: Watch[Any] = unwatched, tell: Callable[[str], None] = lambda _line: None
) -> Pictures:
    """Look through the source that the configuration names (once; it is cached) and split it.

    ``tell`` is called with a line for a person if pictures are damaged, and so left out.

    Raises TrainingError if the source cannot be read or has too few pictures for the split.
    """
    source = open_source(data, seed)
    index = _indexed(source, data.cache, watch)
    damaged = [source.names[i] for i in np.flatnonzero(~index.whole)]
    if damaged:
        named = ", ".join(damaged[:3]) + (" and others" if len(damaged) > 3 else "")
        tell(f"Damaged, and left out: {len(damaged)} of {len(source)} pictures ({named}).")
    chosen = _limited(source, index, data.per_class, seed)
    group = np.arange(len(source), dtype=np.int64)
    group[chosen] = chosen[duplicates.groups(index.hashes[chosen], data.duplicate_bits)]
    parts = split(
        source.targets,
        chosen,
        group,
        own_test=source.own_test,
        validation=data.validation,
        test=data.test,
        seed=seed,
    )
    for name, part in parts.items():
        missing = set(range(len(source.labels))) - set(source.targets[part].tolist())
        # Without a test part nothing is tested; without some of its classes, what is measured would be wrong.
        if missing and (len(part) or name != "test"):
            named = ", ".join(source.labels[label] for label in sorted(missing))
            raise TrainingError(f"There are too few pictures: in the {name} part there is none of {named}.")
    sizes_of_groups = np.unique(group[chosen], return_counts=True)[1]
    summary = {
        "labels": list(source.labels),
        "pictures": len(source),
        "damaged": damaged,
        "duplicate_groups": int((sizes_of_groups > 1).sum()),
        "duplicates": int((sizes_of_groups - 1).sum()),
        "split": {name: hashlib.sha256(part.tobytes()).hexdigest() for name, part in parts.items()},
        "parts": {
            name: dict(
                zip(
                    source.labels,
                    np.bincount(source.targets[part], minlength=len(source.labels)).tolist(),
                    strict=True,
                )
            )
            for name, part in parts.items()
        },
    }
    return Pictures(source, index, parts, _digest(source, index), summary)


def split(
    targets: Indices,
    chosen: Indices,
    group: Indices,
    *,
    own_test: NDArray[np.bool_],
    validation: float,
    test: float,
    seed: int,
) -> dict[Part, Indices]:
    """Split the pictures ``chosen`` so that each class has its share in each part, and a group lies in one.

    targets, group, own_test: [N], for all pictures of the source. A group counts for the class of its first
    member. Where a data set has a test part of its own, that is the test part, and whatever shares a group
    with it is left out of the others.
    """
    random = np.random.default_rng(derive(seed, "split"))
    fixed = chosen[own_test[chosen]]
    free = chosen[~np.isin(group[chosen], group[fixed])]
    heads = np.unique(group[free])
    members = dict(zip(*np.unique(group[free], return_counts=True), strict=True))
    part_of_group: dict[int, Part] = {}
    for label in np.unique(targets[free]):
        drawn = random.permutation(heads[targets[heads] == label]).tolist()
        total = sum(members[head] for head in drawn)
        # Single pictures first, so that as a rule no picture counts twice in an evaluation.
        own = sorted(drawn, key=lambda head: members[head] > 1)
        wanted: list[tuple[Part, float]] = [("validation", validation * total)]
        if not len(fixed):
            wanted.append(("test", test * total))
        for part, share in wanted:
            taken = 0
            while own and taken + members[own[0]] <= round(share):
                taken += members[own[0]]
                part_of_group[own.pop(0)] = part
    parts = np.array([part_of_group.get(int(head), "train") for head in group[free]])
    return {
        "train": free[parts == "train"],
        "validation": free[parts == "validation"],
        "test": fixed if len(fixed) else free[parts == "test"],
    }


def _limited(source: Source, index: Index, per_class: int | None, seed: int) -> Indices:
    """Of each class at most so many, chosen at random; damaged pictures never."""
    whole = np.flatnonzero(index.whole)
    if per_class is None:
        return whole
    random = np.random.default_rng(derive(seed, "limit"))
    classes = [whole[source.targets[whole] == label] for label in range(len(source.labels))]
    return np.sort(np.concatenate([random.permutation(own)[:per_class] for own in classes]))


def _indexed(source: Source, cache: Path, watch: Watch[Any]) -> Index:
    path = cache / f"index-{source.stamp[:16].replace(' ', '-')}.npz"
    index = _cached(path, source) or Index.of_nothing(len(source))
    # All pictures at first. Later those that were damaged: what was wrong may have passed, or been mended.
    left = np.flatnonzero(~index.whole)
    for number, picture in watch(source.pictures(left), "looking through the pictures", len(left)):
        if picture is not None:
            index.pixels[number] = np.frombuffer(hashlib.sha256(picture.tobytes()).digest()[:16], np.uint8)
            index.hashes[number] = duplicates.difference_hash(picture)
            index.sizes[number] = picture.size
    if index.whole[left].any():
        cache.mkdir(parents=True, exist_ok=True)
        # Runs with the same data share the cache.
        with replacing(path, alone=False) as unfinished, unfinished.open("wb") as file:
            np.savez(file, stamp=np.array(source.stamp), **vars(index))
    return index


def _cached(path: Path, source: Source) -> Index | None:
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["stamp"]) == source.stamp:
                return Index(stored["pixels"], stored["hashes"], stored["sizes"])
    return None


def _digest(source: Source, index: Index) -> str:
    digest = hashlib.sha256(repr(source.labels).encode())
    for number in np.argsort(np.array(source.names)):
        digest.update(f"{source.names[number]}\0{source.targets[number]}\0".encode())
        digest.update(index.pixels[number].tobytes())
    return digest.hexdigest()
