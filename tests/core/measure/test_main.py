"""The whole script, as on a machine that is new."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.capacity import Figures
from core.explain.explanation import Explanation, Target
from core.explain.methods import METHODS
from core.explain.options import ExplainOptions
from core.explain.run import NetworkExplainer
from core.measure import __main__ as script
from core.measure import explanations, machine
from core.vision.engine import Engine
from core.vision.precision import synthetic_pictures


def run(monkeypatch: pytest.MonkeyPatch, manifest: Path, *words: str) -> int:
    own = ["--weights", str(manifest), "--device", "cpu", "--precision", "fp32", "--quick"]
    monkeypatch.setattr(sys, "argv", ["bench", *own, *words])
    return script.main()


def test_all_figures_are_there_and_the_planner_reads_them(
    monkeypatch: pytest.MonkeyPatch, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the status is 0, or 1 if a check fails."""
    file = tmp_path / "figures.json"
    assert run(monkeypatch, manifest, "--largest-batch", "2", "--json", str(file)) == 0
    figures: dict[str, Any] = json.loads(file.read_text())
    assert figures["engine"]["precision"] == "fp32"
    assert [rate["batch"] for rate in figures["rates"]] == [1, 2]
    assert set(figures["explain"]) == set(METHODS)
    for cost in figures["explain"].values():
        assert 0 < cost["seconds"] <= cost["median"] <= cost["highest"]
        assert cost["artifact_bytes"]["panel.png"] > 1000
    phases = [peak["process"] for peak in figures["peak_bytes"].values()]
    assert phases == sorted(phases)
    assert all(check["passed"] for check in figures["checks"])
    assert Figures.read(file).engine.pictures_per_second == figures["pictures_per_second"]
    printed = capsys.readouterr().out
    for words in ("load before", "forward against float32", "best", "integrated_gradients", "all five"):
        assert words in printed
    assert "FAILED" not in printed

    figures["checks"][1]["passed"] = False
    monkeypatch.setattr(script, "measure", lambda *_, **__: figures)
    assert run(monkeypatch, manifest) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "absent.json"], "absent.json"),
        (["--device", "nonsense"], "nonsense"),
        (["--photo", "absent.jpg"], "absent.jpg"),
        (["--explained", __file__], "JPEG, PNG or WebP"),
        (["--json", "absent/folder.json"], "there is no folder absent"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    manifest: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(monkeypatch, manifest, *words)
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_integrated_gradients_that_claim_too_much_fail(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = NetworkExplainer.explain

    def boastful(self: NetworkExplainer, method: str, *rest: Any) -> Any:
        found = right(self, method, *rest)
        if method == "integrated_gradients":
            found.quality.update(completeness_error=0.02, converged=True)
        return found

    monkeypatch.setattr(NetworkExplainer, "explain", boastful)
    monkeypatch.setattr(explanations, "METHODS", {"integrated_gradients": None})  # it alone
    _, checks = explanations.explanations(engine, synthetic_pictures(1, 64)[0].numpy(), rounds=1)
    assert {check.name: check.passed for check in checks}["Integrated Gradients add up"] is False


@pytest.mark.parametrize(
    ("change", "quality", "passes"),
    [
        (2.0, {"completeness_error": 0.009, "converged": True}, True),
        (2.0, {"completeness_error": 0.02, "converged": True}, False),
        (2.0, {"completeness_error": 0.02, "converged": False}, True),
        (0.01, {"completeness_error": 0.09, "converged": True}, True),  # 0.0009 log-odds
        (0.01, {"completeness_error": 0.11, "converged": True}, False),
        (0.0, {"completeness_error": None, "converged": True}, True),
        (2.0, {"completeness_error": float("nan"), "converged": True}, False),
    ],
)
def test_integrated_gradients_add_up_within_a_share_or_a_thousandth(
    change: float, quality: dict[str, Any], passes: bool
) -> None:
    target = Target("dog", 1, margin=1.0 + change, probability=0.9)
    provenance = {"baseline_margin": 1.0}
    found = Explanation("integrated_gradients", target, None, quality=quality, provenance=provenance)
    assert explanations._complete(found, ExplainOptions()).passed is passes


def test_a_machine_says_what_it_is() -> None:
    found = machine.machine()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 1 << 28
    assert len(found["load"]) == 3
    assert machine.accelerator(torch.device("cpu")) == {}
