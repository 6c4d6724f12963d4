from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.training.config import Data
from core.training.data import Pictures, open_pictures
from core.training.store import batches, served_crops, whole_pictures
from core.vision.manifest import InputFormat
from core.vision.preprocessing import Preprocessing

from .conftest import Other

FORM = InputFormat(size=32, resize_scale=1.14, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    cache = tmp_path_factory.mktemp("cache")
    return open_pictures(Data(source="generated", per_class=10, validation=0.2, cache=cache), seed=1)


def test_crops_are_those_of_the_service(pictures: Pictures, tmp_path: Path) -> None:
    chosen = pictures.part("validation")
    store = served_crops(pictures, chosen, FORM, tmp_path)
    for row, index in enumerate(chosen):
        expected = Preprocessing(FORM).crop(pictures.source.picture(int(index)))
        np.testing.assert_array_equal(store.pixels[row], expected)
    assert store.targets.tolist() == pictures.source.targets[chosen].tolist()


def test_whole_pictures_know_their_shape(pictures: Pictures, tmp_path: Path) -> None:
    chosen = pictures.part("train")
    store = whole_pictures(pictures, chosen, 40, tmp_path)
    assert store.pixels.shape == (len(chosen), 40, 40, 3)
    for row, index in enumerate(chosen):
        width, height = pictures.source.picture(int(index)).size
        assert float(store.aspects[row]) == pytest.approx(width / height)


def test_they_are_decoded_once(pictures: Pictures, tmp_path: Path) -> None:
    chosen = pictures.part("train")
    first = whole_pictures(pictures, chosen, 40, tmp_path)
    seen: list[str] = []

    def watch(iterator: object, doing: str, total: int) -> object:
        seen.append(doing)
        return iterator

    again = whole_pictures(pictures, chosen, 40, tmp_path, watch)  # type: ignore[arg-type]
    assert not seen
    np.testing.assert_array_equal(first.pixels, again.pixels)
    whole_pictures(pictures, chosen[1:], 40, tmp_path, watch)  # type: ignore[arg-type]
    assert seen == ["decoding to 40 px"]


def test_half_decoded_is_not_taken_for_whole(pictures: Pictures, tmp_path: Path) -> None:
    chosen = pictures.part("train")

    def killed(iterator: object, doing: str, total: int) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole_pictures(pictures, chosen, 40, tmp_path, killed)  # type: ignore[arg-type]
    store = whole_pictures(pictures, chosen, 40, tmp_path)
    assert store.pixels.reshape(len(chosen), -1).any(axis=1).all()


def test_two_runs_decode_at_the_same_time(
    pictures: Pictures, tmp_path: Path, at_the_same_time: Callable[[Other], None]
) -> None:
    chosen = pictures.part("train")
    stores = []
    at_the_same_time(lambda: stores.append(whole_pictures(pictures, chosen, 40, tmp_path)))
    stores.append(whole_pictures(pictures, chosen, 40, tmp_path))
    theirs, ours = stores
    assert ours.pixels.reshape(len(chosen), -1).any(axis=1).all()
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert len(list(tmp_path.iterdir())) == 1


def test_batches_in_order(pictures: Pictures, tmp_path: Path) -> None:
    store = whole_pictures(pictures, pictures.part("train"), 40, tmp_path)
    order = [np.array([5, 2, 9]), np.array([0]), np.array([7, 7])]
    found = list(batches(store, order))
    assert len(found) == 3
    for indices, (pixels, targets, aspects) in zip(order, found, strict=True):
        np.testing.assert_array_equal(pixels.numpy(), store.pixels[indices])
        assert targets.tolist() == store.targets[indices].tolist()
        assert aspects.tolist() == store.aspects[indices].tolist()
    assert list(batches(store, [])) == []
