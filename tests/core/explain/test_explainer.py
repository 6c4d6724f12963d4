from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.errors import DeviceOutOfMemory
from core.explain.explainer import Explainer, dtype_of
from core.vision.engine import NonFiniteLogits


def test_the_folded_network_answers_as_the_engine_does(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    expected = explainer.engine.predict([picture])[0]
    target = explainer.target(picture)
    assert target.label == expected.label
    assert target.margin == pytest.approx(expected.margin, abs=1e-4)
    assert target.probability == pytest.approx(expected.scores[expected.label], abs=1e-5)


def test_bfloat16_is_offered_only_where_the_engine_uses_it(
    explainer: Explainer, fast_explainer: Explainer
) -> None:
    assert explainer.fast is explainer.exact
    assert dtype_of(fast_explainer.fast) == torch.bfloat16
    assert fast_explainer.fast.fc.weight.dtype == torch.float32
    assert dtype_of(fast_explainer.exact) == torch.float32


def test_predictions_and_explanations_share_their_weights(
    fast_explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    expected = fast_explainer.engine.predict([picture])[0].logits
    fast_explainer.fast.fc.bias.add_(1)
    moved = fast_explainer.engine.predict([picture])[0].logits
    assert moved == pytest.approx([logit + 1 for logit in expected], abs=1e-4)


def test_the_judgement_of_one_picture_is_not_given_to_another(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    first = explainer.target(picture, "cat")
    other = picture[::-1].copy()
    assert explainer.target(other, "cat").margin != first.margin
    # Written over in place, it is another picture too.
    changed = picture.copy()
    explainer.target(changed)
    changed[:] = other
    assert explainer.target(changed, "cat") == explainer.target(other, "cat")
    assert explainer.target(picture, "dog").margin == pytest.approx(-first.margin, abs=1e-5)


def test_chunks_cover_all_in_order_and_are_as_equal_as_can_be(explainer: Explainer) -> None:
    explainer.max_batch = 4
    assert list(explainer.chunks(10, lambda start, stop: (start, stop))) == [(0, 4), (4, 7), (7, 10)]


def test_out_of_memory_halves_the_chunk_for_good(explainer: Explainer) -> None:
    tried = []

    def compute(start: int, stop: int) -> tuple[int, int]:
        tried.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError
        return start, stop

    explainer.max_batch = explainer.max_gradient_batch = 16
    assert list(explainer.chunks(7, compute)) == [(0, 3), (3, 5), (5, 7)]
    assert tried == [7, 3, 2, 2]
    assert explainer.max_batch == 3
    assert explainer.max_gradient_batch == 3


def test_gradients_shrink_without_the_forward_passes(explainer: Explainer) -> None:
    def compute(start: int, stop: int) -> int:
        if stop - start > 2:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")
        return stop

    explainer.max_batch, explainer.max_gradient_batch = 16, 8
    assert list(explainer.chunks(4, compute, gradient=True)) == [2, 4]
    assert (explainer.max_batch, explainer.max_gradient_batch) == (16, 2)


def test_one_picture_that_does_not_fit_is_an_error_of_its_own(explainer: Explainer) -> None:
    def compute(start: int, stop: int) -> None:
        raise MemoryError

    with pytest.raises(DeviceOutOfMemory):
        list(explainer.chunks(4, compute))


def test_other_errors_are_not_taken_for_lack_of_memory(explainer: Explainer) -> None:
    def compute(start: int, stop: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(explainer.chunks(4, compute))
    assert explainer.max_batch > 1


def test_the_gradient_is_that_of_finite_differences(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    explainer.exact = explainer.exact.double()
    x = explainer.tensor(picture).double()
    index = 1
    _, gradient = explainer.value_and_gradient(explainer.exact, x, index)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        ends = explainer.exact(torch.cat([x - step * direction, x + step * direction]))
    margins = ends[:, 1] - ends[:, 0]
    expected = (margins[1] - margins[0]).item() / (2 * step)
    assert (gradient.double() * direction).sum().item() == pytest.approx(expected, rel=1e-3)


def test_values_that_are_not_finite_are_refused(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    explainer.exact.fc.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLogits):
        explainer.target(picture)


def test_provenance_is_json_and_names_the_weights(explainer: Explainer) -> None:
    provenance = json.loads(json.dumps(explainer.provenance(explainer.exact, "a test")))
    assert provenance["weights_sha256"] == explainer.manifest.sha256
    assert provenance["precision"] == "fp32"
    assert provenance["device"] == "cpu"
