from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from numpy.typing import NDArray

from core.explain import occlusion
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation, Floats
from core.explain.options import OcclusionOptions
from core.explain.target import log_odds

from .conftest import Canceled, Linear, assert_clean


def run(
    explainer: Explainer, picture: NDArray[np.uint8], label: str | None = None, **options: object
) -> Explanation:
    return occlusion.explain(
        explainer, picture, explainer.target(picture, label), OcclusionOptions.model_validate(options)
    )


def attribution(explanation: Explanation) -> Floats:
    assert explanation.attribution is not None
    return explanation.attribution


def naive(
    explainer: Explainer, picture: NDArray[np.uint8], index: int, found: Explanation
) -> tuple[Floats, Floats, Floats]:
    """d_w, the change of probability, and the map; one window, one forward pass of the trained network."""
    x = explainer.tensor(picture)
    x0 = explainer.baseline(found.provenance["baseline"], x)
    starts, side = found.provenance["starts"], found.provenance["window"]
    temperature = explainer.manifest.temperature
    drops, changes = np.zeros((2, len(starts), len(starts)), np.float32)
    total, count = np.zeros((2, *picture.shape[:2]))
    with torch.inference_mode():
        plain = explainer.original(x)
        for row, top in enumerate(starts):
            for column, left in enumerate(starts):
                here = (..., slice(top, top + side), slice(left, left + side))
                covered = x.clone()
                covered[here] = x0[here]
                logits = explainer.original(covered)
                drops[row, column] = log_odds(plain, index) - log_odds(logits, index)
                shares = [(z / temperature).softmax(1)[0, index] for z in (plain, logits)]
                changes[row, column] = shares[0] - shares[1]
                total[here] += drops[row, column]
                count[here] += 1
    return drops, changes, (total / count).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 16, "stride": 12},
        {"window": 8, "stride": 8, "baseline": "black"},
        {"window": 32, "stride": 20, "baseline": "blur"},
    ],
)
def test_it_equals_a_naive_loop(
    explainer: Explainer, picture: NDArray[np.uint8], options: dict[str, object]
) -> None:
    found = run(explainer, picture, "dog", **options)
    drops, changes, expected = naive(explainer, picture, 1, found)
    layers = {layer.name: layer.values for layer in found.layers}
    np.testing.assert_allclose(layers["windows"], drops, atol=1e-4)
    np.testing.assert_allclose(layers["windows.probability"], changes, atol=1e-4)
    np.testing.assert_allclose(attribution(found), expected, atol=1e-4)
    assert np.abs(drops).max() > 1e-2  # else all of this would show nothing


def test_it_equals_captum(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture, "cat", window=16, stride=8)
    captum = Occlusion(lambda pictures: log_odds(explainer.exact(pictures), 0))
    with torch.no_grad():
        theirs = captum.attribute(explainer.tensor(picture), (3, 16, 16), (3, 8, 8), baselines=0)
    np.testing.assert_allclose(attribution(found), theirs[0, 0].numpy(), atol=1e-4)


def test_a_linear_network_in_closed_form(
    explainer: Explainer, linear: Linear, picture: NDArray[np.uint8]
) -> None:
    found = run(explainer, picture, "cat", window=8, stride=8)
    share = (linear.gradient(0) * explainer.tensor(picture)).sum(1)[0].numpy()
    expected = share.reshape(8, 8, 8, 8).sum((1, 3))  # windows that do not overlap
    np.testing.assert_allclose(found.layers[0].values, expected, atol=1e-5)
    np.testing.assert_allclose(attribution(found), expected.repeat(8, 0).repeat(8, 1), atol=1e-5)


def test_a_window_as_large_as_the_picture_takes_all(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture, window=512)
    assert found.layers[0].values.shape == (1, 1)
    assert found.layers[0].values.item() == pytest.approx(found.quality["whole_picture_change"], abs=1e-4)
    np.testing.assert_allclose(attribution(found), found.quality["whole_picture_change"], atol=1e-4)


