from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from core.vision.engine import Engine
from core.vision.precision import synthetic_pictures
from tests.benchmarks import fidelity
from tests.core.vision.conftest import two_class_weights
from tests.machine import needs_fused_bfloat16


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_fused_bfloat16)])
def test_shuffled_weights_are_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Literal["fp32", "bf16"]
) -> None:
    manifest = two_class_weights(tmp_path)
    monkeypatch.setattr(fidelity, "MANIFEST", manifest)
    explain = fidelity._Explain(Engine(manifest, device="cpu", precision=precision))
    methods: dict[str, Any] = {"grad_cam": {}, "occlusion": {}}
    fidelity._randomise(explain, methods, list(synthetic_pictures(3, 64, seed=3).numpy()))
    for figures in methods.values():
        assert figures["randomised_pictures"] == 3
        assert abs(figures["randomised_spearman"]) < 0.7


def test_a_network_that_was_not_shuffled_is_not_taken_for_one_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = two_class_weights(tmp_path)
    monkeypatch.setattr(fidelity, "shuffled_weights", lambda path, folder: manifest)
    explain = fidelity._Explain(Engine(manifest, device="cpu", precision="fp32"))
    with pytest.raises(AssertionError, match="compared with itself"):
        fidelity._randomise(explain, {}, list(synthetic_pictures(1, 64, seed=3).numpy()))
