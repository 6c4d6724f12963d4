from __future__ import annotations

import pytest
import torch

from core.training.config import Optimiser
from core.training.grow import grow
from core.training.optimise import make_optimiser, put_slots, slots
from core.vision.resnet import ResNet
from tests.core.vision.conftest import randomise


def network() -> ResNet:
    torch.manual_seed(0)
    made = ResNet((1, 1, 2, 1), 3)
    randomise(made)
    return made


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_function_is_unchanged_bit_for_bit(training: bool, memory: torch.memory_format) -> None:
    shallow = network().train(training).to(memory_format=memory)
    deep = grow(shallow, (2, 3, 4, 2), seed=1).to(memory_format=memory)
    assert deep.depths == (2, 3, 4, 2)
    assert deep.training is training
    pictures = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pictures = pictures.contiguous(memory_format=memory)
    with torch.no_grad():
        assert torch.equal(shallow(pictures), deep(pictures))


def test_into_resnet_101() -> None:
    """The network of the service, from the one in which most of the training is done."""
    torch.manual_seed(0)
    shallow = ResNet((2, 2, 2, 2), 2)
    randomise(shallow)
    deep = grow(shallow.eval(), (3, 4, 23, 3), seed=1)
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(shallow(pictures), deep(pictures))


def test_the_new_blocks_learn() -> None:
    """Zero in the last BatchNorm stops the gradient of a block's other weights for the first step only."""
    deep = grow(network().train(), (2, 1, 2, 1), seed=1)
    new = deep.get_submodule("layer1.1")
    optimiser = torch.optim.SGD(deep.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in new.named_parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        deep(torch.randn(4, 3, 64, 64)).square().mean().backward()
        optimiser.step()
    for name, value in new.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_the_global_generator_is_left_alone_and_the_seed_decides() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (grow(network(), (2, 1, 2, 1), seed) for seed in (1, 1, 2))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    name = "layer1.1.conv1.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_the_weights_are_copies() -> None:
    shallow = network()
    deep = grow(shallow, (2, 1, 2, 1), seed=1)
    with torch.no_grad():
        deep.conv1.weight.zero_()
    assert shallow.conv1.weight.abs().sum() > 0


def test_shallower_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot grow"):
        grow(network(), (1, 1, 1, 1), seed=1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimiser_remembers_what_was_there(name: str) -> None:
    settings = Optimiser.model_validate({"name": name})
    shallow = network().train()
    optimiser = make_optimiser(shallow, settings)
    shallow(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimiser.step()
    deep = grow(shallow, (2, 1, 2, 1), seed=1)
    grown = make_optimiser(deep, settings)
    put_slots(grown, deep, slots(optimiser, shallow))
    kept = slots(grown, deep)
    assert kept.keys() == dict(shallow.named_parameters()).keys()
    for parameter, remembered in slots(optimiser, shallow).items():
        for slot, value in remembered.items():
            assert torch.equal(kept[parameter][slot], value)
    # Both kinds of parameters are stepped together.
    deep(torch.randn(2, 3, 64, 64)).square().mean().backward()
    grown.step()
