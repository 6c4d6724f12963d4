"""Measure weights on data, as the service would use them; ``pawlens evaluate CONFIG`` runs this.

    python -m core.training.evaluate configs/tiny.yaml
    python -m core.training.evaluate configs/oxford-pets.yaml --weights weights/resnet101-cat-dog.json

Without ``--weights`` it measures those of the configuration's own run: chooses input size and crop on the
validation part (``--sizes``, ``--scales``), fits the temperature there, measures on the test part, and writes
all of it into the manifest. With ``--weights`` any manifest is measured, converted ones included, and left as
it is. ``report.html`` and ``report.json`` are written in the run's folder (for given weights, in a folder of
their name in there), or to ``--out``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import PawlensError
from core.training import metrics
from core.training.calibration import fit_temperature
from core.training.config import Configuration, TrainingError
from core.training.data import Pictures, open_pictures
from core.training.export import exported
from core.training.journal import JOURNAL
from core.training.progress import Display
from core.training.report import Evaluation, write_report
from core.training.sources import Indices
from core.training.train import configured, parser
from core.vision.engine import Engine
from core.vision.manifest import InputFormat, Manifest, read_manifest, write_manifest
from core.vision.preprocessing import Preprocessing

Measured = Literal["validation", "test", "all"]


@dataclass(frozen=True)
class Choice:
    """One input size and resize scale, on the validation part. ``loss`` is that of the fitted temperature."""

    size: int
    resize_scale: float
    accuracy: float
    roc_auc: float
    loss: float
    temperature: float


def evaluate(
    config: Configuration,
    *,
    weights: Path | None = None,
    part: Measured | None = None,
    sizes: tuple[int, ...] = (),
    scales: tuple[float, ...] = (),
    out: Path | None = None,
    device: str = "auto",
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure, write the report, and return what stands in ``report.json``.

    part: by default test, or validation where the data have no test part. sizes, scales: candidates for the
    input; by default the manifest's own.

    Raises TrainingError if data and weights do not belong together, and whatever loading either raises.
    """
    with display or Display() as shown:
        manifest_path = weights or exported(config.folder)
        pictures = open_pictures(config.data, config.experiment.seed, shown.watch, shown.line)
        if weights is None:
            if part == "all":
                raise TrainingError(
                    "The run was trained on most pictures; measure its validation or test part."
                )
            _check_split(config.folder, pictures)
        engine = Engine(manifest_path, device)
        targets = _targets(pictures, engine.manifest)
        form = engine.manifest.input
        validation = pictures.part("validation")
        candidates = product(sizes or (form.size,), scales or (form.resize_scale,))
        choices = [
            _try(engine, pictures, validation, targets, _resized(form, size, scale), shown)
            for size, scale in candidates
        ]
        # The loss is a proper score and, unlike accuracy, every picture has a say in it.
        chosen = min(choices, key=lambda choice: choice.loss)
        form = _resized(form, chosen.size, chosen.resize_scale)
        if part is None:
            part = "test" if len(pictures.parts["test"]) else "validation"
        measured = np.arange(len(pictures.source)) if part == "all" else pictures.part(part)
        if part == "all":
            measured = measured[pictures.index.whole]
        temperature = engine.manifest.temperature if weights else chosen.temperature
        logits = _logits(engine, pictures, measured, form, shown)
        found = metrics.full(logits, targets[measured], engine.manifest.labels, temperature)
        report = {
            "weights": engine.manifest.name,
            "sha256": engine.manifest.sha256,
            "data": {"source": config.data.source, "digest": pictures.digest, "part": part},
            "input": {"size": form.size, "resize_scale": form.resize_scale},
            "choices": [vars(choice) for choice in choices],
            "temperature": temperature,
            "fitted_temperature": chosen.temperature,
            "precision": engine.report["precision"],
            "metrics": found,
        }
        manifest = engine.manifest.model_copy(update={"input": form})
        if weights is None:
            manifest = _updated(manifest, manifest_path, chosen, part, found)
        folder = out or (config.folder if weights is None else config.folder / manifest.name)
        write_report(
            folder,
            report,
            Evaluation(manifest, pictures, measured, logits, targets[measured], temperature),
            engine=Engine(manifest_path, device) if weights is None else engine,
            history=config.folder / JOURNAL if weights is None else None,
        )
        return report


def _check_split(folder: Path, pictures: Pictures) -> None:
    """Weights must not be tested on what they were trained on."""
    try:
        trained_on = json.loads((folder / "data.json").read_text())
    except OSError as error:
        raise TrainingError(f"{folder} holds no run: {error.strerror}. Train first.") from error
    then, now = trained_on["split"], pictures.summary["split"]
    if isinstance(then, str):  # a run of an earlier version, which noted its train part alone
        now = now["train"]
    if (trained_on["digest"], then) != (pictures.digest, now):
        raise TrainingError(
            f"The run in {folder} was trained on other data, or on another split of them. To measure its "
            "weights on these data, name them: --weights."
        )


