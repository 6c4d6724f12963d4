from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core.training.config import Configuration, TrainingError, read_config

from .conftest import CONFIGS

SMALLEST = """
experiment: {name: mine}
data: {source: generated}
stages: [{depths: [1, 1, 1, 1], size: 32, epochs: 1}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALLEST)
    return path


@pytest.mark.parametrize("name", ["tiny", "cat-dog", "oxford-pets"])
def test_the_recipes_are_valid(name: str) -> None:
    config = read_config(CONFIGS / f"{name}.yaml")
    assert config.architecture == ("resnet26" if name == "tiny" else "resnet101")


def test_what_is_written_is_read_again(file: Path, tmp_path: Path) -> None:
    config = read_config(file)
    written = tmp_path / "resolved.yaml"
    written.write_text(config.to_yaml())
    assert read_config(written) == config
    assert yaml.safe_load(config.to_yaml())["optimiser"]["name"] == "adamw"  # defaults are written, too


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("experiment.sed=1", "experiment.sed"),
        ("optimizer.name=sgd", "optimizer"),
        ("stages.0.epoch=1", "stages.0.epoch"),
        ("data.source=internet", "data.source"),
        ("stages.0.size=16", "stages.0.size"),
        ("stages.0.depths=[1, 1, 1]", "stages.0.depths"),
        ("experiment.name=../up", "experiment.name"),
        ("augmentation.scale=[0.8, 0.2]", "augmentation"),
        ("data.source=folder", "data.path is needed"),
        ("optimiser.betas=[0.9, 1.0]", "optimiser.betas.1"),
        ("experiment.seed=2026-02-30", "day is out of range"),
    ],
)
def test_mistakes_are_named(file: Path, change: str, named: str) -> None:
    with pytest.raises(TrainingError) as refused:
        read_config(file, [change])
    assert named in refused.value.detail


def test_changes_from_the_command_line(file: Path) -> None:
    changes = ["stages.0.epochs=7", "optimiser.average=0.5", "data.path=a=b"]
    config = read_config(file, changes)
    assert (config.stages[0].epochs, config.optimiser.average) == (7, 0.5)
    assert config.data.path == Path("a=b")


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("version=2.10", "2.10"),
        ('version="2.10"', "2.10"),
        ("version=2026-11-26", "2026-11-26"),
        ("name=007", "007"),
        ("licence=", ""),
    ],
)
def test_texts_need_no_quotes(file: Path, change: str, read: str) -> None:
    config = read_config(file, [f"experiment.{change}"])
    assert getattr(config.experiment, change.partition("=")[0]) == read


@pytest.mark.parametrize("change", ["stages.3.epochs=1", "stages.x.epochs=1", "experiment.name.first=1"])
def test_changes_of_what_is_not_there(file: Path, change: str) -> None:
    with pytest.raises(TrainingError, match="no place"):
        read_config(file, [change])


def test_a_change_without_a_value(file: Path) -> None:
    with pytest.raises(TrainingError, match="KEY=VALUE"):
        read_config(file, ["seed"])


@pytest.mark.parametrize("content", [b"stages: [", b"- 1\n", b"", "name: Mähne".encode("latin-1")])
def test_files_that_are_no_configuration(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(TrainingError, match="not valid"):
        read_config(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_stages_only_grow(file: Path) -> None:
    stages = "stages=[{depths: [2,2,2,2], size: 32, epochs: 1}, {depths: [2,1,2,2], size: 32, epochs: 1}]"
    with pytest.raises(TrainingError, match="grow deeper"):
        read_config(file, [stages])


def test_the_last_stage_must_have_a_name_in_manifests(file: Path) -> None:
    with pytest.raises(TrainingError, match="resnet101"):
        read_config(file, ["stages.0.depths=[1, 2, 1, 1]"])


def test_what_determines_the_weights(file: Path) -> None:
    config = read_config(file)

    def same(change: str) -> bool:
        return read_config(file, [change]).determining() == config.determining()

    for change in (
        "experiment.output=elsewhere",
        "data.path=moved",
        "data.cache=c",
        "experiment.log_steps=3",
    ):
        assert same(change), change
    for change in ("experiment.seed=1", "data.validation=0.2", "stages.0.rate=0.1", "precision=fp32"):
        assert not same(change), change


def test_configurations_do_not_change() -> None:
    config = Configuration.model_validate(yaml.safe_load(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        config.precision = "fp32"  # type: ignore[misc]
