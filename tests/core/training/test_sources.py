from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.training.config import Data, TrainingError
from core.training.sources import Source, open_source

FILES = ("cat/b.png", "cat/a.jpg", "dog/c.webp", "dog/deep.png", "dog/notes.txt", "dog/broken.jpg")


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (8, 10, 3), np.uint8)
    return Image.fromarray(pixels)


def content(name: str) -> bytes:
    if name.endswith((".txt", "broken.jpg")):
        return b"\xff\xd8 no picture"
    stream = io.BytesIO()
    kind = {"png": "PNG", "jpg": "JPEG", "webp": "WebP"}[name.rpartition(".")[2]]
    picture(len(name)).save(stream, kind)
    return stream.getvalue()


def packed(folder: Path, kind: str) -> Path:
    """The same files, in the form ``kind``, below another folder as archives have them."""
    if kind == "folder":
        for name in FILES:
            path = folder / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(name))
        return folder
    path = folder / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in FILES:
                archive.writestr(f"pets/{name}", content(name))
        return path
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:  # type: ignore[call-overload]
        for name in FILES:
            member = tarfile.TarInfo(f"pets/{name}")
            member.size = len(content(name))
            tar.addfile(member, io.BytesIO(content(name)))
    return path


def opened(path: Path) -> Source:
    kind = "folder" if path.is_dir() else "archive"
    return open_source(Data.model_validate({"source": kind, "path": path}), seed=0)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.xz"])
def test_folders_and_archives_of_class_folders(tmp_path: Path, kind: str) -> None:
    source = opened(packed(tmp_path, kind))
    assert source.labels == ("cat", "dog")
    names = ("cat/a.jpg", "cat/b.png", "dog/broken.jpg", "dog/c.webp", "dog/deep.png")
    assert source.names == tuple(f"pets/{name}" for name in names)
    assert source.targets.tolist() == [0, 0, 1, 1, 1]
    found = dict(source.pictures(range(5)))
    assert found[2] is None  # damaged
    for number, name in enumerate(names):
        if number != 2:
            expected = np.asarray(Image.open(io.BytesIO(content(name))).convert("RGB"))
            np.testing.assert_array_equal(np.asarray(found[number]), expected)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_the_stamp_tells_when_the_data_have_changed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(packed(tmp_path, kind)).stamp
    assert opened(tmp_path if kind == "folder" else tmp_path / f"pets.{kind}").stamp == before
    monkeypatch.setattr("tests.core.training.test_sources.FILES", FILES[1:])
    other = tmp_path / "other"
    other.mkdir()
    assert opened(packed(other, kind)).stamp != before


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_whose_members_have_the_same_headers_is_another_one(tmp_path: Path, kind: str) -> None:
    stamps: list[str] = []
    for colour in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(stream, "PNG", compress_level=0)
        with tarfile.open(tmp_path / f"pets.{kind}", f"w:{kind.partition('.')[2]}") as tar:  # type: ignore[call-overload]
            for name in ("cat/a.png", "dog/b.png"):
                member = tarfile.TarInfo(name)
                member.size = len(stream.getvalue())
                tar.addfile(member, io.BytesIO(stream.getvalue()))
        os.utime(tmp_path / f"pets.{kind}", ns=(0, len(stamps)))  # clocks of file systems may be slow
        stamps.append(opened(tmp_path / f"pets.{kind}").stamp)
    assert stamps[0] != stamps[1]


def test_a_picture_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", failing)
    source = opened(packed(tmp_path, "folder"))
    with pytest.raises(TrainingError, match=r"pets/cat/a\.jpg cannot be read.*Too many open files"):
        list(source.pictures(range(5)))


def test_a_damaged_member_of_a_zip_is_a_damaged_picture(tmp_path: Path) -> None:
    path = packed(tmp_path, "zip")
    whole = path.read_bytes()
    place = whole.index(content("cat/b.png")) + 50
    path.write_bytes(whole[:place] + b"\0\0\0\0" + whole[place + 4 :])
    found = dict(opened(path).pictures(range(5)))
    assert [number for number, image in found.items() if image is None] == [1, 2]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    kind = "archive" if name.endswith("zip") else "folder"
    data = Data.model_validate({"source": kind, "path": tmp_path / name})
    with pytest.raises(TrainingError, match="nowhere"):
        open_source(data, seed=0)


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(TrainingError, match="cannot be read"):
        opened(path)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    picture(1).save(tmp_path / "cat" / "a.png")
    with pytest.raises(TrainingError, match="1 class folders"):
        opened(tmp_path)


