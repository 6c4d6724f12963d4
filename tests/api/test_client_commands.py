"""What ``pawlens predict`` and ``jobs`` print of names, keys and long rows. ``test_cli.py`` has the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from typer.testing import CliRunner, Result

from api.cli import app
from tests.api.scripted_server import ScriptedServer, job, serve

ANSWERS = {
    "POST /v1/jobs": [JSONResponse(job(status="queued"), 202)],
    f"GET /v1/jobs/{job()['id']}": [JSONResponse(job())],
}


def invoke(server: ScriptedServer, *arguments: str, key: str | None = None) -> Result:
    environment = {"PAWLENS_SERVER": server.address, "PAWLENS_API_KEY": key}
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.fixture
def oddly_named(tmp_path: Path) -> str:
    picture = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    picture.write_bytes(b"picture")
    return str(picture)


def test_a_name_that_is_not_utf_8_is_one_like_others(oddly_named: str, tmp_path: Path) -> None:
    other = tmp_path / "b.jpg"
    other.write_bytes(b"picture")
    with serve(ANSWERS) as server:
        result = invoke(server, "predict", oddly_named, str(other))
    assert result.exit_code == 0, result.output
    assert [row.split()[:2] for row in result.stdout.splitlines()[1:]] == [
        ["caf%E9.jpg", "cat"],
        ["b.jpg", "cat"],
    ]


def test_and_as_json(oddly_named: str) -> None:
    with serve(ANSWERS) as server:
        result = invoke(server, "predict", "--json", oddly_named)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["source"].endswith("/caf%E9.jpg")


def test_a_piped_row_is_one_line_however_long() -> None:
    names = ("x" * 3000, "two\nlines.jpg")
    page = {"jobs": [job(name=name) for name in names], "next_cursor": None}
    with serve({"GET /v1/jobs": [JSONResponse(page)]}) as server:
        result = invoke(server, "jobs")
    _, first, second = result.stdout.splitlines()
    assert names[0] in first
    assert "two lines.jpg" in second


@pytest.mark.parametrize("by_option", [False, True])
def test_a_key_that_is_none(by_option: bool) -> None:
    with serve({}) as server:
        if by_option:
            result = invoke(server, "jobs", "--api-key", "ключ")
        else:
            result = invoke(server, "jobs", key="ключ")
        assert server.asked == []
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("An API key is printable ASCII and looks like pk_...; what was given is none.\n")
