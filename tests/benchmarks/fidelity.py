"""Whether explanations point at what they explain, on the example photos with the shipped weights.

Their animals are outlined by trimaps. The photos are few: the figures can show that a method fails, they
cannot rank two that do not.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from core.explain import quality
from core.explain.explanation import Explanation
from core.explain.options import ExplainOptions, FeatureMapsOptions, IntegratedGradientsOptions
from core.explain.run import NetworkExplainer
from core.vision.checkpoint import load_checkpoint, save_checkpoint
from core.vision.engine import Engine
from core.vision.manifest import ModelCard
from tests.benchmarks.report import Report
from tests.benchmarks.subject import MANIFEST
from tests.processes import EXAMPLES, PHOTOS

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]
Truth = NDArray[np.integer[Any]]

# Of feature maps: the channels that speak most for the class, of the last stage, added up.
METHODS = ("grad_cam", "integrated_gradients", "occlusion", "feature_maps")
PAIRS = 6
# Half of the usual 28: what is compared is methods with chance, on the same steps.
STEPS = 14


def run(quick: bool = False) -> Report:
    engine = Engine(MANIFEST)
    explain = _Explain(engine)
    photos = PHOTOS[::4] if quick else PHOTOS
    pictures = {photo.stem: engine.prepare(photo.read_bytes()) for photo in photos}
    figures: dict[str, Any] = {
        "photos": len(photos),
        "model": {"name": engine.manifest.name, "sha256": engine.manifest.sha256},
        "certificates": _certificates(explain, pictures.values()),
        "methods": {},
    }
    trimaps = {name: _trimap(engine, name) for name in pictures}
    for method in METHODS:
        maps = {name: explain(method, picture) for name, picture in pictures.items()}
        figures["methods"][method] = {
            **_on_the_animal(maps, trimaps),
            **_deletion_and_insertion(explain, pictures, maps),
            **_on_its_own_half(explain, method, pictures, 1 if quick else PAIRS),
        }
    _randomise(explain, figures["methods"], list(pictures.values())[: 1 if quick else 4])
    return Report([_table(figures), _certified(figures)], figures)


class _Explain:
    """Signed maps [S, S] by a method's name."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.options = options
        self.network = NetworkExplainer(engine)
        self.kept: dict[tuple[str, int, str | None], Explanation] = {}

    def explanation(self, method: str, picture: Picture, target: str | None = None) -> Explanation:
        key = method, hash(picture.tobytes()), target
        if key not in self.kept:
            channels = FeatureMapsOptions(by="contribution")
            options = ExplainOptions(target=target, feature_maps=channels, **self.options)
            self.kept[key] = self.network.explain(method, picture, options)
        return self.kept[key]

    def __call__(self, method: str, picture: Picture, target: str | None = None) -> Map:
        found = self.explanation(method, picture, target)
        if found.attribution is not None:
            return found.attribution
        total = found.layers[-1].values.sum(0)
        size = (picture.shape[1], picture.shape[0])
        return np.asarray(Image.fromarray(total).resize(size, Image.Resampling.BILINEAR), np.float32)

    def probabilities(self, pictures: Picture) -> NDArray[np.float32]:
        logits = self.engine.logits(pictures) / self.engine.manifest.temperature
        return np.asarray(logits.softmax(1).cpu().numpy(), np.float32)


def _trimap(engine: Engine, name: str) -> Truth:
    with Image.open(EXAMPLES / "trimaps" / f"{name}.png") as image:
        trimap = np.asarray(image)
    height, width = trimap.shape
    return quality.trimap_in_crop(trimap, engine.preprocessing.placement(width, height))


def _on_the_animal(maps: dict[str, Map], trimaps: dict[str, Truth]) -> dict[str, Any]:
    hits = [quality.pointing_game(map_, trimaps[name]) for name, map_ in maps.items()]
    shares = [quality.share_on_mask(map_, trimaps[name]) for name, map_ in maps.items()]
    return {
        "pointing_hits": sum(hit is True for hit in hits),
        "pointing_of": sum(hit is not None for hit in hits),
        "share_on_animal": _mean(share["share"] for share in shares),
        "area_of_animal": _mean(share["area"] for share in shares),
    }


def _deletion_and_insertion(
    explain: _Explain, pictures: dict[str, Picture], maps: dict[str, Map]
) -> dict[str, Any]:
    names = ("deletion_auc", "random_deletion_auc", "insertion_auc", "random_insertion_auc")
    found = []
    for name, picture in pictures.items():
        target = int(explain.probabilities(picture[None]).argmax())
        found.append(
            quality.deletion_insertion(explain.probabilities, picture, maps[name], target, steps=STEPS)
        )
    return {name: _mean(one[name] for one in found) for name in names} | {
        "better_deletion_than_random": sum(o["deletion_auc"] < o["random_deletion_auc"] for o in found),
        "better_insertion_than_random": sum(o["insertion_auc"] > o["random_insertion_auc"] for o in found),
    }


