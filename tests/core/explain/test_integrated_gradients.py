from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from numpy.typing import NDArray

from core.explain import integrated_gradients
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation, Floats
from core.explain.options import IntegratedGradientsOptions
from core.explain.target import log_odds

from .conftest import Canceled, Linear, assert_clean


def run(
    explainer: Explainer, picture: NDArray[np.uint8], label: str | None = None, **options: object
) -> Explanation:
    return integrated_gradients.explain(
        explainer,
        picture,
        explainer.target(picture, label),
        IntegratedGradientsOptions.model_validate(options),
    )


def attribution(explanation: Explanation) -> Floats:
    assert explanation.attribution is not None
    return explanation.attribution


def assert_close(found: Floats, expected: Floats, share: float) -> None:
    """Within a share of the largest absolute value."""
    np.testing.assert_allclose(found, expected, atol=share * float(np.abs(expected).max()))


@pytest.mark.parametrize("baseline", ["mean", "black", "white", "blur"])
def test_a_linear_network_is_solved_in_one_round(
    explainer: Explainer, linear: Linear, picture: NDArray[np.uint8], baseline: str
) -> None:
    found = run(explainer, picture, "cat", baseline=baseline)
    x = explainer.tensor(picture)
    x0 = explainer.baseline(found.provenance["baseline"], x)
    expected = (linear.gradient(0) * (x - x0)).sum(1)[0].numpy()
    assert_close(attribution(found), expected, 1e-5)
    assert found.quality["converged"]
    assert found.quality["evaluations"] == 5
    # The cell that nothing depends on: row 2, column 7 of cells of 4 x 4 pixels.
    assert not attribution(found)[8:12, 28:32].any()


def test_captum_finds_the_same_at_the_same_nodes(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture, "dog", tolerance=1e-9, max_evaluations=9)
    np.testing.assert_allclose(found.provenance["nodes"], np.linspace(0, 1, 9))
    x = explainer.tensor(picture)
    captum = IntegratedGradients(lambda pictures: log_odds(explainer.exact(pictures), 1))
    theirs = captum.attribute(x, torch.zeros_like(x), n_steps=9, method="riemann_trapezoid")
    # Captum's weights of n nodes add up to (n - 1) / n.
    expected = theirs.sum(1)[0].detach().float().numpy() * 9 / 8
    assert_close(attribution(found), expected, 1e-5)


def test_completeness_is_measured_and_reached(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture)
    x = explainer.tensor(picture)
    with torch.no_grad():
        ends = log_odds(explainer.original(torch.cat([torch.zeros_like(x), x])), found.target.index)
    change = float(ends[1] - ends[0])
    error = abs(float(attribution(found).sum(dtype=np.float64)) - change) / abs(change)
    assert found.quality["converged"]
    assert error <= 0.01
    assert found.quality["completeness_error"] == pytest.approx(error, abs=1e-3)
    assert found.quality["certified_error"] >= found.quality["completeness_error"]
    assert found.provenance["baseline_margin"] == pytest.approx(float(ends[0]), abs=1e-4)


