from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core.vision.precision import MAX_MARGIN_ERROR, compare, fast_bfloat16, margins, synthetic_pictures


def test_synthetic_pictures_are_deterministic_smooth_and_different() -> None:
    pictures = synthetic_pictures(4, 96)
    assert pictures.shape == (4, 96, 96, 3)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, synthetic_pictures(4, 96))
    assert not torch.equal(pictures[0], pictures[1])
    values = pictures.float()
    neighbours = (values[:, 1:] - values[:, :-1]).abs().mean()
    assert neighbours < values.std() / 3
    assert values.std() > 30


def test_margins_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    torch.testing.assert_close(margins(logits, torch.tensor([1, 0])), torch.tensor([2.0, -2.0]))
    three = torch.tensor([[2.0, 1.0, 1.0]])
    torch.testing.assert_close(margins(three, torch.tensor([0])), torch.tensor([1.0 - math.log(2)]))


def logits_of(pictures: Tensor) -> Tensor:
    """Margins 0.1, 2.1, 4.1, ... for class 1."""
    margin = 2 * torch.arange(len(pictures)) + 0.1
    return torch.stack([torch.zeros(len(pictures)), margin], dim=1)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (0.0, True),
        (MAX_MARGIN_ERROR - 0.01, True),  # the label of the undecided picture changes
        (MAX_MARGIN_ERROR + 0.01, False),
        (math.nan, False),
        (math.inf, False),
    ],
)
def test_the_check_passes_up_to_its_bound(error: float, passes: bool) -> None:
    def candidate(pictures: Tensor) -> Tensor:
        return logits_of(pictures) - torch.tensor([0.0, error])

    check = compare(logits_of, candidate, torch.zeros(4, 3, 2, 2))
    assert check["passed"] is passes
    assert check["pictures"] == 4
    assert check["decided"] == 3
    if error == MAX_MARGIN_ERROR - 0.01:
        assert check["max_margin_error"] == pytest.approx(error, abs=1e-4)
        assert check["labels_equal"] == 3


@pytest.mark.parametrize(
    ("features", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True, "amx_bf16": False}, True), ({"avx2": True}, False)],
)
def test_bfloat16_is_for_hardware_that_has_it(
    features: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert fast_bfloat16(torch.device("cpu"))[0] is fast
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6) if fast else (7, 5))
    assert fast_bfloat16(torch.device("cuda"))[0] is fast
    assert not fast_bfloat16(torch.device("mps"))[0]