def _on_its_own_half(
    explain: _Explain, method: str, pictures: dict[str, Picture], count: int
) -> dict[str, Any]:
    """A cat and a dog side by side, each in the middle half of its own photo, the cat left and right in turn:
    the share of each class's positive mass on its own animal's half. 0.5 is chance."""
    cats = [picture for name, picture in pictures.items() if name[0].isupper()]
    dogs = [picture for name, picture in pictures.items() if name[0].islower()]
    shares: dict[str, list[float]] = {"cat": [], "dog": []}
    for number in range(min(count, len(cats), len(dogs))):
        left, right = (cats, dogs) if number % 2 == 0 else (dogs, cats)
        pasted = side_by_side(left[number], right[number])
        half = pasted.shape[1] // 2
        for label, found in shares.items():
            mass = np.maximum(explain(method, pasted, label), 0).astype(np.float64)
            own = mass[:, :half] if (label == "cat") == (left is cats) else mass[:, half:]
            if mass.sum() > 0:
                found.append(float(own.sum() / mass.sum()))
    return {f"{label}_on_its_half": _mean(found) for label, found in shares.items()} | {
        "pairs": min(count, len(cats), len(dogs))
    }


def side_by_side(left: Picture, right: Picture) -> Picture:
    """The middle halves of two pictures uint8 [S, S, 3], the first at the left."""
    size = left.shape[1]
    half, quarter = size // 2, size // 4
    return np.concatenate(
        [left[:, quarter : quarter + half], right[:, quarter : quarter + size - half]], axis=1
    )


def _randomise(explain: _Explain, methods: dict[str, Any], pictures: Sequence[Picture]) -> None:
    """Adebayo's check: the maps of the trained network beside those of its shuffled weights."""
    trained_engine = explain.engine
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            shuffled_weights(MANIFEST, Path(folder)), precision=trained_engine.report["precision"]
        )
    together = np.stack(pictures)
    same = torch.isclose(engine.logits(together), trained_engine.logits(together), rtol=1e-3)
    assert not same.all(1).any(), "the trained network would be compared with itself"
    # No path converges on noise, and its map is as far from the trained one after few gradients.
    randomised = _Explain(engine, integrated_gradients=IntegratedGradientsOptions(max_evaluations=32))
    for method, figures in methods.items():

        def by_noise(picture: Picture, method: str = method) -> Map:
            return randomised(method, picture, explain.explanation(method, picture).target.label)

        def trained(picture: Picture, method: str = method) -> Map:
            return explain(method, picture)

        compared = quality.randomisation(trained, by_noise, pictures)
        figures |= {f"randomised_{name}": value for name, value in compared.items()}


@torch.no_grad()
def shuffled_weights(manifest_path: Path, folder: Path) -> Path:
    """The manifest, in ``folder``, of the same network with all weights of convolutions and of the classifier
    shuffled within their tensors.

    Shuffling keeps their distribution, so that activations keep their scale under BatchNorm's statistics. In
    a file, since an engine computes with what it has made of the weights when it read them.
    """
    network, manifest = load_checkpoint(manifest_path)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    path = folder / "shuffled.json"
    card = ModelCard.model_validate(manifest.model_dump(exclude={"weights", "sha256"}))
    save_checkpoint(network, path, card, dtype=torch.float32)
    return path


def _certificates(explain: _Explain, pictures: Iterable[Picture]) -> dict[str, Any]:
    gradients, windows = [], []
    for picture in pictures:
        gradients.append(explain.explanation("integrated_gradients", picture))
        windows.append(explain.explanation("occlusion", picture))
    spent = [int(found.provenance["gradients_in_all"]) for found in gradients]
    correlations = [found.provenance["rank_correlation"] for found in windows]
    return {
        "gradients_median": statistics.median(spent),
        "gradients_most": max(spent),
        "converged": sum(bool(found.quality["converged"]) for found in gradients),
        "largest_completeness_error": max(found.quality["completeness_error"] for found in gradients),
        "gradients_in_bf16": sum(found.provenance["precision"] == "bf16" for found in gradients),
        "occlusion_in_bf16": sum(found.provenance["precision"] == "bf16" for found in windows),
        "least_rank_correlation": min((c for c in correlations if c is not None), default=None),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None


def _table(figures: dict[str, Any]) -> Table:
    table = Table("what", *METHODS, title_justify="left")
    table.title = f"Fidelity on {figures['photos']} photos, shipped weights"
    methods = figures["methods"]
    table.add_row(
        "pointing game", *(f"{methods[m]['pointing_hits']} of {methods[m]['pointing_of']}" for m in METHODS)
    )
    rows = {
        "positive mass on the animal": "share_on_animal",
        "the animal's share of the picture: chance": "area_of_animal",
        "cat and dog side by side: the cat's mass on its half": "cat_on_its_half",
        "the dog's mass on its half; chance 0.5": "dog_on_its_half",
        "deletion, lower is better": "deletion_auc",
        "deletion in random order": "random_deletion_auc",
        "insertion, higher is better": "insertion_auc",
        "insertion in random order": "random_insertion_auc",
        "photos with deletion better than random": "better_deletion_than_random",
        "photos with insertion better than random": "better_insertion_than_random",
        "shuffled weights: rank correlation": "randomised_spearman",
        "shuffled weights: of absolute values": "randomised_spearman_absolute",
    }
    for label, name in rows.items():
        values = (methods[method][name] for method in METHODS)
        table.add_row(label, *("-" if v is None else f"{v:.3g}" for v in values))
    return table


def _certified(figures: dict[str, Any]) -> Table:
    table = Table("certificate", "figure", title="What each explanation said of itself", title_justify="left")
    for name, value in figures["certificates"].items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    return table
