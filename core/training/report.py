"""What an evaluation found, as JSON for programs and as one HTML file, without anything from elsewhere."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.explain.options import ExplainOptions
from core.explain.rendering import render
from core.explain.run import NetworkExplainer
from core.training import metrics, plots
from core.training.data import Pictures
from core.training.sources import Indices
from core.vision.engine import Engine
from core.vision.manifest import Manifest
from core.vision.preprocessing import Preprocessing

_MISTAKES = 24


@dataclass(frozen=True)
class Evaluation:
    """logits: [N, classes] of the pictures ``measured``, whose classes are ``targets``, both [N]."""

    manifest: Manifest
    pictures: Pictures
    measured: Indices
    logits: NDArray[np.float32]
    targets: Indices
    temperature: float

    def crop(self, row: int) -> NDArray[np.uint8]:
        """What the network saw of picture ``row`` of those measured, uint8 [S, S, 3]."""
        image = self.pictures.source.picture(int(self.measured[row]))
        return Preprocessing(self.manifest.input).crop(image)


def write_report(
    folder: Path, report: dict[str, Any], found: Evaluation, *, engine: Engine, history: Path | None
) -> None:
    """Write ``report.json`` and ``report.html``. ``history``: the run's metrics.jsonl, if it is at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(as_json(report) + "\n")
    page = "".join([_HEAD.format(title=escape(report["weights"])), *_blocks(report, found, engine, history)])
    (folder / "report.html").write_text(page + "</body></html>\n")


def as_json(report: dict[str, Any]) -> str:
    """What is not known, a nan, is null: Python would write a word that no other reader of JSON knows."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: known(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [known(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(report), indent=2, allow_nan=False)


def _blocks(report: dict[str, Any], found: Evaluation, engine: Engine, history: Path | None) -> Iterable[str]:
    measured, labels = report["metrics"], found.manifest.labels
    scores = metrics.probabilities(found.logits, found.temperature)
    yield f"<h1>{escape(found.manifest.name)}</h1>"
    yield _paragraph(
        f"{measured['pictures']} pictures, part {report['data']['part']} of {report['data']['source']}; "
        f"input {report['input']['size']} px, shorter side {report['input']['resize_scale']:g} times that; "
        f"temperature {report['temperature']:.3f}; {report['precision']}. Weights {report['sha256'][:12]}, "
        f"data {report['data']['digest'][:12]}. {found.manifest.provenance}"
    )
    yield _table(("", "value", "95 % interval"), _overview(measured))
    yield "<h2>Classes</h2>"
    yield _table(("class", "precision", "recall", "F1", "support"), _classes(measured))
    yield "<h2>Curves</h2>"
    yield _image(plots.roc(scores, found.targets, labels), "ROC")
    yield _image(plots.precision_recall(scores, found.targets, labels), "Precision and recall")
    yield _image(plots.confusion(np.array(measured["confusion"]), labels), "Confusion")
    plain = metrics.reliability(metrics.probabilities(found.logits), found.targets)
    yield _image(plots.reliability(plain, metrics.reliability(scores, found.targets)), "Reliability")
    if history and (epochs := _epochs(history)):
        yield _image(plots.history(epochs), "Training")
    yield "<h2>Input sizes, on the validation part</h2>"
    yield _table(
        ("size", "scale", "accuracy", "ROC-AUC", "loss, calibrated", "temperature"),
        [[f"{value:.4g}" for value in choice.values()] for choice in report["choices"]],
    )
    yield "<h2>Worst mistakes</h2>"
    yield from _mistakes(found, scores)
    yield "<h2>What is inside</h2>"
    yield from _inside(found, scores, engine)


def _overview(measured: dict[str, Any]) -> Iterable[Sequence[str]]:
    for name, title in (("accuracy", "accuracy"), ("roc_auc", "ROC-AUC")):
        low, high = measured[f"{name}_interval"]
        yield title, f"{measured[name]:.4f}", f"{low:.4f} to {high:.4f}"
    for name, title in (("loss", "log loss"), ("ece", "expected calibration error")):
        yield title, f"{measured[name]:.4f}", ""
        yield f"{title}, calibrated", f"{measured[f'calibrated_{name}']:.4f}", ""


def _classes(measured: dict[str, Any]) -> Iterable[Sequence[str]]:
    rows = measured["classes"] | {f"{kind} average": measured[kind] for kind in ("macro", "weighted")}
    for name, row in rows.items():
        support = row.get("support", measured["pictures"])
        yield name, *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), f"{support:.0f}"


def _mistakes(found: Evaluation, scores: metrics.Floats) -> Iterable[str]:
    """Those with the least probability of what is true. Some are the labels' mistakes."""
    true = scores[np.arange(len(scores)), found.targets]
    wrong = np.flatnonzero(scores.argmax(axis=1) != found.targets)
    worst = wrong[np.argsort(true[wrong], kind="stable")][:_MISTAKES]
    yield _paragraph(f"{len(wrong)} of {len(scores)} pictures are taken for another class.")
    if len(worst):
        labels = found.manifest.labels
        captions = [
            f"{labels[found.targets[row]]}, said {labels[scores[row].argmax()]} {scores[row].max():.0%}\n"
            f"{Path(found.pictures.source.names[found.measured[row]]).name}"
            for row in worst
        ]
        yield _image(plots.grid([found.crop(row) for row in worst], captions), "Worst mistakes", wide=True)


def _inside(found: Evaluation, scores: metrics.Floats, engine: Engine) -> Iterable[str]:
    """Kernels, and the feature maps of the picture of which the network is surest, by depth."""
    right = scores.max(axis=1) * (scores.argmax(axis=1) == found.targets)
    # The engine's own size: where --sizes tried others on given weights, their manifest was left as it is.
    image = found.pictures.source.picture(int(found.measured[right.argmax()]))
    picture = engine.preprocessing.crop(image)
    explainer = NetworkExplainer(engine)
    for method, title in (("kernels", "Kernels"), ("feature_maps", "Feature maps")):
        panel, _ = render(explainer.explain(method, picture, ExplainOptions()), picture)["panel.png"]
        yield _image(panel, title, wide=True)


def _epochs(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == "epoch"]


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(header, 'th')}{body}</table>"


def _image(png: bytes, title: str, *, wide: bool = False) -> str:
    data = base64.b64encode(png).decode()
    kind = ' class="wide"' if wide else ""
    return f'<img{kind} alt="{escape(title)}" src="data:image/png;base64,{data}">'


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
        color: #1d2430; background: #fcfcfa }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #d9dbd6 }}
td {{ font-variant-numeric: tabular-nums }}
img {{ width: 34rem; max-width: 100% }}
img.wide {{ width: 100% }}
</style></head><body>
"""
