"""``pawlens train`` and ``pawlens evaluate`` are doors; tests/core/training tests what is behind them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import app


@pytest.mark.parametrize(
    ("typed", "module", "passed"),
    [
        (["train", "c.yaml"], "train", ["c.yaml", "--device", "auto"]),
        (
            ["train", "c.yaml", "--data", "d", "--set", "a=1", "--set", "b=2", "--device", "cpu", "--fresh"],
            "train",
            ["c.yaml", "--device", "cpu", "--data", "d", "--set", "a=1", "--set", "b=2", "--fresh"],
        ),
        (
            ["evaluate", "c.yaml", "--sizes", "32,64", "--weights", "w.json", "--part", "all"],
            "evaluate",
            ["c.yaml", "--device", "auto", "--weights", "w.json", "--part", "all", "--sizes", "32,64"],
        ),
    ],
)
def test_options_are_passed_on(
    typed: list[str], module: str, passed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    become: list[list[str]] = []
    monkeypatch.setattr("api.programs.os.execve", lambda _program, command, _env: become.append(command))
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    assert become == [[sys.executable, "-P", "-m", f"core.training.{module}", *passed]]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_program_behind_it_knows_these_options(command: str, tmp_path: Path) -> None:
    """In a folder where another package is called core, and with a path as the user has typed it."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('the wrong core')")
    (tmp_path / "mine.yaml").write_text("experiment: {name: mine}\nnonsense: 1\n")
    run = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "api.cli",
            command,
            "mine.yaml",
            "--data",
            "d",
            "--set",
            "precision=fp32",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "mine.yaml is not valid" in run.stderr
    assert "nonsense" in run.stderr
    assert "Traceback" not in run.stderr


def test_torch_is_not_loaded_for_it() -> None:
    code = "import sys, api.training_command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
