"""What ``pawlens explain`` takes and prints; ``tests/end_to_end/test_up.py`` runs all of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from typer.testing import CliRunner, Result

from api.cli import app
from core.explain.methods import METHODS
from tests.api.scripted_server import ScriptedServer, job, serve


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    picture = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    picture.write_bytes(b"picture")
    return picture


def explain(server: ScriptedServer, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments, "--server", server.address])


@pytest.mark.parametrize("methods", ["", ",", " , "])
def test_no_method_at_all_is_refused(picture: Path, tmp_path: Path, methods: str) -> None:
    out = tmp_path / "out"
    with serve({}) as server:
        result = explain(server, str(picture), "--out", str(out), "--methods", methods)
        assert server.asked == []
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    for name in (*METHODS, "all"):
        assert name in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "says"), [("{", "--options is not JSON"), ("[1]", "--options must be a JSON object")]
)
def test_options_that_are_no_object_are_refused(
    picture: Path, tmp_path: Path, options: str, says: str
) -> None:
    out = tmp_path / "out"
    with serve({}) as server:
        result = explain(server, str(picture), "--out", str(out), "--options", options)
        assert "POST /v1/jobs" not in server.asked
    assert result.exit_code == 2
    assert result.stderr.startswith(says)
    assert not out.exists()


@pytest.mark.parametrize("name", ["file/out", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(picture: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with serve({}) as server:
        result = explain(server, str(picture), "--out", str(tmp_path / name))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) in result.stderr


def test_spaces_in_the_list_and_names_that_are_not_utf_8(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xe9t\xe9")
    with serve({"POST /v1/jobs": [JSONResponse(job(), 202)]}) as server:
        result = explain(server, str(picture), "--out", str(out), "--methods", "grad_cam, occlusion,")
        asked = server.last("POST /v1/jobs")
    assert result.exit_code == 0, result.output
    assert asked.form["methods"] == "grad_cam,occlusion"
    assert asked.filename == "caf%E9.jpg"
    assert result.stdout.endswith("/%E9t%E9\n")
    assert (out / "job.json").is_file()