def test_the_map_is_that_of_a_much_finer_integral(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = attribution(run(explainer, picture, tolerance=0.002))
    x = explainer.tensor(picture)
    index = explainer.target(picture).index
    fine = torch.zeros(64, 64)
    for start in range(0, 320, 16):
        times = (torch.arange(start, start + 16) + 0.5) / 320
        points = times.view(-1, 1, 1, 1) * x
        _, gradients = explainer.value_and_gradient(explainer.exact, points, index)
        fine += (gradients * x).sum((0, 1)) / 320
    difference = np.abs(found - fine.numpy()).sum() / np.abs(fine.numpy()).sum()
    assert difference < 0.05


def test_a_budget_that_is_too_small_is_said(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    found = run(explainer, picture, tolerance=1e-9, max_evaluations=30)
    assert not found.quality["converged"]
    assert found.quality["evaluations"] == 30
    assert run(explainer, picture, max_evaluations=8, tolerance=1e-9).quality["evaluations"] == 8


def test_two_classes_have_opposite_maps(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    cat, dog = run(explainer, picture, "cat"), run(explainer, picture, "dog")
    assert_close(attribution(cat), -attribution(dog), 1e-5)


def test_a_constant_added_to_the_logits_changes_nothing(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    before = attribution(run(explainer, picture, "cat"))
    explainer.exact.fc.bias.add_(5)
    assert_close(attribution(run(explainer, picture, "cat")), before, 1e-4)


def test_a_picture_that_is_its_baseline_gets_nothing(explainer: Explainer) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    found = run(explainer, black, baseline="black")
    np.testing.assert_allclose(attribution(found), 0, atol=1e-6)
    assert found.quality["converged"]


def test_the_size_of_chunks_changes_nothing(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    expected = attribution(run(explainer, picture))
    explainer.max_gradient_batch = 3
    assert_close(attribution(run(explainer, picture)), expected, 1e-5)


def test_running_out_of_memory_changes_nothing(
    explainer: Explainer, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attribution(run(explainer, picture))
    whole = explainer.value_and_gradient

    def scarce(network: object, pictures: torch.Tensor, index: int) -> object:
        if len(pictures) > 2:
            raise torch.OutOfMemoryError
        return whole(explainer.exact, pictures, index)

    monkeypatch.setattr(explainer, "value_and_gradient", scarce)
    assert_close(attribution(run(explainer, picture)), expected, 1e-5)
    assert explainer.max_gradient_batch <= 2


def test_bfloat16_is_certified_by_float32(
    fast_explainer: Explainer, explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    found = run(fast_explainer, picture, tolerance=0.05)
    exact = run(explainer, picture, tolerance=0.05)
    assert found.provenance["precision"] == "bf16"
    assert found.quality["converged"]
    a, b = attribution(found).ravel(), attribution(exact).ravel()
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.97


@pytest.mark.parametrize("damage", [0.5, float("nan")])
def test_bfloat16_that_is_wrong_gives_way_to_float32(
    fast_explainer: Explainer, explainer: Explainer, picture: NDArray[np.uint8], damage: float
) -> None:
    fast_explainer.fast.fc.weight *= damage
    found = run(fast_explainer, picture, tolerance=0.05)
    assert found.provenance["precision"] == "fp32"
    assert found.provenance["gradients_in_all"] <= found.quality["evaluations"] + 96
    assert found.quality["converged"]
    assert_close(attribution(found), attribution(run(explainer, picture, tolerance=0.05)), 1e-5)


def test_where_bfloat16_saves_no_time_nothing_is_computed_in_vain(
    fast_explainer: Explainer, explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    fast_explainer.fast_gradients = fast_explainer.exact  # as on a GPU
    found = run(fast_explainer, picture)
    assert found.provenance["precision"] == "fp32"
    assert found.provenance["gradients_in_all"] == found.quality["evaluations"]
    assert_close(attribution(found), attribution(run(explainer, picture)), 1e-5)


def test_progress_shows_the_map_as_it_is_refined(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    seen: list[tuple[int, int, Floats | None]] = []
    found = integrated_gradients.explain(
        explainer,
        picture,
        explainer.target(picture),
        IntegratedGradientsOptions(tolerance=1e-9, max_evaluations=30),
        lambda done, total, partial: seen.append((done, total, partial)),
    )
    assert [done for done, _, _ in seen] == [5, 9, 13, 17, 21, 25, 29, 30]
    assert {total for _, total, _ in seen} == {30}
    assert seen[-1][2] is not None
    np.testing.assert_array_equal(seen[-1][2], attribution(found))


def test_a_canceled_run_leaves_nothing_behind(fast_explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    def progress(done: int, total: int, partial: Floats | None) -> None:
        raise Canceled

    target = fast_explainer.target(picture)
    with pytest.raises(Canceled):
        integrated_gradients.explain(fast_explainer, picture, target, IntegratedGradientsOptions(), progress)
    assert_clean(fast_explainer)


def test_the_shipped_network_converges(shipped_explainer: Explainer, photo: NDArray[np.uint8]) -> None:
    found = run(shipped_explainer, photo)
    assert found.quality["converged"]
    assert found.quality["completeness_error"] <= 0.01
    assert found.quality["evaluations"] <= 64
    assert found.provenance["precision"] == shipped_explainer.engine.report["precision"]
