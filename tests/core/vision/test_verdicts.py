from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from core.vision import verdicts
from core.vision.manifest import Manifest, read_manifest
from core.vision.precision import MAX_MARGIN_ERROR
from core.vision.verdicts import Verdicts

CPU = torch.device("cpu")


class Measured:
    """A check that counts how often it was asked."""

    def __init__(self, *, passed: bool = True) -> None:
        self.asked = 0
        self.answer = {"passed": passed, "max_margin_error": 0.125, "pictures": 8}

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return self.answer


@pytest.fixture
def manifest(small_manifest: Path) -> Manifest:
    return read_manifest(small_manifest)


@pytest.fixture(autouse=True)
def _machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a boot id, wherever the test runs."""
    boot = tmp_path_factory.mktemp("proc") / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(verdicts, "_BOOT_ID", boot)


def test_a_check_that_passed_is_not_made_again(manifest: Manifest, tmp_path: Path) -> None:
    check = Measured()
    first = Verdicts(tmp_path, manifest, CPU).of("bf16", check)
    assert first == check.answer | {"remembered": False}
    second = Verdicts(tmp_path, manifest, CPU).of("bf16", check)
    assert second == check.answer | {"remembered": True}
    assert check.asked == 1
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_check_that_failed_is_made_again(manifest: Manifest, tmp_path: Path) -> None:
    check = Measured(passed=False)
    for _ in range(2):
        assert Verdicts(tmp_path, manifest, CPU).of("bf16", check)["passed"] is False
    assert check.asked == 2
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_remembered(manifest: Manifest) -> None:
    check = Measured()
    for _ in range(2):
        assert Verdicts(None, manifest, CPU).of("bf16", check)["remembered"] is False
    assert check.asked == 2


def _other_boot(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    verdicts._BOOT_ID.write_text("second\n")
    return manifest


def _no_boot_id(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    verdicts._BOOT_ID.unlink()
    return manifest


def _other_weights(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    # The file's name has the digest's beginning alone: the whole of it must count.
    return manifest.model_copy(update={"sha256": manifest.sha256[:16] + "0" * 48})


def _other_normalisation(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    return manifest.model_copy(update={"input": manifest.input.model_copy(update={"std": (1.0, 1.0, 1.0)})})


def _other_torch(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(torch, "__version__", "9.0")
    return manifest


def _other_processor(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": "somewhere else"})
    return manifest


def _other_code(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(verdicts, "_digest_of_code", lambda: "changed")
    return manifest


def _other_algorithms(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    return manifest


@pytest.mark.parametrize(
    "change",
    [
        _other_boot,
        _no_boot_id,
        _other_weights,
        _other_normalisation,
        _other_torch,
        _other_processor,
        _other_code,
        _other_algorithms,
    ],
)
def test_under_other_circumstances_it_is_made_again(
    change: Callable[[Manifest, pytest.MonkeyPatch], Manifest],
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = Measured()
    Verdicts(tmp_path, manifest, CPU).of("bf16", check)
    changed = change(manifest, monkeypatch)
    assert Verdicts(tmp_path, changed, CPU).of("bf16", check)["remembered"] is False
    assert check.asked == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"circumstances": null}',
        lambda text: text.replace('"passed": true', '"passed": false'),
        lambda text: text.replace('"passed": true', '"passed": 1'),
        lambda text: text.replace("0.125", str(MAX_MARGIN_ERROR * 1.01)),
        lambda text: text.replace("0.125", "NaN"),
        lambda text: text.replace("0.125", '"0.1"'),
    ],
)
def test_a_damaged_file_is_as_good_as_none(
    damage: Callable[[str], str], manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check = Measured()
    with caplog.at_level(logging.ERROR):
        Verdicts(tmp_path, manifest, CPU).of("bf16", check)
        (file,) = tmp_path.iterdir()
        whole = file.read_text()
        file.write_text(damage(whole))
        assert Verdicts(tmp_path, manifest, CPU).of("bf16", check)["remembered"] is False
    assert file.read_text() == whole


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = Measured()
    for _ in range(2):
        assert Verdicts(tmp_path / "file" / "below", manifest, CPU).of("bf16", check)["passed"] is True
    assert check.asked == 2


def test_workers_that_start_together_leave_one_whole_file(manifest: Manifest, tmp_path: Path) -> None:
    def start(_: int) -> dict[str, Any]:
        return Verdicts(tmp_path, manifest, CPU).of("bf16", Measured())

    with ThreadPoolExecutor(8) as pool:
        assert all(found["passed"] for found in pool.map(start, range(40)))
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["check"] == Measured().answer
