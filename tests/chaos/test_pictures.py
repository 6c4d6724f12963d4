"""Real photos, damaged at random, through the door: each is refused in words, or a worker can decode it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.vision.images import decode
from tests.api.conftest import Api, assert_problem, served_over_sqlite
from tests.core.vision.test_images_fuzz import damage
from tests.processes import PHOTOS

TURNS = 25


@pytest.fixture(scope="module")
def api(migrated_sqlite_file: Path, folder_of_module: Path) -> Iterator[Api]:
    with served_over_sqlite(migrated_sqlite_file, folder_of_module) as served:
        yield served


@pytest.fixture(scope="module")
def folder_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # of damaged EXIF data
@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_a_damaged_photo_is_refused_or_can_be_decoded(api: Api, photo: Path) -> None:
    chance = random.Random(photo.name)
    whole = photo.read_bytes()
    statuses: Counter[int] = Counter()
    for _ in range(TURNS):
        data = damage(whole, chance)
        answer = api.http.post("/v1/jobs", files={"file": ("photo.jpg", data)})
        statuses[answer.status_code] += 1
        if answer.status_code == 202:
            image = answer.json()["image"]
            assert decode(data).size == (image["width"], image["height"])
        else:
            assert_problem(answer, 422 if answer.status_code == 422 else 415)
    assert len(statuses) > 1, "both were tried"
    assert not api.lines(level="ERROR")
