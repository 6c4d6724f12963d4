from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray

from core.explain import grad_cam
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation
from core.explain.options import GradCamOptions
from core.explain.quality import sparsity
from core.explain.target import log_odds

from .conftest import Canceled, assert_clean


def run(explainer: Explainer, picture: NDArray[np.uint8], label: str | None = None) -> Explanation:
    return grad_cam.explain(explainer, picture, explainer.target(picture, label), GradCamOptions())


def captum_map(explainer: Explainer, picture: NDArray[np.uint8], name: str, index: int) -> np.ndarray:
    """Before upsampling; Captum hooks the layer and knows nothing of features()."""
    network = explainer.exact
    captum = LayerGradCam(lambda x: log_odds(network(x), index), network.get_submodule(name))
    inputs = explainer.tensor(picture).requires_grad_(True)
    found: torch.Tensor = captum.attribute(inputs)
    return found[0, 0].detach().numpy()


def test_every_block_equals_captum(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture, "dog")
    assert [layer.name for layer in found.layers] == ["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    for layer in found.layers[1:]:
        expected = captum_map(explainer, picture, layer.name, 1)
        np.testing.assert_allclose(layer.values, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_shipped_network_equals_captum(shipped_explainer: Explainer, photo: NDArray[np.uint8]) -> None:
    found = run(shipped_explainer, photo)
    layers = {layer.name: layer.values for layer in found.layers}
    assert found.provenance["stage_ends"] == ["stem", "layer1.2", "layer2.3", "layer3.22", "layer4.2"]
    assert len(found.provenance["grid"]) == 15
    assert set(layers) == {*found.provenance["stage_ends"], *found.provenance["grid"]}
    for name in ("layer2.3", "layer4.2"):
        expected = captum_map(shipped_explainer, photo, name, found.target.index)
        np.testing.assert_allclose(layers[name], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_last_map_adds_up_to_the_log_odds(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture)
    bias = explainer.exact.fc.bias
    expected = found.target.margin - float(bias[found.target.index] - bias[1 - found.target.index])
    assert found.layers[-1].values.sum() == pytest.approx(expected, abs=1e-4)


def test_two_classes_have_opposite_maps(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    cat, dog = run(explainer, picture, "cat"), run(explainer, picture, "dog")
    for one, other in zip(cat.layers, dog.layers, strict=True):
        np.testing.assert_allclose(one.values, -other.values, atol=1e-5 * np.abs(one.values).max())


def test_folding_batchnorm_changes_nothing(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    folded = run(explainer, picture)
    explainer.exact = explainer.original
    for one, other in zip(folded.layers, run(explainer, picture).layers, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-3 * np.abs(one.values).max())


def test_the_attribution_is_the_last_map_enlarged(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture)
    assert found.attribution is not None
    assert found.attribution.shape == (64, 64)
    assert found.attribution.dtype == np.float32
    last = torch.from_numpy(found.layers[-1].values)
    assert last.shape == (2, 2)
    # Without aligned corners the outermost quarter is flat, and each cell's centre is a block of 32.
    np.testing.assert_allclose(found.attribution[:16, :16], last[0, 0].item(), rtol=1e-5)
    assert found.attribution.mean(dtype=np.float64) == pytest.approx(last.mean().item(), rel=1e-3)


def test_sparsity_is_that_of_the_map_that_is_shown(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    for label in ("cat", "dog"):
        found = run(explainer, picture, label)
        assert found.attribution is not None
        assert found.quality["sparsity"] == sparsity(found.attribution.clip(min=0))
    cat = run(explainer, picture, "cat")
    assert cat.attribution is not None
    assert cat.attribution.max() < 0  # black on every picture of it
    assert cat.quality["sparsity"] == 0


def test_a_canceled_run_leaves_nothing_behind(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    def progress(done: int, total: int, partial: object) -> None:
        raise Canceled

    target = explainer.target(picture)
    with pytest.raises(Canceled):
        grad_cam.explain(explainer, picture, target, GradCamOptions(), progress)
    assert_clean(explainer)
