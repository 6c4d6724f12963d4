from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.explain import kernels
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation
from core.explain.options import KernelsOptions


def run(explainer: Explainer, picture: NDArray[np.uint8], count: int = 12) -> Explanation:
    return kernels.explain(explainer, picture, explainer.target(picture), KernelsOptions(kernels=count))


def test_the_first_kernels_are_the_trained_ones_in_colour(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    first = run(explainer, picture).layers[0]
    weights = explainer.original.conv1.weight.numpy()
    assert first.name == "conv1"
    assert first.values.shape == (12, 3, 7, 7)
    np.testing.assert_array_equal(first.values, weights[list(first.channels)])
    norms = np.linalg.norm(weights.reshape(64, -1), axis=1)
    assert set(first.channels) == set(np.argsort(norms)[-12:].tolist())
    assert np.all(np.diff(norms[list(first.channels)]) <= 0)


def test_deeper_layers_show_the_strongest_slice_of_each_kernel(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    found = run(explainer, picture, 5)
    names = [layer.name for layer in found.layers]
    assert names == ["conv1", *(f"layer{stage}.0.conv2" for stage in (1, 2, 3, 4))]
    for layer in found.layers[1:]:
        weights = explainer.original.get_parameter(f"{layer.name}.weight").numpy()
        norms = np.linalg.norm(weights, axis=(2, 3))
        pairs = found.provenance["slices"][layer.name]
        assert layer.values.shape == (5, 3, 3)
        assert list(layer.channels) == [output for output, _ in pairs]
        for values, (output, source) in zip(layer.values, pairs, strict=True):
            np.testing.assert_array_equal(values, weights[output, source])
            assert norms[output, source] == norms[output].max()
        assert norms[layer.channels[0]].max() == norms.max()


def test_they_depend_on_the_weights_alone(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    one, other = run(explainer, picture), run(explainer, 255 - picture)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.channels == b.channels
        np.testing.assert_array_equal(a.values, b.values)
    assert one.attribution is None


def test_zero_kernels_come_last_and_stay_zero(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    explainer.original.conv1.weight[3] = 0
    first = run(explainer, picture, 64).layers[0]
    assert first.channels[-1] == 3
    assert not first.values[-1].any()
    assert kernels.strongest(np.zeros((4, 3, 3), np.float32), 3) == (0, 1, 2)