def oxford(root: Path) -> None:
    """The layout in which torchvision unpacks Oxford-IIIT Pet."""
    base = root / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    lists = {
        "trainval": ["Bengal_1 2 1 1", "Bengal_2 2 1 1", "beagle_1 1 2 1", "beagle_2 1 2 1"],
        "test": ["Bengal_9 2 1 1", "beagle_9 1 2 1"],
    }
    for part, lines in lists.items():
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            picture(len(line)).save(base / "images" / f"{line.split()[0]}.jpg")


@pytest.mark.parametrize(
    ("classes", "labels", "targets"),
    [
        ("binary", ("cat", "dog"), [0, 0, 1, 1, 0, 1]),
        ("breeds", ("Beagle", "Bengal"), [1, 1, 0, 0, 1, 0]),
    ],
)
def test_oxford_pets_through_torchvision(
    tmp_path: Path, classes: str, labels: tuple[str, ...], targets: list[int]
) -> None:
    oxford(tmp_path)
    data = Data.model_validate({"source": "oxford-iiit-pet", "path": tmp_path, "classes": classes})
    source = open_source(data, seed=0)
    assert source.labels == labels
    assert source.targets.tolist() == targets
    assert source.own_test.tolist() == [False] * 4 + [True] * 2
    assert source.names[4] == "Bengal_9.jpg"
    assert source.picture(0).mode == "RGB"


def test_oxford_pets_are_decoded_as_the_service_does(tmp_path: Path) -> None:
    oxford(tmp_path)
    images = tmp_path / "oxford-iiit-pet" / "images"
    lying = Image.Exif()
    lying[0x0112] = 6
    picture(1).save(images / "Bengal_1.jpg", exif=lying)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(images / "Bengal_2.jpg", "PNG")
    data = Data(source="oxford-iiit-pet", path=tmp_path)
    source = open_source(data, seed=0)
    assert source.picture(0).size == (8, 10)  # stored as 10 x 8
    assert source.picture(1).getpixel((4, 4)) == (255, 255, 255)
    plain = np.asarray(Image.open(images / "beagle_1.jpg").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(source.picture(2)), plain)


def test_oxford_pets_that_were_changed(tmp_path: Path) -> None:
    oxford(tmp_path)
    data = Data(source="oxford-iiit-pet", path=tmp_path)
    before = open_source(data, seed=0).stamp
    assert open_source(data, seed=0).stamp == before
    changed = tmp_path / "oxford-iiit-pet" / "images" / "beagle_9.jpg"
    picture(99).save(changed)
    os.utime(changed, ns=(0, 1))
    assert open_source(data, seed=0).stamp != before
    changed.unlink()
    with pytest.raises(TrainingError, match=r"beagle_9\.jpg"):
        open_source(data, seed=0)


def test_oxford_pets_that_are_not_there_and_may_not_be_downloaded(tmp_path: Path) -> None:
    data = Data(source="oxford-iiit-pet", path=tmp_path, download=False)
    with pytest.raises(TrainingError, match="not found"):
        open_source(data, seed=0)


def test_generated_pictures_are_determined_by_the_seed() -> None:
    data = Data(source="generated", per_class=4)
    one, same, other = (open_source(data, seed) for seed in (1, 1, 2))
    assert len(one) == 8
    assert one.picture(3).tobytes() == same.picture(3).tobytes()
    assert one.picture(3).tobytes() != other.picture(3).tobytes()
    # Across lying stripes the grey changes from row to row, across standing ones from column to column.
    for index in range(8):
        grey = np.asarray(one.picture(index).convert("L"), np.float64)
        rows, columns = grey.mean(1).std(), grey.mean(0).std()
        assert bool(rows > columns) is (one.labels[one.targets[index]] == "horizontal")
