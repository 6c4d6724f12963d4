from __future__ import annotations

from pathlib import Path

import pytest

from core.training.export import export_best
from core.training.loop import Stopped
from core.training.state import write_whole
from core.training.train import train
from core.vision.checkpoint import load_checkpoint, save_checkpoint
from core.vision.manifest import InputFormat, ModelCard, read_manifest
from core.vision.resnet import ResNet

from .conftest import configuration, contents


def test_weights_keep_their_own_stride(tmp_path: Path, cache: Path) -> None:
    """Converted original ones, with a configuration that says nothing of it; stopped once, and grown."""
    given = tmp_path / "given.json"
    card = ModelCard(
        name="given",
        version="1",
        architecture="resnet14",
        stride_on="first_1x1",
        labels=("horizontal", "vertical"),
        input=InputFormat(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    )
    save_checkpoint(ResNet((1, 1, 1, 1), 2, stride_on="first_1x1"), given, card)
    config = configuration(tmp_path, cache, model={"weights": given})
    with pytest.raises(Stopped):
        train(config, device="cpu", after_step=lambda state: state.position.updates == 5)
    network, manifest = load_checkpoint(train(config, device="cpu"))
    assert manifest.stride_on == network.stride_on == "first_1x1"

    # Also where best.pt is of a version that did not keep it.
    best = contents(config.folder / "best.pt")
    assert best.pop("stride_on") == "first_1x1"
    write_whole(config.folder / "best.pt", best)
    assert read_manifest(export_best(config.folder)).stride_on == "first_1x1"
