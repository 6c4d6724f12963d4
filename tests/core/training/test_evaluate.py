"""From a finished run to weights that the service loads, with a report of how good they are."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

from core.training.config import Configuration, TrainingError
from core.training.data import open_pictures
from core.training.evaluate import evaluate, main
from core.training.export import export_best, exported
from core.training.report import as_json
from core.training.train import train
from core.vision import checkpoint
from core.vision.engine import Engine
from core.vision.manifest import read_manifest

from .conftest import contents


@pytest.fixture(scope="module")
def evaluated(
    finished: Configuration, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Configuration, dict[str, Any]]:
    """A copy of the finished run, evaluated at two sizes."""
    output = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(finished.folder, output / "small")
    experiment = finished.experiment.model_copy(update={"output": output})
    config = finished.model_copy(update={"experiment": experiment})
    return config, evaluate(config, sizes=(32, 48), scales=(1.0,), device="cpu")


def answers(engine: Engine, config: Configuration, part: Any) -> tuple[list[dict[str, float]], list[str]]:
    """What the service's engine answers to the pictures' bytes, and what is true."""
    pictures = open_pictures(config.data, config.experiment.seed)
    found = []
    for index in pictures.part(part):
        stream = io.BytesIO()
        pictures.source.picture(int(index)).save(stream, "PNG")
        found += engine.predict([engine.prepare(stream.getvalue())])
    true = [pictures.source.labels[label] for label in pictures.source.targets[pictures.part(part)]]
    return [prediction.scores for prediction in found], true


def test_the_service_answers_as_the_report_says(evaluated: tuple[Configuration, dict[str, Any]]) -> None:
    config, report = evaluated
    engine = Engine(config.folder / "small.json", device="cpu", precision="fp32")
    scores, true = answers(engine, config, "test")
    predicted = [max(score, key=lambda label: score[label]) for score in scores]
    assert report["metrics"]["pictures"] == len(true)
    assert report["metrics"]["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    area = roc_auc_score([label == "vertical" for label in true], [score["vertical"] for score in scores])
    assert report["metrics"]["roc_auc"] == pytest.approx(area, abs=0.05)  # the report's may be in bfloat16


def test_the_manifest_has_what_was_chosen_and_measured(
    evaluated: tuple[Configuration, dict[str, Any]], finished: Configuration
) -> None:
    config, report = evaluated
    before, after = (read_manifest(c.folder / "small.json") for c in (finished, config))
    assert (before.calibrated, before.temperature, before.input.size) == (False, 1.0, 32)
    best = min(report["choices"], key=lambda choice: choice["loss"])
    assert after.calibrated
    assert after.temperature == best["temperature"] == report["temperature"]
    assert after.input.size == best["size"]
    assert after.sha256 == before.sha256  # the weights are the same
    assert after.metrics["test"]["accuracy"] == report["metrics"]["accuracy"]
    assert after.metrics["validation"]["accuracy"] == best["accuracy"]  # at the size that was chosen
    assert after.labels == ("horizontal", "vertical")
    assert "Trained from scratch on 34 pictures" in after.provenance


def test_the_exported_weights_are_the_averaged_ones_in_half(finished: Configuration) -> None:
    network, _ = checkpoint.load_checkpoint(finished.folder / "small.json")
    best = contents(finished.folder / "best.pt")["network"]
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, best[name].half().float()), name


def test_the_report_needs_nothing_from_elsewhere(evaluated: tuple[Configuration, dict[str, Any]]) -> None:
    config, report = evaluated
    page = (config.folder / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|<script", page)
    titles = re.findall(r'alt="([^"]+)"', page)
    expected = [
        "ROC",
        "Precision and recall",
        "Confusion",
        "Reliability",
        "Training",
        "Kernels",
        "Feature maps",
    ]
    wrong = report["metrics"]["accuracy"] < 1
    assert [title for title in titles if title != "Worst mistakes"] == expected
    assert ("Worst mistakes" in titles) is wrong
    assert json.loads((config.folder / "report.json").read_text()) == json.loads(json.dumps(report))


def test_what_is_not_known_is_null_in_json() -> None:
    written = as_json({"roc_auc": float("nan"), "interval": (0.5, float("inf")), "choices": [{"loss": 1.0}]})
    assert json.loads(written, parse_constant=pytest.fail) == {
        "roc_auc": None,
        "interval": [0.5, None],
        "choices": [{"loss": 1.0}],
    }


def test_all_numbers_of_the_original_report_are_there(
    evaluated: tuple[Configuration, dict[str, Any]],
) -> None:
    _, report = evaluated
    found = report["metrics"]
    assert found["classes"].keys() == {"horizontal", "vertical"}
    for row in (*found["classes"].values(), found["macro"], found["weighted"]):
        assert {"precision", "recall", "f1"} <= row.keys()
    assert sum(row["support"] for row in found["classes"].values()) == found["pictures"]
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] <= high
    assert np.array(found["confusion"]).sum() == found["pictures"]


def test_calibration_does_not_harm_on_the_part_it_was_fitted_to(
    evaluated: tuple[Configuration, dict[str, Any]],
) -> None:
    config, _ = evaluated
    manifest = config.folder / "small.json"
    report = evaluate(config, weights=manifest, part="validation", out=config.folder / "v", device="cpu")
    assert report["metrics"]["calibrated_loss"] <= report["metrics"]["loss"] + 1e-9


def test_given_weights_are_left_as_they_are(
    evaluated: tuple[Configuration, dict[str, Any]], tmp_path: Path, finished: Configuration
) -> None:
    """Converted ones of the original's layout, with the labels in another order."""
    config, _ = evaluated
    network, _ = checkpoint.load_checkpoint(finished.folder / "small.json")
    original = {}
    for name, value in network.state_dict().items():
        theirs = re.sub(r"^layer(\d)", lambda stage: f"layer{int(stage[1]) + 1}", name)
        original[theirs.replace("downsample", "shortcut")] = value
    torch.save(original, tmp_path / "original.pth")
    manifest = tmp_path / "converted.json"
    checkpoint.main(
        [
            *("convert", str(tmp_path / "original.pth"), "--layout", "original", "--out", str(manifest)),
            *("--labels", "vertical,horizontal", "--architecture", "resnet26", "--size", "32"),
        ]
    )
    before = manifest.read_bytes()
    report = evaluate(config, weights=manifest, part="all", out=tmp_path / "report", device="cpu")
    assert manifest.read_bytes() == before
    assert report["metrics"]["pictures"] == 52
    assert report["temperature"] == 1.0
    assert "Training" not in re.findall(r'alt="([^"]+)"', (tmp_path / "report" / "report.html").read_text())
    scores, true = answers(Engine(manifest, device="cpu", precision="fp32"), config, "validation")
    predicted = [max(score, key=lambda label: score[label]) for score in scores]
    measured = evaluate(config, weights=manifest, part="validation", out=tmp_path / "report", device="cpu")
    assert measured["metrics"]["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=0.11)


def test_weights_of_other_classes_are_refused(finished: Configuration) -> None:
    shipped = Path(__file__).parents[3] / "weights" / "resnet101-cat-dog.json"
    with pytest.raises(TrainingError, match=r"horizontal, vertical.*cat, dog"):
        evaluate(finished, weights=shipped, device="cpu")


def test_a_run_is_not_tested_on_what_it_was_trained_on(
    evaluated: tuple[Configuration, dict[str, Any]],
) -> None:
    config, _ = evaluated
    data = config.data.model_copy(update={"validation": 0.3})
    with pytest.raises(TrainingError, match="another split"):
        evaluate(config.model_copy(update={"data": data}), device="cpu")


def test_nor_on_what_it_was_chosen_by(evaluated: tuple[Configuration, dict[str, Any]]) -> None:
    """Validation and test changed places: what was trained on is the same."""
    config, _ = evaluated
    data = config.data.model_copy(update={"validation": config.data.test, "test": config.data.validation})
    trained, other = (open_pictures(data, config.experiment.seed) for data in (config.data, data))
    assert trained.part("train").tolist() == other.part("train").tolist()
    with pytest.raises(TrainingError, match="another split"):
        evaluate(config.model_copy(update={"data": data}), device="cpu")


def test_a_run_of_before_its_other_parts_were_noted(
    evaluated: tuple[Configuration, dict[str, Any]], tmp_path: Path
) -> None:
    config, report = evaluated
    shutil.copytree(config.folder, tmp_path / "small")
    experiment = config.experiment.model_copy(update={"output": tmp_path})
    old = config.model_copy(update={"experiment": experiment})
    noted = json.loads((old.folder / "data.json").read_text())
    noted["split"] = noted["split"]["train"]
    (old.folder / "data.json").write_text(json.dumps(noted))
    assert evaluate(old, device="cpu")["metrics"] == report["metrics"]
    noted["split"] = "another"
    (old.folder / "data.json").write_text(json.dumps(noted))
    with pytest.raises(TrainingError, match="another split"):
        evaluate(old, device="cpu")


def test_nor_on_everything(finished: Configuration) -> None:
    with pytest.raises(TrainingError, match="was trained on most pictures"):
        evaluate(finished, part="all", device="cpu")


def test_a_finished_run_keeps_its_calibrated_manifest(
    evaluated: tuple[Configuration, dict[str, Any]],
) -> None:
    config, _ = evaluated
    before = (config.folder / "small.json").read_bytes()
    assert train(config, device="cpu") == config.folder / "small.json"
    assert (config.folder / "small.json").read_bytes() == before
    copy = config.folder.parent / "copy" / "small"
    shutil.copytree(config.folder, copy)
    (copy / "best.pt").touch()  # as if the training had gone on and found better
    assert not read_manifest(exported(copy)).calibrated


def test_a_finished_run_takes_another_version_and_licence(
    evaluated: tuple[Configuration, dict[str, Any]], tmp_path: Path
) -> None:
    config, _ = evaluated
    shutil.copytree(config.folder, tmp_path / "small")
    told = {"output": tmp_path, "version": "2.0", "licence": "MIT"}
    other = config.model_copy(update={"experiment": config.experiment.model_copy(update=told)})
    before = read_manifest(other.folder / "small.json")
    after = read_manifest(train(other, device="cpu"))
    assert (after.version, after.licence) == ("2.0", "MIT")
    assert after == before.model_copy(update={"version": "2.0", "licence": "MIT"})
    checkpoint.load_checkpoint(other.folder / "small.json")


def test_before_any_training(finished: Configuration, tmp_path: Path) -> None:
    experiment = finished.experiment.model_copy(update={"output": tmp_path})
    with pytest.raises(TrainingError, match=r"best\.pt"):
        evaluate(finished.model_copy(update={"experiment": experiment}), device="cpu")


def test_in_the_middle_of_a_run_the_best_so_far_is_exported(finished: Configuration, tmp_path: Path) -> None:
    shutil.copy(finished.folder / "best.pt", tmp_path)
    path = export_best(tmp_path)
    assert read_manifest(path).sha256 == read_manifest(finished.folder / "small.json").sha256


def test_the_command(
    evaluated: tuple[Configuration, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, report = evaluated
    file = tmp_path / "small.yaml"
    file.write_text(config.to_yaml())
    main([str(file), "--device", "cpu", "--sizes", f"{report['input']['size']}", "--out", str(tmp_path)])
    assert f"accuracy {report['metrics']['accuracy']:.4f}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([str(file), "--sizes", "large"])
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "none.yaml")])
    assert left.value.code == 1
    assert "cannot be read" in capsys.readouterr().err
