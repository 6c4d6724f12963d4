from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.explain.run import NetworkExplainer
from core.settings import Settings
from core.vision.checkpoint import save_checkpoint
from core.vision.engine import Engine
from core.vision.manifest import InputFormat, ModelCard
from core.vision.resnet import ResNet
from worker import engines


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    torch.manual_seed(0)
    card = ModelCard(
        name="small",
        version="1",
        architecture="resnet14",
        labels=("cat", "dog"),
        input=InputFormat(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
    )
    manifest = tmp_path / "weights" / "small.json"
    save_checkpoint(ResNet((1, 1, 1, 1)).eval(), manifest, card)
    return Settings(weights=manifest, data_dir=tmp_path / "data", device="cpu", precision="bf16")


def test_an_explainer_is_made_where_it_is_wanted_and_shares_the_network(settings: Settings) -> None:
    engine, explainer = engines.load(settings, explains=True)
    assert isinstance(engine, Engine)
    assert isinstance(explainer, NetworkExplainer)
    assert explainer.explainer.fast is engine.folded
    assert engines.load(settings, explains=False)[1] is None


def test_what_a_worker_finds_out_helps_the_next(settings: Settings) -> None:
    settings.data_dir.mkdir()
    first, _ = engines.load(settings, explains=False)
    assert first.report["check"]["remembered"] is False
    (cache,) = settings.data_dir.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert engines.load(settings, explains=False)[0].report["check"]["remembered"] is True


def test_a_worker_without_a_data_directory_makes_none(settings: Settings) -> None:
    assert engines.load(settings, explains=False)[0].report["check"]["remembered"] is False
    assert not settings.data_dir.exists()


def test_it_is_compiled_only_if_that_is_asked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Engine] = []

    def note(engine: Engine) -> None:
        asked.append(engine)

    monkeypatch.setattr(Engine, "compile_in_background", note)
    assert "compile" not in engines.load(settings, explains=True)[0].report
    assert asked == []
    compiling, _ = engines.load(settings.model_copy(update={"compile": True}), explains=True)
    assert asked == [compiling]


def test_the_stand_in_never_loads_torch() -> None:
    program = (
        "import sys\n"
        "from core.settings import Settings\n"
        "from worker import engines\n"
        "engine, explainer = engines.load(Settings(engine='stand-in', max_batch=3), explains=True)\n"
        "assert engine.max_batch == 3 and explainer is not None\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
