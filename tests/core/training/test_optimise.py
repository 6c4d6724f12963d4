from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.training.config import Configuration, Optimiser, Schedule
from core.training.optimise import (
    autocast,
    choose_precision,
    gradient_scaler,
    learning_rate,
    make_optimiser,
    start_average,
    update_average,
)
from core.vision.resnet import ResNet


def test_the_learning_rate_warms_up_and_falls_to_its_end() -> None:
    schedule = Schedule(warmup=0.1, final=0.02)
    rates = [learning_rate(step, 100, 0.5, schedule) for step in range(100)]
    assert max(rates) == rates[10] == pytest.approx(0.5)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0.01)


def test_it_is_torchs_cosine() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=19, eta_min=0.003)
    for step in range(20):
        rate = learning_rate(step, 20, 0.3, Schedule(warmup=0, final=0.01))
        assert rate == pytest.approx(expected.get_last_lr()[0])
        optimiser.step()
        expected.step()


def test_a_stage_of_one_step_has_a_rate() -> None:
    assert learning_rate(0, 1, 0.1, Schedule()) > 0


def test_only_weights_of_convolutions_and_classifier_decay() -> None:
    network = ResNet((1, 1, 1, 1), 2)
    optimiser = make_optimiser(network, Optimiser(weight_decay=0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            decays = "conv" in name or name in ("fc.weight",) or name.endswith("downsample.0.weight")
            assert (group["weight_decay"] == 0.1) is decays, name
    assert not names


def test_the_average_is_torchs_once_it_is_warm() -> None:
    torch.manual_seed(0)
    network = ResNet((1, 1, 1, 1), 2).train()
    average = start_average(network)
    torch_average = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
    expected = AveragedModel(network, multi_avg_fn=torch_average, use_buffers=True)
    expected.update_parameters(network)  # the first call copies
    for step in range(100, 103):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(2, 3, 32, 32))  # moves BatchNorm's statistics
        update_average(average, network, step, 0.9)
        expected.update_parameters(network)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected.module.state_dict()[name], msg=name)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert not average.training


def test_the_first_steps_of_a_stage_forget_its_beginning() -> None:
    network = ResNet((1, 1, 1, 1), 2)
    average = start_average(network)
    with torch.no_grad():
        network.fc.bias.fill_(1.0)
        average.fc.bias.fill_(0.0)
    update_average(average, network, 0, 0.999)
    assert average.fc.bias[0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("wanted", "features", "found"),
    [
        ("auto", {"amx_bf16": True}, "bf16"),
        ("auto", {}, "fp32"),
        ("fp32", {"amx_bf16": True}, "fp32"),
        ("bf16", {}, "bf16"),
    ],
)
def test_precision(
    wanted: str, features: dict[str, bool], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    config = Configuration.model_validate(
        {
            "experiment": {"name": "p"},
            "data": {"source": "generated"},
            "precision": wanted,
            "stages": [{"depths": [1, 1, 1, 1], "size": 32, "epochs": 1}],
        }
    )
    precision = choose_precision(config, torch.device("cpu"))
    assert precision == found
    with autocast(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if found == "bf16" else torch.float32)
    assert not gradient_scaler(precision, torch.device("cpu")).is_enabled()
