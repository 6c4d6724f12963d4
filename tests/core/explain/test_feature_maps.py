from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from core.explain import feature_maps
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation
from core.explain.options import FeatureMapsOptions

from .conftest import Canceled, assert_clean


def run(
    explainer: Explainer,
    picture: NDArray[np.uint8],
    by: Literal["activation", "contribution"] = "activation",
    channels: int = 12,
) -> Explanation:
    options = FeatureMapsOptions(by=by, channels=channels)
    return feature_maps.explain(explainer, picture, explainer.target(picture), options)


def truncated(explainer: Explainer, stages: int) -> nn.Sequential:
    """The network as trained, BatchNorm and all, up to the end of a stage."""
    network = explainer.original
    stem = nn.Sequential(network.conv1, network.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, *[network.get_submodule(f"layer{n + 1}") for n in range(stages)])


@pytest.mark.parametrize("by", ["activation", "contribution"])
def test_maps_are_those_of_a_truncated_network(
    explainer: Explainer, picture: NDArray[np.uint8], by: Literal["activation", "contribution"]
) -> None:
    found = run(explainer, picture, by)
    assert [layer.name for layer in found.layers] == ["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    assert found.attribution is None
    with torch.no_grad():
        for stages, layer in enumerate(found.layers):
            expected = truncated(explainer, stages)(explainer.tensor(picture))[0, list(layer.channels)]
            assert layer.values.shape == expected.shape
            np.testing.assert_allclose(layer.values, expected.numpy(), atol=1e-4)


def test_the_channels_with_the_highest_mean_come_first(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    layer = run(explainer, picture, channels=64).layers[0]
    means = layer.values.mean((1, 2))
    assert np.all(np.diff(means) <= 1e-6)
    assert sorted(layer.channels) == list(range(64))


def test_the_last_contributions_are_those_of_the_classifier(
    explainer: Explainer, picture: NDArray[np.uint8]
) -> None:
    layer = run(explainer, picture, "contribution", channels=5).layers[-1]
    index = explainer.target(picture).index
    with torch.no_grad():
        means = truncated(explainer, 4)(explainer.tensor(picture))[0].mean((1, 2))
    weight = explainer.original.fc.weight[index] - explainer.original.fc.weight[1 - index]
    expected = torch.topk(weight * means, 5).indices.tolist()
    assert list(layer.channels) == expected


def test_dead_channels_are_flagged_and_stay_zero(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    assert explainer.exact.conv1.bias is not None
    explainer.exact.conv1.weight[9] = 0
    explainer.exact.conv1.bias[9] = -1
    layer = run(explainer, picture, channels=64).layers[0]
    assert 9 in layer.dead
    assert not layer.values[layer.channels.index(9)].any()
    for channel in layer.dead:
        assert not layer.values[layer.channels.index(channel)].any()
    # All that respond come before all that do not.
    assert set(layer.channels[-len(layer.dead) :]) == set(layer.dead)


def test_a_canceled_run_leaves_nothing_behind(explainer: Explainer, picture: NDArray[np.uint8]) -> None:
    def progress(done: int, total: int, partial: object) -> None:
        raise Canceled

    target = explainer.target(picture)
    with pytest.raises(Canceled):
        feature_maps.explain(explainer, picture, target, FeatureMapsOptions(by="contribution"), progress)
    assert_clean(explainer)