def _targets(pictures: Pictures, manifest: Manifest) -> Indices:
    """Classes of all pictures in the order of the manifest's labels, which may be another than the data's."""
    labels = pictures.source.labels
    if sorted(labels) != sorted(manifest.labels):
        raise TrainingError(
            f"The data have the classes {', '.join(labels)}; the weights know {', '.join(manifest.labels)}."
        )
    return np.array([manifest.labels.index(label) for label in labels], np.int64)[pictures.source.targets]


def _resized(form: InputFormat, size: int, scale: float) -> InputFormat:
    return InputFormat.model_validate(form.model_dump() | {"size": size, "resize_scale": scale})


def _try(
    engine: Engine,
    pictures: Pictures,
    validation: Indices,
    targets: Indices,
    form: InputFormat,
    display: Display,
) -> Choice:
    logits = _logits(engine, pictures, validation, form, display)
    temperature = fit_temperature(logits, targets[validation])
    brief = metrics.brief(logits, targets[validation])
    loss = metrics.log_loss(logits, targets[validation], temperature)
    display.line(
        f"{form.size} px x {form.resize_scale:g}: accuracy {brief['accuracy']:.4f}, "
        f"ROC-AUC {brief['roc_auc']:.4f}, loss {loss:.4f} at temperature {temperature:.3f}"
    )
    return Choice(form.size, form.resize_scale, brief["accuracy"], brief["roc_auc"], loss, temperature)


def _logits(
    engine: Engine, pictures: Pictures, chosen: Indices, form: InputFormat, display: Display
) -> NDArray[np.float32]:
    """[len(chosen), classes], through the service's own engine and preprocessing."""
    crop = Preprocessing(form).crop
    done: list[torch.Tensor] = []
    waiting: list[NDArray[np.uint8]] = []
    decoded = pictures.source.pictures(chosen)
    for number, (_, image) in enumerate(display.watch(decoded, f"measuring, {form.size} px", len(chosen)), 1):
        assert image is not None  # the index knows the damaged ones, and they were not chosen
        waiting.append(crop(image))
        if len(waiting) == engine.max_batch or number == len(chosen):
            done.append(engine.logits(np.stack(waiting)).float().cpu())
            waiting = []
    logits: NDArray[np.float32] = torch.cat(done).numpy()
    return logits


def _updated(
    manifest: Manifest, path: Path, chosen: Choice, part: Measured, found: dict[str, Any]
) -> Manifest:
    """The manifest with size, temperature and metrics, also on disk. The weights stay as they are."""
    kept = ("pictures", "accuracy", "accuracy_interval", "roc_auc", "roc_auc_interval", "calibrated_loss")
    own = {name: found[name] for name in (*kept, "calibrated_ece")}
    at_this_size = {
        "accuracy": chosen.accuracy,
        "roc_auc": chosen.roc_auc,
        "calibrated_loss": chosen.loss,
    }
    content = manifest.model_dump() | {
        "temperature": chosen.temperature,
        "calibrated": True,
        "metrics": {"validation": at_this_size, part: own},
    }
    write_manifest(Manifest.model_validate(content), path)
    return read_manifest(path)


def main(arguments: list[str] | None = None) -> None:
    known = parser("pawlens evaluate", __doc__)
    known.add_argument("--weights", type=Path, metavar="MANIFEST", help="measure these, and leave them")
    known.add_argument("--part", choices=("validation", "test", "all"))
    known.add_argument("--sizes", default="", metavar="PIXELS,...", help="input sizes to choose from")
    known.add_argument("--scales", default="", metavar="SCALE,...", help="resize scales to choose from")
    known.add_argument("--out", type=Path, metavar="FOLDER", help="for report.html and report.json")
    options = known.parse_args(arguments)
    try:
        sizes = tuple(int(size) for size in options.sizes.split(",") if size)
        scales = tuple(float(scale) for scale in options.scales.split(",") if scale)
    except ValueError as error:
        known.error(f"--sizes and --scales are numbers with commas between them: {error}")
    try:
        report = evaluate(
            configured(options),
            weights=options.weights,
            part=options.part,
            sizes=sizes,
            scales=scales,
            out=options.out,
            device=options.device,
        )
    except PawlensError as error:
        print(error.detail, file=sys.stderr)
        sys.exit(1)
    found = report["metrics"]
    low, high = found["accuracy_interval"]
    print(
        f"{found['pictures']} pictures ({report['data']['part']}): accuracy {found['accuracy']:.4f} "
        f"[{low:.4f}, {high:.4f}], ROC-AUC {found['roc_auc']:.4f}, loss {found['calibrated_loss']:.4f}, "
        f"ECE {found['calibrated_ece']:.4f} at temperature {report['temperature']:.3f}"
    )


if __name__ == "__main__":
    main()
