from __future__ import annotations

import torch
from torch import Tensor

from core.vision.backward import value_and_gradient
from core.vision.folding import fold_batchnorm
from core.vision.resnet import ResNet
from tests.benchmarks.work import work_of


def test_fused_and_mirrored_convolutions_count_as_much_as_plain_ones() -> None:
    network = ResNet((2, 1, 1, 1)).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    folded = fold_batchnorm(network, torch.bfloat16)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def of_first_class(logits: Tensor) -> Tensor:
        return logits[:, 0]

    def by_autograd() -> None:
        pictures = x.clone().requires_grad_(True)
        torch.autograd.grad(of_first_class(network(pictures)).sum(), pictures)

    with torch.no_grad():
        plain, fused = work_of(lambda: network(x)), work_of(lambda: folded(x.bfloat16()))
    assert abs(fused["bf16", "forward"] / plain["fp32", "forward"] - 1) < 0.001  # the classifier is float32
    whole, by_hand = (
        work_of(by_autograd),
        work_of(lambda: value_and_gradient(folded, x.bfloat16(), of_first_class)),
    )
    assert abs(by_hand["bf16", "gradient"] / whole["fp32", "gradient"] - 1) < 0.001
    assert abs(by_hand["bf16", "forward"] / whole["fp32", "forward"] - 1) < 0.001
