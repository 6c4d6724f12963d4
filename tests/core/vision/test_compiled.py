from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.vision import compiled, folding
from core.vision import engine as engine_module
from core.vision.compiled import attempt, compile_network
from core.vision.engine import Engine
from core.vision.precision import Forward, compare, synthetic_pictures

PASSED = {"passed": True, "max_margin_error": 0.0}


def answer(pictures: Tensor) -> Tensor:
    return pictures


def test_a_forward_that_passes_is_used() -> None:
    forward, said = attempt(lambda: answer, lambda candidate: PASSED if candidate is answer else {})
    assert forward is answer
    assert said["state"] == "used"
    assert said["check"] == PASSED


def test_a_forward_that_answers_otherwise_is_refused() -> None:
    forward, said = attempt(lambda: answer, lambda _: {"passed": False, "max_margin_error": 1.0})
    assert forward is None
    assert said["state"] == "refused"
    assert said["why"] == "the check against float32 fails"
    assert said["check"]["max_margin_error"] == 1.0


def test_whatever_the_compiler_raises_is_said_in_one_line() -> None:
    def fails() -> Forward:
        raise FileNotFoundError("No working C++ compiler found.\nTried g++\n")

    forward, said = attempt(fails, lambda _: PASSED)
    assert forward is None
    assert said == {
        "state": "refused",
        "why": "it cannot be compiled: FileNotFoundError: No working C++ compiler found.",
    }


def test_without_a_compiler_the_engine_goes_on_as_before(
    small_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object, **__: object) -> Forward:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled.torch, "compile", no_compiler)
    engine = Engine(small_manifest, device="cpu", precision="fp32")
    before = engine.forward
    engine.compile_in_background().join()
    assert engine.forward is before
    assert engine.report["compile"]["state"] == "refused"
    assert engine.report["compile"]["why"].endswith("RuntimeError: no compiler here")
    assert engine.predict([np.zeros((64, 64, 3), np.uint8)])


def test_a_wrong_compiler_is_found_out(small_manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(small_manifest, device="cpu", precision="fp32")
    before = engine.forward
    shift = torch.tensor([1.0, 0.0, 0.0])
    monkeypatch.setattr(
        engine_module, "compile_network", lambda network, *_: lambda pictures: network(pictures) + shift
    )
    engine.compile_in_background().join()
    assert engine.forward is before
    assert engine.report["compile"]["why"] == "the check against float32 fails"


def test_what_is_traced_serves_every_number_of_pictures(
    small_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch.compile's own debugging backend, which traces the whole network and generates no code."""
    monkeypatch.setattr(compiled.torch, "compile", partial(_traced, torch.compile))
    engine = Engine(small_manifest, device="cpu", precision="bf16")
    before = engine.forward
    batch = synthetic_pictures(9, 64, seed=3).numpy()
    expected = engine.logits(batch)
    thread = engine.compile_in_background()
    assert engine.report["compile"]["state"] in {"compiling", "used"}
    assert torch.equal(engine.logits(batch), expected)  # nothing waits for it
    thread.join()
    said = engine.report["compile"]
    assert json.loads(json.dumps(said)) == said
    assert said["state"] == "used", said
    assert engine.forward is not before
    with monkeypatch.context() as without_fused_operators:
        # On a CPU the network as it is uses them; what was traced has torch's own.
        without_fused_operators.setattr(folding.FoldedConvolution, "fused", None)
        for count in (1, 2, 5, 9):
            torch.testing.assert_close(engine.logits(batch[:count]), expected[:count], rtol=0, atol=0.05)
    # Pictures that it was not traced for are answered by the network as it is.
    other = engine.normalise(synthetic_pictures(2, 96))
    with torch.inference_mode():
        assert torch.equal(engine.forward(other), before(other))


def _traced(compile_: Callable[..., Any], network: nn.Module, *, options: object, **given: Any) -> Any:
    return compile_(network, backend="aot_eager", **given)


class OneConvolution(nn.Module):
    """As little as can be compiled: what compile_network knows of a network is its ``conv1``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.conv1(x)).mean((2, 3)))
        return logits


def test_the_compiler_leaves_its_code_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this machine has a C++ compiler; where it has none, that it says so."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is gone again after the test
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    network: Any = OneConvolution().eval().requires_grad_(False)
    with torch.inference_mode():
        pictures = torch.randn(4, 3, 16, 16)
        expected = network(pictures)
    forward, said = attempt(
        lambda: compile_network(network, pictures, tmp_path), lambda found: compare(network, found, pictures)
    )
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        assert said["state"] == "refused"
        assert "compiler" in said["why"].lower()
        return
    assert forward is not None, said
    with torch.inference_mode():
        torch.testing.assert_close(forward(pictures), expected)
    assert list((tmp_path / "inductor").rglob("*.so"))
