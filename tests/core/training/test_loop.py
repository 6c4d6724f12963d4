"""What a run begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.training.loop import Training
from core.training.progress import Display
from core.vision.checkpoint import load_checkpoint, save_checkpoint
from core.vision.manifest import InputFormat, ModelCard
from core.vision.resnet import ResNet

from .conftest import configuration

FORM = InputFormat(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def begun(tmp_path: Path, cache: Path, labels: tuple[str, ...]) -> tuple[ResNet, ResNet]:
    """Weights that know ``labels``, and the network of a run on ("horizontal", "vertical") from them."""
    path = tmp_path / "given.json"
    card = ModelCard(name="given", version="1", architecture="resnet26", labels=labels, input=FORM)
    save_checkpoint(ResNet((2, 2, 2, 2), len(labels)), path, card)
    stages = [{"depths": [2, 2, 2, 2], "size": 32, "epochs": 1, "batch": 8}]
    config = configuration(tmp_path, cache, stages=stages, model={"weights": path})
    training = Training(config, torch.device("cpu"), Display())
    return load_checkpoint(path)[0], training.state.network


@pytest.mark.parametrize(
    ("labels", "order"), [(("horizontal", "vertical"), [0, 1]), (("vertical", "horizontal"), [1, 0])]
)
def test_a_classifier_of_the_same_classes_is_put_into_their_order(
    tmp_path: Path, cache: Path, labels: tuple[str, ...], order: list[int]
) -> None:
    given, network = begun(tmp_path, cache, labels)
    assert torch.equal(network.fc.weight, given.fc.weight[order])
    assert torch.equal(network.fc.bias, given.fc.bias[order])
    assert torch.equal(network.conv1.weight, given.conv1.weight)
    assert network.fc.weight.requires_grad


@pytest.mark.parametrize("labels", [("horizontal", "diagonal"), ("horizontal", "vertical", "diagonal")])
def test_other_classes_have_a_new_classifier(tmp_path: Path, cache: Path, labels: tuple[str, ...]) -> None:
    given, network = begun(tmp_path, cache, labels)
    assert network.num_classes == network.fc.out_features == 2
    assert not torch.equal(network.fc.weight[0], given.fc.weight[0])
    assert torch.equal(network.conv1.weight, given.conv1.weight)
