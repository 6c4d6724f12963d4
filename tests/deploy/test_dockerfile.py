"""The Dockerfile: what it copies is there and is sent, what it starts exists, and it is not root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.deploy.compose_file import COMPOSE_FILE, ROOT, SECRETS, load
from tests.deploy.image import DOCKERFILE, context, lay_out, stages


def test_every_source_exists_and_is_sent_to_the_build() -> None:
    sent = context()
    for stage in stages():
        for source in (source for copy in stage.copies for source in copy.sources):
            assert (ROOT / source).exists()
            assert any(file == source or file.startswith(source.rstrip("/") + "/") for file in sent), source


def test_nothing_is_sent_that_no_image_needs() -> None:
    copied = tuple(source for stage in stages() for copy in stage.copies for source in copy.sources)
    for file in context():
        assert file.startswith(copied), file
        assert not file.endswith((".pyc", ".env"))
        assert "__pycache__" not in file


def test_every_package_of_the_project_is_in_the_image(tmp_path: Path) -> None:
    app = lay_out(tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert (app / pattern.rstrip("*") / "__init__.py").is_file()
    assert list((app / "migrations" / "versions").glob("0001_*.py"))
    manifest = json.loads((app / "weights" / "resnet101-cat-dog.json").read_text())
    weights = app / "weights" / manifest["weights"]
    assert weights.stat().st_size == (ROOT / "weights" / manifest["weights"]).stat().st_size


def test_what_is_installed_without_torch_is_all_else_that_the_project_asks_for(tmp_path: Path) -> None:
    """The RUN that writes requirements.txt, run as the build runs it."""
    (stage,) = (stage for stage in stages() if stage.name == "packages-none")
    (run,) = (value for value in stage.values("RUN") if "> requirements.txt" in value)
    script = run.partition("&&")[0].replace("python ", f"{sys.executable} ", 1)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, check=True)
    written = (tmp_path / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    left_out = {*project["project"]["dependencies"], *project["build-system"]["requires"]} - {*written}
    assert {re.split(r"\W", name)[0] for name in left_out} == {"torch", "torchvision"}


def test_the_final_stage_is_not_root_and_says_what_it_is() -> None:
    final = stages()[-1]
    assert final.values("USER") == ["10001:10001"]
    assert final.instructions[-1] == ("CMD", '["pawlens", "api"]')
    labels = " ".join(final.values("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in final.values("ARG")


def test_the_base_image_is_pinned_to_the_interpreter_that_the_tests_run_on() -> None:
    found = re.search(r"^ARG PYTHON=(3\.\d+)\.\d+-slim-\w+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert found[1] == requires.removeprefix(">=")


def test_every_value_of_torch_that_compose_asks_for_is_a_stage() -> None:
    names = {stage.name for stage in stages()}
    assert "FROM packages-${TORCH} AS packages" in DOCKERFILE.read_text()
    wanted = {
        service["build"]["args"]["TORCH"]
        for service in load(SECRETS)["services"].values()
        if "build" in service
    }
    assert wanted == {"none", "cpu", "cuda"}, COMPOSE_FILE
    assert {f"packages-{name}" for name in wanted} <= names
