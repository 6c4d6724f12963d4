from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.vision.backward import value_and_gradient
from core.vision.folding import fold_batchnorm
from core.vision.resnet import ResNet
from tests.benchmarks.work import work_of
from tests.machine import needs_fused_bfloat16


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, "fp32"), pytest.param(torch.bfloat16, "bf16", marks=needs_fused_bfloat16)],
)
def test_fused_and_mirrored_convolutions_count_as_much_as_plain_ones(
    dtype: torch.dtype, precision: str
) -> None:
    network = ResNet((2, 1, 1, 1)).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    folded = fold_batchnorm(network, dtype)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def of_first_class(logits: Tensor) -> Tensor:
        return logits[:, 0]

    def by_autograd() -> None:
        pictures = x.clone().requires_grad_(True)
        torch.autograd.grad(of_first_class(network(pictures)).sum(), pictures)

    with torch.no_grad():
        plain, fused = work_of(lambda: network(x)), work_of(lambda: folded(x.to(dtype)))
    assert (
        abs(fused[precision, "forward"] / plain["fp32", "forward"] - 1) < 0.001
    )  # the classifier is float32
    whole, by_hand = (
        work_of(by_autograd),
        work_of(lambda: value_and_gradient(folded, x.to(dtype), of_first_class)),
    )
    assert abs(by_hand[precision, "gradient"] / whole["fp32", "gradient"] - 1) < 0.001
    assert abs(by_hand[precision, "forward"] / whole["fp32", "forward"] - 1) < 0.001


def test_what_inference_mode_hands_on_whole_is_counted_too() -> None:
    network, x = ResNet((1, 1, 1, 1)).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        recorded = work_of(lambda: network(x))
    with torch.inference_mode():
        assert work_of(lambda: network(x)) == recorded
    assert recorded["fp32", "forward"] > 1e8
