"""How weights change: optimiser, learning rate, precision, and the average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.training.config import Configuration, Optimiser, Schedule
from core.vision.precision import fast_bfloat16
from core.vision.resnet import ResNet

Precision = Literal["fp32", "bf16", "fp16"]
Slots = dict[str, dict[str, Tensor]]
"""An optimiser's state by the names of the parameters, which outlive growing; torch numbers them instead."""


def make_optimiser(network: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """AdamW (Loshchilov, Hutter, 2017, https://arxiv.org/abs/1711.05101) or SGD with Nesterov's momentum.

    Weights of convolutions and of the classifier decay; what shifts or scales (BatchNorm, biases) does not.
    """
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # The learning rate is set before every step.
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=True)
    momentum = settings.momentum
    # Not the fused one: it cannot step blocks without momentum together with others that have some.
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def slots(optimiser: torch.optim.Optimizer, network: nn.Module) -> Slots:
    """What ``optimiser`` remembers of each parameter of ``network``, under the parameter's name."""
    return {
        name: dict(optimiser.state[parameter])
        for name, parameter in network.named_parameters()
        if parameter in optimiser.state
    }


def put_slots(optimiser: torch.optim.Optimizer, network: nn.Module, remembered: Slots) -> None:
    """The reverse; parameters that nothing is remembered of begin afresh."""
    for name, parameter in network.named_parameters():
        if name in remembered:
            optimiser.state[parameter] = {
                slot: value.to(parameter.device) for slot, value in remembered[name].items()
            }


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Of step 0 to ``steps`` - 1 of a stage: a linear warm-up, then half a cosine from ``peak`` down
    (Loshchilov, Hutter, 2016, https://arxiv.org/abs/1608.03983)."""
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * min(1, progress))) / 2)


def choose_precision(config: Configuration, device: torch.device) -> Precision:
    """The type in which convolutions are computed under autocast; weights and their updates stay float32."""
    if config.precision != "auto":
        return config.precision
    if fast_bfloat16(device)[0]:
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """https://docs.pytorch.org/docs/stable/amp.html"""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Only float16 needs one: small gradients would become zero in it. Otherwise it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def start_average(network: ResNet) -> ResNet:
    """A copy of the network, to be moved along by :func:`update_average`; it is never trained itself."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: ResNet, network: ResNet, step: int, decay: float) -> None:
    """Exponential moving average of weights and BatchNorm statistics (Polyak, Juditsky, 1992).

    In the first of the stage's steps the decay is smaller, so that the values it began with are forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    old, new = average.state_dict(), network.state_dict()
    moving = [name for name, value in old.items() if value.is_floating_point()]
    torch._foreach_lerp_([old[name] for name in moving], [new[name] for name in moving], 1 - decay)
    for name in old.keys() - set(moving):
        old[name].copy_(new[name])
