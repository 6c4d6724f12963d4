"""Whole runs: the same seed gives the same weights, and a kill changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training.config import Configuration, TrainingError
from core.training.loop import Stopped
from core.training.state import State, sole_writer
from core.training.train import train
from tests.processes import eventually

from .conftest import STEPS, assert_equal, configuration, contents


class Killed(BaseException):
    """As sudden as a kill can be within a process: nothing catches it, nothing is saved."""


def killed_after(steps: int) -> Callable[[State], bool]:
    def after_step(state: State) -> bool:
        if state.position.updates == steps:
            raise Killed
        return False

    return after_step


def logged(config: Configuration) -> list[dict[str, Any]]:
    """metrics.jsonl without what clocks have measured."""
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if not name.endswith("_seconds") and "second" not in name
        }
        for line in lines
    ]


def untimed(checkpoint: dict[str, Any]) -> dict[str, Any]:
    totals = {name: value for name, value in checkpoint["totals"].items() if not name.endswith("_seconds")}
    return checkpoint | {"totals": totals}


def assert_same_run(one: Configuration, other: Configuration) -> None:
    first, second = (untimed(contents(config.folder / "last.pt")) for config in (one, other))
    assert_equal(first, second)
    first, second = (contents(config.folder / "best.pt")["network"] for config in (one, other))
    assert_equal(first, second)
    assert logged(one) == logged(other)
    weights = [(config.folder / "small.safetensors").read_bytes() for config in (one, other)]
    assert weights[0] == weights[1]


def test_a_run_leaves_what_it_promises(finished: Configuration) -> None:
    lines = logged(finished)
    assert [line["update"] for line in lines if line["event"] == "step"] == list(range(1, STEPS + 1))
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [(e["stage"], e["epoch"], e["depths"]) for e in epochs] == [
        (0, 0, [1, 1, 1, 1]),
        (1, 0, [2, 2, 2, 2]),
    ]
    data = json.loads((finished.folder / "data.json").read_text())
    assert data["parts"]["train"] == {"horizontal": 17, "vertical": 17}
    again = Configuration.model_validate(contents(finished.folder / "best.pt")["config"])
    assert again == finished


def test_the_same_seed_gives_the_same_weights(finished: Configuration, tmp_path: Path, cache: Path) -> None:
    again = configuration(tmp_path, cache)
    train(again, device="cpu")
    assert_same_run(finished, again)


def test_another_seed_gives_others(finished: Configuration, tmp_path: Path, cache: Path) -> None:
    experiment = finished.experiment.model_copy(update={"seed": 4, "output": tmp_path})
    other = finished.model_copy(update={"experiment": experiment})
    with pytest.raises(Killed):
        train(other, device="cpu", after_step=killed_after(1))
    assert logged(other)[0]["loss"] != logged(finished)[0]["loss"]


def test_killed_again_and_again_it_is_the_same_run(
    finished: Configuration, tmp_path: Path, cache: Path
) -> None:
    """Before the first checkpoint, with it, in the last step of a stage, twice in the grown network, at the
    very end."""
    config = configuration(tmp_path, cache)
    for step in (1, 3, 4, 5, 7, STEPS):
        with pytest.raises(Killed):
            train(config, device="cpu", after_step=killed_after(step))
    train(config, device="cpu")
    assert_same_run(finished, config)


def test_a_process_that_is_killed_by_the_system(finished: Configuration, tmp_path: Path, cache: Path) -> None:
    config = configuration(tmp_path, cache)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    log = config.folder / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "core.training.train", str(file), "--device", "cpu"], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: log.exists() and log.read_text().count("\n") >= 4, seconds=120)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(config, device="cpu")
    assert_same_run(finished, config)


def test_asked_to_leave_it_goes_on_at_the_very_next_step(
    finished: Configuration, tmp_path: Path, cache: Path
) -> None:
    config = configuration(tmp_path, cache)
    with pytest.raises(Stopped):
        train(config, device="cpu", after_step=lambda state: state.position.updates == 2)
    position = contents(config.folder / "last.pt")["position"]
    assert position == {"stage": 0, "epoch": 0, "step": 2, "updates": 2}
    first: list[int] = []

    def note(state: State) -> bool:
        first.append(state.position.updates)
        return False

    train(config, device="cpu", after_step=note)
    assert first[0] == 3
    assert_same_run(finished, config)


def test_sigterm_writes_a_checkpoint(tmp_path: Path, cache: Path) -> None:
    experiment = {"name": "small", "output": str(tmp_path), "checkpoint_steps": 1000, "log_steps": 1}
    stages = [{"depths": [1, 1, 1, 1], "size": 32, "epochs": 1000, "batch": 8}]
    config = configuration(tmp_path, cache, experiment=experiment, stages=stages)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    log = config.folder / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "core.training.train", str(file), "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: log.exists() and log.read_text().count("\n") >= 2, seconds=120)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "go on" in said
    assert contents(config.folder / "last.pt")["position"]["updates"] == logged(config)[-1]["update"]


def test_a_finished_run_is_not_run_again(finished: Configuration) -> None:
    before = (finished.folder / "metrics.jsonl").read_bytes()
    train(finished, device="cpu", after_step=killed_after(STEPS))
    assert (finished.folder / "metrics.jsonl").read_bytes() == before


def test_another_configuration_does_not_go_on_with_the_run(finished: Configuration) -> None:
    optimiser = finished.optimiser.model_copy(update={"weight_decay": 0.1})
    other = finished.model_copy(update={"optimiser": optimiser})
    with pytest.raises(TrainingError, match=r"optimiser\.weight_decay.*--fresh"):
        train(other, device="cpu")


def test_fresh_starts_over(tmp_path: Path, cache: Path) -> None:
    config = configuration(tmp_path, cache)
    with pytest.raises(Stopped):
        train(config, device="cpu", after_step=lambda state: state.position.updates == 3)
    with pytest.raises(Stopped):
        train(config, device="cpu", fresh=True, after_step=lambda _state: True)
    assert [line["update"] for line in logged(config)] == [1]


def test_two_processes_do_not_train_in_one_folder(finished: Configuration) -> None:
    with sole_writer(finished.folder), pytest.raises(TrainingError, match="Another process"):
        train(finished, device="cpu")


def test_training_goes_on_from_given_weights(finished: Configuration, tmp_path: Path, cache: Path) -> None:
    stages = [{"depths": [2, 2, 2, 2], "size": 32, "epochs": 1, "batch": 8, "rate": 1e-9}]
    weights = finished.folder / "small.json"
    schedule = {"warmup": 1.0}
    config = configuration(tmp_path, cache, stages=stages, model={"weights": weights}, schedule=schedule)
    train(config, device="cpu")
    given, found = (contents(c.folder / "best.pt")["network"]["conv1.weight"] for c in (finished, config))
    # As in the file, in float16; a rate of almost nothing has changed almost nothing.
    assert (given.half().float() - found).abs().max() < 1e-6
    shallow = configuration(
        tmp_path / "other",
        cache,
        stages=[{"depths": [1, 1, 1, 1], "size": 32, "epochs": 1, "batch": 8}],
        model={"weights": weights},
    )
    with pytest.raises(TrainingError, match="shallower"):
        train(shallow, device="cpu")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, cache: Path) -> None:
    stages = [{"depths": [1, 1, 1, 1], "size": 32, "epochs": 3, "batch": 8, "rate": 1e30}]
    optimiser = {"name": "sgd", "gradient_norm": None}
    config = configuration(tmp_path, cache, stages=stages, optimiser=optimiser)
    with pytest.raises(TrainingError, match="The loss is"):
        train(config, device="cpu")
    assert not (config.folder / "small.json").exists()


def test_it_learns(tmp_path: Path, cache: Path) -> None:
    """Stripes that lie from stripes that stand: 18 pictures that it has not seen."""
    config = configuration(
        tmp_path,
        cache,
        experiment={"name": "small", "seed": 3, "output": tmp_path},
        data={"source": "generated", "per_class": 90, "cache": cache, "test": 0},
        augmentation={"scale": [0.8, 1.0], "mixup": 0, "erase": 0},
        stages=[{"depths": [1, 1, 1, 1], "size": 32, "epochs": 5, "batch": 16, "rate": 2e-3}],
    )
    train(config, device="cpu")
    best = contents(config.folder / "best.pt")["validation"]
    assert best["roc_auc"] > 0.85
    epochs = [line for line in logged(config) if line["event"] == "epoch"]
    top = max(epochs, key=lambda epoch: (epoch["validation_accuracy"], -epoch["validation_loss"]))
    assert best["loss"] == top["validation_loss"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_seed_gives_the_same_weights_also_after_a_kill(tmp_path: Path, cache: Path) -> None:
    """In bfloat16, as it is chosen there."""
    one, other = (
        configuration(tmp_path / name, cache, precision="auto") for name in ("in one go", "interrupted")
    )
    train(one, device="cuda")
    for step in (4, 7):
        with pytest.raises(Killed):
            train(other, device="cuda", after_step=killed_after(step))
    train(other, device="cuda")
    assert_same_run(one, other)
