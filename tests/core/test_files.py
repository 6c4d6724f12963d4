from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.files import replacing


@pytest.mark.parametrize("alone", [True, False])
def test_the_new_file_takes_the_place_of_the_old_when_it_is_whole(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, alone=alone) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path, alone=alone) as unfinished:
            unfinished.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_processes_that_write_at_the_same_time_do_not_write_into_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    with replacing(path, alone=False) as ours:
        ours.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with replacing(path, alone=False) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
        assert ours.read_text() == "ours"
    assert path.read_text() == "ours"
