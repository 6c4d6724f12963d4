from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training.config import TrainingError
from core.training.optimise import gradient_scaler
from core.training.state import State, read_whole, sole_writer, write_whole
from core.vision.resnet import ResNet

from .conftest import configuration, contents

CPU = torch.device("cpu")


def state(tmp_path: Path) -> tuple[State, Any]:
    config = configuration(tmp_path, tmp_path)
    config.folder.mkdir(exist_ok=True)
    return State.around(ResNet((1, 1, 1, 1), 2), config, gradient_scaler("fp32", CPU)), config


def test_a_kill_while_writing_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    write_whole(path, {"number": 1})
    save = torch.save

    def killed(content: Any, file: Any) -> None:
        save(content, file)
        file.truncate(100)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, {"number": 2})
    assert read_whole(path, CPU) == {"number": 1}


def test_it_is_on_the_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, sync = Path.replace, os.fsync

    def synced(file: int) -> None:
        done.append("sync")
        sync(file)

    def replaced(path: Path, target: Path) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "last.pt", {})
    assert done == ["sync", "replace"]


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "last.pt"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read"):
        read_whole(path, CPU)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "last.pt", tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(trace),)

    torch.save({"config": Evil()}, path)
    with pytest.raises(TrainingError):
        read_whole(path, CPU)
    assert not trace.exists()


def test_other_data_are_refused(tmp_path: Path) -> None:
    one, config = state(tmp_path)
    one.save(config.folder, config, "digest")
    with pytest.raises(TrainingError, match="the data themselves"):
        one.load(config.folder, config, "another")
    one.load(config.folder, config, "digest")


def test_stages_may_change_until_they_begin(tmp_path: Path) -> None:
    one, config = state(tmp_path)
    one.position.stage, one.position.epoch = 1, 0
    one.save(config.folder, config, "digest")
    first, second = config.stages
    later = config.model_copy(update={"stages": (first, second.model_copy(update={"rate": 0.5}))})
    one.load(config.folder, later, "digest")
    earlier = config.model_copy(update={"stages": (first.model_copy(update={"rate": 0.5}), second)})
    with pytest.raises(TrainingError, match="stages"):
        one.load(config.folder, earlier, "digest")
    one.position.step = 1
    one.save(config.folder, config, "digest")
    with pytest.raises(TrainingError, match="stages"):
        one.load(config.folder, later, "digest")


def test_a_run_of_a_device_without_a_scaler_goes_on_with_one(tmp_path: Path) -> None:
    """As from a CPU to a GPU for which float16 is chosen."""
    one, config = state(tmp_path)
    one.save(config.folder, config, "digest")
    assert contents(config.folder / "last.pt")["scaler"] == {}
    one.scaler = gradient_scaler("fp16", CPU)
    initial = one.scaler.get_scale()
    one.load(config.folder, config, "digest")
    assert one.scaler.get_scale() == initial
    one.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    one.save(config.folder, config, "digest")
    one.scaler = gradient_scaler("fp16", CPU)
    one.load(config.folder, config, "digest")
    assert one.scaler.get_scale() == 8


def test_the_average_is_saved_apart_from_the_network(tmp_path: Path) -> None:
    one, config = state(tmp_path)
    with torch.no_grad():
        one.average.fc.bias.fill_(7)
    one.save(config.folder, config, "digest")
    found = contents(config.folder / "last.pt")
    assert found["average"]["fc.bias"].tolist() == [7, 7]
    assert found["network"]["fc.bias"].tolist() != [7, 7]


def test_the_folder_is_free_again_when_its_holder_has_left(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "run"):
        pass
    with pytest.raises(KeyError), sole_writer(tmp_path / "run"):
        raise KeyError
    with sole_writer(tmp_path / "run"):
        pass


def test_only_the_lock_tells_of_another_process(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), sole_writer(tmp_path / "run"):
        raise BlockingIOError
