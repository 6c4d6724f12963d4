from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidWeights
from core.vision.manifest import ARCHITECTURES, read_manifest

from .conftest import REPOSITORY, SHIPPED


def test_the_shipped_manifest() -> None:
    manifest = read_manifest(SHIPPED)
    assert manifest.labels == ("cat", "dog")
    assert manifest.architecture == "resnet101"
    assert manifest.input.size == 160
    assert manifest.calibrated
    assert manifest.metrics["test"]["accuracy"] > 0.96
    assert (SHIPPED.parent / manifest.weights).exists()


def test_the_digest_of_answers_changes_with_what_they_depend_on_alone() -> None:
    manifest = read_manifest(SHIPPED)
    digest = manifest.answers_digest()
    for changes in ({"metrics": {}}, {"provenance": "elsewhere"}, {"created": "2000-01-01"}):
        assert manifest.model_copy(update=changes).answers_digest() == digest
    larger = manifest.input.model_copy(update={"size": 224})
    others = ({"input": larger}, {"temperature": 2.0}, {"labels": ("dog", "cat")}, {"sha256": "0" * 64})
    for changes in others:
        assert manifest.model_copy(update=changes).answers_digest() != digest


def test_an_architecture_has_as_many_layers_as_its_name_says() -> None:
    for name, depths in ARCHITECTURES.items():
        assert name == f"resnet{3 * sum(depths) + 2}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": ["cat"]}, "labels"),
        ({"labels": ["cat", "cat"]}, "distinct"),
        ({"temperature": 0}, "temperature"),
        ({"sha256": "abc"}, "sha256"),
        ({"weights": "../../etc/passwd.safetensors"}, "weights"),
        ({"architecture": "vgg16"}, "architecture"),
        ({"colour": "red"}, "colour"),
        ({"name": None}, "name"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(SHIPPED.read_text()) | changes))
    with pytest.raises(InvalidWeights, match=expected):
        read_manifest(path)


@pytest.mark.parametrize(
    "changes", [{"std": [0.2, 0.0, 0.2]}, {"size": 0}, {"resize_scale": 0.9}, {"mean": [0.5]}]
)
def test_impossible_input_formats_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads(SHIPPED.read_text())
    content["input"] |= changes
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidWeights, match=f"input.{next(iter(changes))}"):
        read_manifest(path)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidWeights, match="PAWLENS_WEIGHTS"):
        read_manifest(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InvalidWeights, match="JSON"):
        read_manifest(tmp_path / "broken.json")


def test_the_api_side_of_this_package_does_not_import_torch() -> None:
    modules = "manifest", "headers", "images", "prediction", "stand_in"
    program = "import sys\n" + "".join(f"import core.vision.{name}\n" for name in modules)
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
