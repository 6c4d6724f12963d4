"""Where labelled pictures come from. A source lists them at once and decodes each when asked."""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from core.errors import PawlensError
from core.training.config import Data, TrainingError
from core.vision.images import decode

Indices = NDArray[np.int64]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_GENERATED = 64  # of each class, where the configuration names no other number


@dataclass(frozen=True)
class Source:
    """Labelled pictures.

    labels: class names in the order of the logits.
    names: of each picture, unique. targets: its class, an index into ``labels``.
    own_test: True for those that the data set itself has put aside for testing.
    picture: decodes the one with this index to upright RGB.
    stamp: changes when a file is added, removed or changed, and is found without reading the pictures.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    targets: Indices
    own_test: NDArray[np.bool_]
    picture: Callable[[int], Image.Image]
    stamp: str

    def __len__(self) -> int:
        return len(self.names)

    def pictures(self, indices: Sequence[int] | Indices) -> Iterator[tuple[int, Image.Image | None]]:
        """Decode in several threads, in order; None for a picture that is damaged.

        Raises TrainingError if one cannot be read.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # In parts: the pool would otherwise decode everything ahead of whoever reads slowly.
            for start in range(0, len(indices), 256):
                part = [int(index) for index in indices[start : start + 256]]
                yield from zip(part, pool.map(self._or_none, part), strict=True)

    def _or_none(self, index: int) -> Image.Image | None:
        try:
            return self.picture(index)
        except (PawlensError, zipfile.BadZipFile, zlib.error):
            return None
        except (OSError, RuntimeError) as error:  # RuntimeError: encrypted, in a zip
            # Nobody has seen whether that is a picture: a disk or a network may be well again in a minute.
            raise TrainingError(f"The picture {self.names[index]} cannot be read: {error}") from error


def open_source(data: Data, seed: int) -> Source:
    """The source that the configuration names. Raises TrainingError if it is not there or has no classes."""
    try:
        match data.source:
            case "oxford-iiit-pet":
                return _oxford_pets(data.path or data.cache, data.classes, download=data.download)
            case "generated":
                return _gratings(data.per_class or _GENERATED, seed)
            case "folder":
                assert data.path is not None
                return _class_folders(_in_folder(data.path))
            case "archive":
                assert data.path is not None
                in_archive = _in_zip if zipfile.is_zipfile(data.path) else _in_tar
                return _class_folders(in_archive(data.path))
    except (OSError, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise TrainingError(f"The pictures in {data.path or data.cache} cannot be read: {error}") from error


@dataclass(frozen=True)
class _File:
    path: PurePosixPath
    stamp: str
    read: Callable[[], bytes]


def _stamp_of(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _in_folder(folder: Path) -> Iterator[_File]:
    if not folder.is_dir():
        raise TrainingError(f"{folder} is no folder. Name the one that holds the class folders in data.path.")
    for path in folder.rglob("*"):
        if path.is_file():
            name = PurePosixPath(path.relative_to(folder).as_posix())
            yield _File(name, _stamp_of(path), path.read_bytes)


def _in_zip(path: Path) -> Iterator[_File]:
    archive = zipfile.ZipFile(path)  # open as long as the source is; it locks around each read
    for member in archive.infolist():
        read = functools.partial(archive.read, member)
        yield _File(PurePosixPath(member.filename), f"{member.file_size} {member.CRC}", read)


def _in_tar(path: Path) -> Iterator[_File]:
    """A plain archive is read where its members lie; a compressed one has no such places: it is held."""
    if not path.is_file():
        raise TrainingError(f"There is no archive {path}. Name one in data.path.")
    # Unlike a zip's, the members' headers say nothing of what is in them.
    whole = _stamp_of(path)
    with tarfile.open(path) as archive:
        plain = _is_plain_tar(path)
        for member in archive:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.suffix.lower() not in _SUFFIXES:
                continue
            if plain:
                read = functools.partial(_read_at, path, member.offset_data, member.size)
            else:
                file = archive.extractfile(member)
                assert file is not None
                read = functools.partial(bytes, file.read())
            yield _File(name, f"{member.size} {member.mtime} {member.chksum} {whole}", read)


def _is_plain_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except tarfile.ReadError:
        return False
    return True


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _class_folders(found: Iterator[_File]) -> Source:
    """The folder right above a picture is its class; classes are in the order of their names."""
    files = sorted((file for file in found if file.path.suffix.lower() in _SUFFIXES), key=lambda f: f.path)
    labels = tuple(sorted({file.path.parent.name for file in files}))
    if len(labels) < 2 or "" in labels:
        raise TrainingError(
            f"Pictures were found in {len(labels)} class folders. At least two are needed, with JPEG, PNG or "
            "WebP files right in them."
        )
    stamp = hashlib.sha256("\n".join(f"{file.path} {file.stamp}" for file in files).encode()).hexdigest()
    return Source(
        labels=labels,
        names=tuple(str(file.path) for file in files),
        targets=np.array([labels.index(file.path.parent.name) for file in files], np.int64),
        own_test=np.zeros(len(files), np.bool_),
        picture=lambda index: decode(files[index].read()),
        stamp=stamp,
    )


def _oxford_pets(root: Path, classes: Literal["binary", "breeds"], *, download: bool) -> Source:
    """Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs" (2012); its own test part is kept aside."""
    kind = "binary-category" if classes == "binary" else "category"
    parts = [
        OxfordIIITPet(root, split=split, target_types=kind, download=download)
        for split in ("trainval", "test")
    ]
    labels = ("cat", "dog") if classes == "binary" else tuple(parts[0].classes)
    # The class offers no names, and a report must say which picture it shows; nor does it turn them upright.
    files = [path for part in parts for path in part._images]
    targets = [
        target for part in parts for target in (part._bin_labels if classes == "binary" else part._labels)
    ]
    found = [f"{path.name} {target} {_stamp_of(path)}" for path, target in zip(files, targets, strict=True)]
    return Source(
        labels=labels,
        names=tuple(path.name for path in files),
        targets=np.array(targets, np.int64),
        own_test=np.arange(len(files)) >= len(parts[0]),
        picture=lambda index: decode(files[index].read_bytes()),
        stamp=hashlib.sha256("\n".join([classes, *found]).encode()).hexdigest(),
    )


def _gratings(per_class: int, seed: int) -> Source:
    """Horizontal and vertical stripes, to try out a machine or an installation without any data.

    Hue, width, phase, tilt and noise vary, so that no single pixel tells the class.
    """

    def picture(index: int) -> Image.Image:
        random = np.random.default_rng([seed, index])
        width, height = random.integers(72, 128, 2)
        y, x = np.mgrid[0:height, 0:width]
        angle = random.uniform(-0.3, 0.3) + (np.pi / 2 if index % 2 == 0 else 0)
        turns = random.uniform(2, 5) * 2 * np.pi / min(width, height)
        along = x * np.cos(angle) + y * np.sin(angle)
        wave = np.sin(along * turns + random.uniform(0, 2 * np.pi))
        first, second = random.uniform(30, 225, (2, 3))
        pixels = (
            first + (second - first) * (wave[..., None] + 1) / 2 + random.normal(0, 12, (height, width, 3))
        )
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    count = 2 * per_class
    return Source(
        labels=("horizontal", "vertical"),
        names=tuple(f"grating-{index}" for index in range(count)),
        targets=np.arange(count, dtype=np.int64) % 2,
        own_test=np.zeros(count, np.bool_),
        picture=picture,
        stamp=f"gratings {count} {seed}",
    )
