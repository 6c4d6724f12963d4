from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.training.config import Data, TrainingError
from core.training.data import Part, Pictures, open_pictures, split
from core.training.sources import Indices, Source

from .conftest import Other


def parted(
    targets: Indices, group: Indices, own_test: Any = None, seed: int = 0, **shares: float
) -> dict[Part, Indices]:
    return split(
        targets,
        np.arange(len(targets)),
        group,
        own_test=np.zeros(len(targets), bool) if own_test is None else own_test,
        validation=shares.get("validation", 0.2),
        test=shares.get("test", 0.1),
        seed=seed,
    )


def test_each_class_has_its_share_and_each_group_one_part() -> None:
    random = np.random.default_rng(0)
    targets = random.choice(3, 1000, p=[0.6, 0.3, 0.1])
    group = np.arange(1000)
    for head in range(0, 600, 3):  # 200 groups of three, of mixed classes
        group[head : head + 3] = head
    parts = parted(targets, group)
    everything = np.concatenate(list(parts.values()))
    assert sorted(everything) == list(range(1000))
    shares: tuple[tuple[Part, float], ...] = (("validation", 0.2), ("test", 0.1))
    for name, share in shares:
        found = np.bincount(targets[parts[name]]) / np.bincount(targets)
        np.testing.assert_allclose(found, share, atol=0.03)
    sides = [set(group[part]) for part in parts.values()]
    assert not any(sides[a] & sides[b] for a in range(3) for b in range(a))
    for part in parts.values():
        assert (np.diff(part) > 0).all()


def test_shares_are_exact_without_groups() -> None:
    targets = np.arange(100) % 2
    parts = parted(targets, np.arange(100))
    assert {name: np.bincount(targets[part]).tolist() for name, part in parts.items()} == {
        "train": [35, 35],
        "validation": [10, 10],
        "test": [5, 5],
    }


def test_the_seed_decides() -> None:
    targets = np.arange(100) % 2
    one, same, other = (parted(targets, np.arange(100), seed=seed)["train"] for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()


def test_a_test_part_of_the_data_sets_own() -> None:
    targets = np.arange(20) % 2
    own_test = np.arange(20) >= 16
    group = np.arange(20)
    group[17] = 1  # picture 1 is a copy of a test picture
    parts = parted(targets, group, own_test=own_test)
    assert parts["test"].tolist() == [16, 17, 18, 19]
    assert 1 not in np.concatenate([parts["train"], parts["validation"]])


def pictures_in(folder: Path, **settings: Any) -> Pictures:
    """Twenty pictures of clouds in two classes, with a copy of each of the first three and a damaged one."""
    random = np.random.default_rng(0)
    for number in range(20):
        image = Image.fromarray(random.integers(0, 255, (4, 4, 3), np.uint8)).resize((64, 48))
        path = folder / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        if number < 3:
            image.resize((128, 96)).save(path.with_name(f"{number}-copy.png"))
    (folder / "pets" / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = {"source": "folder", "path": folder / "pets", "cache": folder / "cache", "validation": 0.2}
    return open_pictures(Data.model_validate(data | settings), seed=0)


def test_what_is_found_in_a_folder(tmp_path: Path) -> None:
    found = pictures_in(tmp_path)
    assert found.summary["pictures"] == 24
    assert found.summary["damaged"] == ["cat/broken.png"]
    assert (found.summary["duplicate_groups"], found.summary["duplicates"]) == (3, 3)
    sides = {name: {Path(found.source.names[i]).stem for i in part} for name, part in found.parts.items()}
    for number in range(3):
        assert sum(bool(side & {str(number), f"{number}-copy"}) for side in sides.values()) == 1
    assert "broken" not in set.union(*sides.values())
    assert found.index.sizes[found.source.names.index("dog/0.png")].tolist() == [64, 48]


def test_the_look_through_is_cached_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pictures_in(tmp_path)
    decoded: list[Any] = []
    look = Source.pictures

    def counted(source: Source, indices: Any) -> Any:
        decoded.extend(indices)
        return look(source, indices)

    monkeypatch.setattr(Source, "pictures", counted)
    data = Data(source="folder", path=tmp_path / "pets", cache=tmp_path / "cache", validation=0.2)
    again = open_pictures(data, seed=0)
    assert [again.source.names[i] for i in decoded] == ["cat/broken.png"]  # it might have been mended
    decoded.clear()
    assert again.digest == first.digest
    assert again.summary == first.summary
    Image.new("RGB", (5, 5), "red").save(tmp_path / "pets" / "dog" / "0.png")
    changed = open_pictures(data, seed=0)
    assert len(decoded) == 24
    assert changed.digest != first.digest


def test_damaged_pictures_are_told_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures_in(tmp_path)
    data = Data(source="folder", path=tmp_path / "pets", cache=tmp_path / "cache", validation=0.2)
    said: list[str] = []
    open_pictures(data, seed=0, tell=said.append)
    assert said == ["Damaged, and left out: 1 of 24 pictures (cat/broken.png)."]
    # Nothing but its content tells that it was mended.
    broken, whole = (tmp_path / "pets" / "cat" / name for name in ("broken.png", "1.png"))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(whole if path == broken else path))
    assert open_pictures(data, seed=0).summary["damaged"] == []
    monkeypatch.undo()
    assert open_pictures(data, seed=0).summary["damaged"] == []  # that is kept, too


def test_an_error_of_the_disk_damages_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(TrainingError, match=r"cannot be read.*Too many open files"):
        pictures_in(tmp_path)
    monkeypatch.undo()
    assert pictures_in(tmp_path).summary["damaged"] == ["cat/broken.png"]


def test_two_runs_look_through_at_the_same_time(
    tmp_path: Path, at_the_same_time: Callable[[Other], None]
) -> None:
    data = Data(source="generated", per_class=6, validation=0.34, cache=tmp_path)
    found = []
    at_the_same_time(lambda: found.append(open_pictures(data, seed=0)))
    found.append(open_pictures(data, seed=0))
    theirs, ours = found
    assert ours.digest == theirs.digest == open_pictures(data, seed=0).digest
    assert len(list(tmp_path.iterdir())) == 1


def test_the_digest_is_of_the_data_not_of_where_they_lie(tmp_path: Path) -> None:
    one, other = (pictures_in(tmp_path / name) for name in ("here", "there"))
    assert one.digest == other.digest


def test_a_limit_for_a_trial(tmp_path: Path) -> None:
    found = pictures_in(tmp_path, per_class=6, test=0.2)
    chosen = np.concatenate(list(found.parts.values()))
    assert np.bincount(found.source.targets[chosen]).tolist() == [6, 6]


def test_too_few_pictures_for_a_split(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"too few pictures: in the validation part .* none of cat, dog"):
        pictures_in(tmp_path, validation=0.01)


def test_a_test_part_without_one_of_the_classes(tmp_path: Path) -> None:
    """Of a dozen one is tested, of six none: what is measured would say nothing of that class."""
    for number in range(6):
        (tmp_path / "pets" / "fox").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pets" / "fox" / f"{number}.png")
    with pytest.raises(TrainingError, match=r"too few pictures: in the test part there is none of fox"):
        pictures_in(tmp_path, test=0.08)
    assert len(pictures_in(tmp_path, test=0).parts["test"]) == 0


def test_a_part_that_was_not_made(tmp_path: Path) -> None:
    found = pictures_in(tmp_path, test=0)
    with pytest.raises(TrainingError, match="no test part"):
        found.part("test")