def test_two_classes_have_opposite_maps(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    cat, dog = (run(explainer, picture, label, window=32) for label in ("cat", "dog"))
    np.testing.assert_allclose(attribution(cat), -attribution(dog), atol=1e-5)


def test_a_picture_that_is_its_baseline_gets_nothing(explainer: Explainer) -> None:
    found = run(explainer, np.zeros((64, 64, 3), np.uint8), baseline="black")
    np.testing.assert_allclose(attribution(found), 0, atol=1e-4)


def test_the_size_of_chunks_changes_nothing(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    expected = attribution(run(explainer, picture))
    explainer.max_batch = 2
    np.testing.assert_allclose(attribution(run(explainer, picture)), expected, atol=1e-5)


def test_the_approximation_computes_the_windows_that_matter(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    exact = run(explainer, picture, window=8, stride=4)
    coarse = run(explainer, picture, window=8, stride=4, approximate=True)
    assert coarse.provenance["approximate"]
    assert coarse.provenance["computed"] < coarse.provenance["windows"] == 225
    true, found = exact.layers[0].values.ravel(), coarse.layers[0].values.ravel()
    assert np.isfinite(found).all()
    # Whatever it ranks among the first quarter is computed, not guessed.
    first = np.argsort(-np.abs(found))[:56]
    np.testing.assert_allclose(found[first], true[first], atol=1e-4)
    assert np.count_nonzero(np.abs(found - true) < 1e-4) >= coarse.provenance["computed"]


def test_bfloat16_is_certified_by_float32(
    fast_explainer: Explainer, explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    found, exact = run(fast_explainer, picture), run(explainer, picture)
    assert found.provenance["precision"] == "bf16"
    assert found.provenance["rank_correlation"] >= 0.99
    scale = float(np.abs(attribution(exact)).max())
    np.testing.assert_allclose(attribution(found), attribution(exact), atol=0.1 * scale)


@pytest.mark.parametrize("damage", ["other kernels", "not finite"])
def test_bfloat16_that_is_wrong_gives_way_to_float32(
    fast_explainer: Explainer, explainer: Explainer, picture: NDArray[np.uint8], damage: str
) -> None:
    if damage == "not finite":
        fast_explainer.fast.fc.weight.fill_(float("nan"))
    else:
        kernels = fast_explainer.fast.get_parameter("layer3.0.conv2.weight")
        kernels.copy_(kernels.flip(0))
    found = run(fast_explainer, picture)
    assert found.provenance["precision"] == "fp32"
    np.testing.assert_allclose(attribution(found), attribution(run(explainer, picture)), atol=1e-4)


def test_progress_covers_the_whole_picture_early(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    seen: list[tuple[int, int, Floats | None]] = []
    explainer.max_batch = 4
    found = occlusion.explain(
        explainer,
        picture,
        explainer.target(picture),
        OcclusionOptions(window=32, stride=16),
        lambda done, total, partial: seen.append((done, total, partial)),
    )
    assert [(done, total) for done, total, _ in seen] == [(4, 9), (7, 9), (9, 9)]
    assert seen[0][2] is not None
    assert np.all(seen[0][2] != 0)
    assert seen[-1][2] is not None
    np.testing.assert_array_equal(seen[-1][2], attribution(found))


def test_a_canceled_run_leaves_nothing_behind(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    def progress(done: int, total: int, partial: Floats | None) -> None:
        raise Canceled

    target = explainer.target(picture)
    with pytest.raises(Canceled):
        occlusion.explain(explainer, picture, target, OcclusionOptions(), progress)
    assert_clean(explainer)


def test_the_shipped_network_is_certified_in_bfloat16(
    shipped_explainer: Explainer, photo: NDArray[np.uint8]
) -> None:
    found = run(shipped_explainer, photo, window=32, stride=20)
    precision = shipped_explainer.engine.report["precision"]  # float32 where the processor is as fast at it
    assert found.provenance["precision"] == precision
    assert found.provenance["layers_on_crops"] >= 4
    assert found.provenance["computed_in_all"] == 64 + (8 if precision == "bf16" else 0)
    if precision == "bf16":
        assert found.provenance["rank_correlation"] >= 0.99
