"""From a run to weights and a manifest that the service can load: float16 safetensors, pinned by SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from core.training.config import Configuration, Experiment
from core.training.state import BEST, read_whole, write_whole
from core.vision.checkpoint import build_network, save_checkpoint
from core.vision.manifest import (
    ARCHITECTURES,
    InputFormat,
    Manifest,
    ModelCard,
    StrideOn,
    read_manifest,
    write_manifest,
)
from core.vision.resnet import ResNet


@dataclass(frozen=True)
class Best:
    """The weights of a stage that did best on validation, and what is needed to use them.

    validation: their metrics. summary: of the data, as in ``data.json``.
    """

    config: Configuration
    labels: tuple[str, ...]
    form: InputFormat
    validation: dict[str, float]
    summary: dict[str, Any]
    network: ResNet


def write_best(best: Best) -> None:
    """Into the run's folder, whole or not at all."""
    content = {
        "config": best.config.model_dump(mode="json"),
        "labels": list(best.labels),
        "form": best.form.model_dump(mode="json"),
        "validation": best.validation,
        "summary": best.summary,
        "depths": list(best.network.depths),
        "stride_on": best.network.stride_on,
        "network": best.network.state_dict(),
    }
    write_whole(best.config.folder / BEST, content)


def exported(folder: Path) -> Path:
    """The manifest in a run's folder; written now if there is none, or if a better network came after it.

    Raises as :func:`export_best` does.
    """
    manifest, best = folder / f"{folder.name}.json", folder / BEST
    if manifest.exists() and (not best.exists() or manifest.stat().st_mtime_ns >= best.stat().st_mtime_ns):
        return manifest
    return export_best(folder)


def described(path: Path, experiment: Experiment) -> Path:
    """The same manifest, with name, version and licence as ``experiment`` says, which may have changed since.

    Weights, temperature and metrics stay: nothing of them depends on it.
    """
    manifest = read_manifest(path)
    told = {"name": experiment.name, "version": experiment.version, "licence": experiment.licence}
    changed = Manifest.model_validate(manifest.model_dump() | told)
    if changed != manifest:
        write_manifest(changed, path)
    return path


def export_best(folder: Path) -> Path:
    """Write ``NAME.json`` and ``NAME.safetensors`` beside the run's ``best.pt``; returns the first's path.

    Not calibrated, and at the size of the stage, until ``evaluate`` has chosen better.

    Raises TrainingError if there is no best, InvalidWeights if no architecture has its depths, as in the
    middle of a run.
    """
    best = read_whole(folder / BEST, torch.device("cpu"))
    config = Configuration.model_validate(best["config"])
    depths = tuple(best["depths"])
    card = ModelCard(
        name=config.experiment.name,
        version=config.experiment.version,
        architecture=next((name for name, known in ARCHITECTURES.items() if known == depths), "resnet101"),
        stride_on=best.get("stride_on") or _begun_with(config),
        labels=tuple(best["labels"]),
        input=InputFormat.model_validate(best["form"]),
        metrics={"validation": best["validation"]},
        created=datetime.now(UTC).date().isoformat(),
        licence=config.experiment.licence,
        provenance=_provenance(config, best["summary"]),
    )
    path = folder / f"{config.experiment.name}.json"
    save_checkpoint(build_network(best["network"], card), path, card, dtype=torch.float16)
    return path


def _begun_with(config: Configuration) -> StrideOn:
    """Where the network strides, for a ``best.pt`` from before it was kept there: growing changes nothing."""
    weights = config.model.weights
    return read_manifest(weights).stride_on if weights else config.model.stride_on


def _provenance(config: Configuration, summary: dict[str, Any]) -> str:
    count = sum(summary["parts"]["train"].values())
    stages = ", ".join(
        f"{stage.epochs} x {'-'.join(map(str, stage.depths))} at {stage.size} px" for stage in config.stages
    )
    begun = f"from {config.model.weights}" if config.model.weights else "from scratch"
    return (
        f"Trained {begun} on {count} pictures ({config.data.source}), seed {config.experiment.seed}; "
        f"epochs x blocks: {stages}."
    )
