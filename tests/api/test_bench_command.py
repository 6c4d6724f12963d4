"""``pawlens bench``: ``engine`` is a door to core.measure, ``plan`` shows what core.capacity computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.bench_command import EXAMPLE
from api.cli import app
from core.capacity import SHIPPED
from core.settings import ROOT


def ran(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words])


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the process would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(
        "api.programs.os.execve", lambda _program, command, _environment: commands.append(command)
    )
    return commands


def test_engine_takes_what_is_not_given_from_the_settings(
    become: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWLENS_PRECISION", "fp32")
    monkeypatch.setenv("PAWLENS_DEVICE", "cpu")
    monkeypatch.setenv("PAWLENS_THREADS", "3")
    assert ran("engine", "--quick").exit_code == 0
    weights = str(ROOT / "weights" / "resnet101-cat-dog.json")
    (command,) = become
    assert command[:4] == [sys.executable, "-P", "-m", "core.measure"]
    assert command[-1] == "--quick"
    assert dict(zip(command[4:-1:2], command[5:-1:2], strict=True)) == {
        "--weights": weights,
        "--device": "cpu",
        "--precision": "fp32",
        "--threads": "3",
        "--explained": str(EXAMPLE),
    }


def test_engine_passes_on_what_is_given(become: list[list[str]], tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"")
    options = ["--device", "cuda", "--picture", str(photo), "--largest-batch", "8", "--json", "f.json"]
    assert ran("engine", *options).exit_code == 0
    (command,) = become
    passed = dict(zip(command[4::2], command[5::2], strict=True))
    assert passed["--device"] == "cuda"
    assert passed["--photo"] == passed["--explained"] == str(photo)
    assert passed["--largest-batch"] == "8"
    assert passed["--json"] == "f.json"


def test_torch_is_not_loaded_for_it() -> None:
    code = "import sys, api.bench_command, api.plan_table, core.capacity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- plan


def test_a_plan_says_whose_figures_it_uses() -> None:
    result = ran("plan", "--predictions-per-day", "1000000", "--explanations-per-day", "2000")
    assert result.exit_code == 0, result.output
    for words in (
        "machines for predict",
        "machines for explain",
        "artifacts",
        "Redis memory",
        "POSTs a second",
    ):
        assert words in result.output
    assert "not of your machine" in result.output
    assert "cost" not in result.output


def test_a_gpu_s_figures_and_a_price(tmp_path: Path) -> None:
    engine = json.loads(SHIPPED.read_text())["engine"]
    engine["engine"]["device"], engine["machine"]["accelerator"] = "cuda:0", {"name": "NVIDIA G7"}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(engine))
    result = ran("plan", "--predictions-per-day", "5e7", "--figures", str(file), "--price-per-hour", "2.5")
    assert result.exit_code == 0, result.output
    for words in ("GPUs for predict", "cores beside the GPUs", "cost a month", "GPU NVIDIA G7"):
        assert words in result.output
    assert "explain" not in result.output.replace("explanation", "")
    assert "not of your machine" not in result.output


def test_sqlite_is_left_out_where_one_machine_does_not_suffice() -> None:
    few = ran("plan", "--explanations-per-day", "10").output
    many = ran("plan", "--explanations-per-day", "1000000").output
    assert "disk in all, sqlite" in few
    assert "disk in all, postgresql" in few
    assert "sqlite" not in many


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say how many"),
        (["--predictions-per-day", "5", "--retention-days", "0"], "for ever"),
        (["--explanations-per-day", "5", "--methods", "lime"], "no method 'lime'"),
        (["--predictions-per-day", "5", "--figures", "absent.json"], "absent.json: No such file"),
        (["--predictions-per-day", "5", "--figures", str(ROOT / "README.md")], "README.md"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_sentence(words: list[str], said: str) -> None:
    result = ran("plan", *words)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_the_manual_names_options_that_there_are() -> None:
    manual = (ROOT / "docs" / "capacity.md").read_text()
    known = {
        option
        for command in ("engine", "plan")
        for option in re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["bench", command, "--help"]).output)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", manual))
    assert len(named) >= 5
    assert named <= known
