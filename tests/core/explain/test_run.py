from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.errors import DeviceFailed, InvalidRequest
from core.explain import run
from core.explain.explanation import Explanation, Floats
from core.explain.methods import METHODS, SENSITIVITY_SAMPLES
from core.explain.options import ExplainOptions
from core.explain.quality import max_sensitivity
from core.explain.rendering import render
from core.explain.run import NetworkExplainer
from core.vision.engine import Engine


@pytest.fixture
def network_explainer(two_class_manifest: Path) -> NetworkExplainer:
    return NetworkExplainer(Engine(two_class_manifest, device="cpu", precision="fp32"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_by_name_and_can_be_drawn(
    network_explainer: NetworkExplainer, picture: NDArray[np.uint8], method: str
) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, partial: Floats | None) -> None:
        seen.append((done, total))

    found = network_explainer.explain(method, picture, ExplainOptions(target="dog"), progress)
    assert found.method == method
    assert found.target.label == "dog"
    assert seen[-1][0] == seen[-1][1] > 0
    assert json.loads(json.dumps(found.quality)) == found.quality
    assert json.loads(json.dumps(found.provenance)) == found.provenance
    assert found.provenance["weights_sha256"]
    assert METHODS[method].has_map == (found.attribution is not None)
    if found.attribution is not None:
        assert found.attribution.shape == (64, 64)
        assert found.attribution.dtype == np.float32
        assert 0 < found.quality["sparsity"] < 1
    for layer in found.layers:
        assert layer.values.dtype == np.float32
    assert render(found, picture)["panel.png"][0].startswith(b"\x89PNG")


@pytest.mark.parametrize("method", METHODS)
def test_the_picture_is_not_written_to(
    network_explainer: NetworkExplainer, picture: NDArray[np.uint8], method: str
) -> None:
    before = picture.copy()
    picture.setflags(write=False)
    network_explainer.explain(method, picture, ExplainOptions())
    np.testing.assert_array_equal(picture, before)


def test_an_unknown_class_is_refused(network_explainer: NetworkExplainer, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidRequest, match="fox"):
        network_explainer.explain("grad_cam", picture, ExplainOptions(target="fox"))


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients", "occlusion"])
def test_max_sensitivity_compares_explanations_of_the_pictures_themselves(
    network_explainer: NetworkExplainer, picture: NDArray[np.uint8], method: str
) -> None:
    target = network_explainer.explain(method, picture, ExplainOptions()).target.label

    def alone(other: NDArray[np.uint8]) -> Floats:
        attribution = network_explainer.explain(method, other, ExplainOptions(target=target)).attribution
        assert attribution is not None
        return attribution

    expected = max_sensitivity(alone, picture, samples=SENSITIVITY_SAMPLES, seed=3)
    found = network_explainer.explain(method, picture, ExplainOptions(quality=True, seed=3))
    assert found.quality["max_sensitivity"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_catalogue_says_what_quality_costs(
    network_explainer: NetworkExplainer,
    picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """Pictures that are only classified, and maps that are made again."""
    shown, maps = 0, 0
    logits, explain = network_explainer.explainer.engine.logits, run._METHODS[method]

    def counted(pictures: NDArray[np.uint8]) -> torch.Tensor:
        nonlocal shown
        shown += len(pictures)
        return logits(pictures)

    def counted_map(*given: Any) -> Explanation:
        nonlocal maps
        maps += 1
        return explain(*given)

    def cost(*, quality: bool) -> tuple[int, int]:
        nonlocal shown, maps
        shown = maps = 0
        network_explainer.explain(method, picture, ExplainOptions(quality=quality))
        return shown, maps

    monkeypatch.setattr(network_explainer.explainer.engine, "logits", counted)
    monkeypatch.setitem(run._METHODS, method, counted_map)
    plain, measured = cost(quality=False), cost(quality=True)
    own = METHODS[method]
    expected = own.cost(own.options(), 64).expected
    more = measured[0] - plain[0] + (measured[1] - plain[1]) * expected
    assert own.quality_cost(own.options(), 64) == more


def test_a_device_that_fails_in_a_method_is_said_to_have_failed(
    network_explainer: NetworkExplainer, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")  # whatever it says: the process is lost

    network_explainer.explain("kernels", picture, ExplainOptions())
    monkeypatch.setattr(network_explainer.explainer, "value_and_gradient", fail)
    with pytest.raises(DeviceFailed):
        network_explainer.explain("integrated_gradients", picture, ExplainOptions())


def test_quality_on_request_comes_with_its_controls_and_the_seed(
    network_explainer: NetworkExplainer, picture: NDArray[np.uint8]
) -> None:
    seen: list[tuple[int, int]] = []
    found, again, other_seed = (
        network_explainer.explain(
            "occlusion", picture, ExplainOptions(quality=True, seed=seed), lambda d, t, _: seen.append((d, t))
        )
        for seed in (1, 1, 2)
    )
    plain = network_explainer.explain("occlusion", picture, ExplainOptions())
    assert found.attribution is not None
    np.testing.assert_array_equal(found.attribution, plain.attribution)
    assert plain.quality.items() <= found.quality.items()
    for name in ("deletion_auc", "insertion_auc", "random_deletion_auc", "random_insertion_auc"):
        assert 0 <= found.quality["deletion_insertion"][name] <= 1
    assert found.quality["max_sensitivity"] > 0
    # What is measured counts as steps too: the end is told at the end alone.
    assert seen == sorted(seen[: len(seen) // 3]) * 3
    assert [done for done, total in seen].count(seen[-1][1]) == 3
    assert found.quality == again.quality != other_seed.quality
    assert (found.provenance["seed"], other_seed.provenance["seed"]) == (1, 2)
    assert all(done <= total for done, total in seen)
    assert len({total for _, total in seen}) == 1


def test_measuring_can_be_stopped(network_explainer: NetworkExplainer, picture: NDArray[np.uint8]) -> None:
    class Stop(Exception):
        pass

    def stop_after_the_method(done: int, total: int, partial: Floats | None) -> None:
        if done == total and partial is None:
            raise Stop

    with pytest.raises(Stop):
        network_explainer.explain("grad_cam", picture, ExplainOptions(quality=True), stop_after_the_method)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_explains_as_the_cpu_does(
    two_class_manifest: Path, network_explainer: NetworkExplainer, picture: NDArray[np.uint8], method: str
) -> None:
    on_gpu = NetworkExplainer(Engine(two_class_manifest, device="cuda", precision="fp32"))
    found = on_gpu.explain(method, picture, ExplainOptions(target="dog"))
    expected = network_explainer.explain(method, picture, ExplainOptions(target="dog"))
    assert found.provenance["device"].startswith("cuda")
    assert found.target.margin == pytest.approx(expected.target.margin, abs=1e-4)
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    for one, other in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-3 * np.abs(other.values).max())
    if expected.attribution is not None:
        assert found.attribution is not None
        largest = np.abs(expected.attribution).max()
        np.testing.assert_allclose(found.attribution, expected.attribution, atol=1e-3 * largest)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_bfloat16_engine_on_cuda_is_certified(
    two_class_manifest: Path, network_explainer: NetworkExplainer, picture: NDArray[np.uint8], method: str
) -> None:
    on_gpu = NetworkExplainer(Engine(two_class_manifest, device="cuda", precision="bf16"))
    found = on_gpu.explain(method, picture, ExplainOptions())
    expected = network_explainer.explain(method, picture, ExplainOptions())
    assert found.attribution is not None
    assert expected.attribution is not None
    assert np.corrcoef(found.attribution.ravel(), expected.attribution.ravel())[0, 1] > 0.98
    if method == "integrated_gradients":
        assert found.quality["converged"]
        assert found.provenance["gradients_in_all"] == found.quality["evaluations"]
