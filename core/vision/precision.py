"""Whether bfloat16 may be used: where the hardware is fast at it, and where it gives these weights' answers.

bfloat16 keeps 8 bits of a number: logits between 4 and 8 would come in steps of 0.03. It is up to four times
faster, but that it is harmless is a property of the weights. So it is measured on them, on the machine that
uses it; :mod:`core.vision.verdicts` says when that need not be done again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

Forward = Callable[[Tensor], Tensor]

# Log-odds. At 0.25 a score of 0.9 may become 0.875 or 0.92; a picture whose margin is smaller than this bound
# was undecided anyway, and its label may change.
MAX_MARGIN_ERROR = 0.25


def fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether ``device`` multiplies bfloat16 faster than float32, and by what feature."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"CUDA compute capability {major}.{minor}, tensor cores from 8.0 on"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        for feature in ("amx_bf16", "avx512_bf16"):
            if features.get(feature):
                return True, f"CPU with {feature}"
        return False, "CPU with neither amx_bf16 nor avx512_bf16"
    return False, f"{device.type}: float32 only"


def synthetic_pictures(count: int, size: int, *, seed: int = 0) -> Tensor:
    """uint8 [count, size, size, 3]: coloured noise, smooth at several scales, as photographs are (power falls
    with frequency). No photograph is needed, and any weights can be checked."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(count, 3, size, size)
    for cells in (3, 6, 12, 24, 48):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        picture += F.interpolate(noise, size=(size, size), mode="bicubic") * (3 / cells) ** 0.5
    return (128 + 50 * picture).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds [N] of class ``labels`` [N]: its logit less the logsumexp of the others'."""
    chosen = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return chosen - others.logsumexp(1)


def compare(reference: Forward, candidate: Forward, pictures: Tensor) -> dict[str, Any]:
    """How far ``candidate`` is from ``reference`` on normalised ``pictures`` [N, 3, H, W].

    It passes if no log-odds differ by more than MAX_MARGIN_ERROR, and all pictures that the reference is
    decided on keep their label. It serves for any faster forward, also for a compiled one.
    """
    with torch.inference_mode():
        expected, found = reference(pictures).float(), candidate(pictures).float()
    labels = expected.argmax(1)
    expected_margins = margins(expected, labels)
    errors = (margins(found, labels) - expected_margins).abs()
    decided = expected_margins > MAX_MARGIN_ERROR
    agree = found.argmax(1) == labels
    # A comparison with nan is false, so that a candidate that is not finite fails.
    passed = bool((errors <= MAX_MARGIN_ERROR).all()) and bool(agree[decided].all())
    return {
        "passed": passed,
        "pictures": len(pictures),
        "max_margin_error": round(float(errors.max()), 5),
        "mean_margin_error": round(float(errors.mean()), 5),
        "bound": MAX_MARGIN_ERROR,
        "labels_equal": int(agree.sum()),
        "decided": int(decided.sum()),
    }
