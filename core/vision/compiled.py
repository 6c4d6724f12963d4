"""The folded network, compiled by torch.compile while the worker already answers without it.

Compiling takes from seconds, with what an earlier process has left in the cache, to minutes, and needs a C++
compiler for a CPU and Triton for a GPU. Nothing waits for it, and whatever goes wrong with it costs nothing
but the gain: predictions go on as before, and the engine's report says why.

It is meant for GPUs, where it joins additions and ReLUs to one kernel. On a CPU :mod:`core.vision.folding`
has joined them already: measured with AVX512-BF16, at 1 to 16 pictures, the two were equally fast.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.vision.folding import FoldedResNet
from core.vision.precision import Forward

log = logging.getLogger(__name__)

Check = Callable[[Forward], dict[str, Any]]


def compile_network(network: FoldedResNet, pictures: Tensor, cache: Path | None) -> Forward:
    """``network`` compiled: normalised float32 pictures [N, 3, H, W] -> logits, for any N, in inference mode.

    ``pictures`` show their size, device and memory format, in inference mode and at least two of them. Other
    sizes are computed without the compiled network: it is compiled here or not at all, never while somebody
    waits for an answer.

    What the compiler makes is kept in ``cache``. It is code that later processes run, so that the folder must
    be this user's alone.

    Raises whatever the compiler does.
    """
    if cache is not None:
        # An environment variable is the compiler's only setting for it. It reads it when it is first used.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    dtype = network.conv1.weight.dtype
    # Freezing lets oneDNN keep the weights of a CPU's network in its own order.
    on_cpu = pictures.device.type == "cpu"
    run = torch.compile(network, fullgraph=True, options={"freezing": True} if on_cpu else None)

    with torch.inference_mode():
        several = pictures.to(dtype, copy=True)
        torch._dynamo.mark_dynamic(several, 0)
        run(several)
        run(pictures[:1].to(dtype, copy=True))  # the compiler takes a single picture for another program
        with torch.compiler.set_stance("fail_on_recompile"):
            for count in (1, 2, len(pictures)):
                run(pictures[:count].to(dtype, copy=True))

    def forward(pictures: Tensor) -> Tensor:
        with torch.compiler.set_stance("eager_on_recompile"):
            logits: Tensor = run(pictures.to(dtype))
        return logits

    return forward


def attempt(compile_: Callable[[], Forward], check: Check) -> tuple[Forward | None, dict[str, Any]]:
    """A compiled forward that ``check`` has passed, or None, and what is to be said of it; never raises."""
    started = time.monotonic()
    try:
        forward = compile_()
        found = check(forward)
    except Exception as error:
        # From a missing compiler to a bug in it: the list is open, the answer is one.
        log.warning("the network cannot be compiled", exc_info=True)
        reason = str(error).strip().partition("\n")[0][:300]
        return None, {"state": "refused", "why": f"it cannot be compiled: {type(error).__name__}: {reason}"}
    said = {"check": found, "seconds": round(time.monotonic() - started, 1)}
    if not found["passed"]:
        return None, {"state": "refused", "why": "the check against float32 fails", **said}
    return forward, {"state": "used", "why": "compiled, and the check passes", **said}
