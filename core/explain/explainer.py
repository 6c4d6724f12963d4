"""The network made ready to be asked why; made once for each worker, and shared by all methods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import DeviceOutOfMemory
from core.explain.baselines import baseline_picture
from core.explain.explanation import Target
from core.explain.options import Baseline
from core.explain.target import choose_target, log_odds
from core.vision.backward import value_and_gradient
from core.vision.engine import Engine, NonFiniteLogits
from core.vision.folding import FoldedResNet, fold_batchnorm, fusible
from core.vision.memory import is_out_of_memory
from core.vision.resnet import ResNet

log = logging.getLogger(__name__)

T = TypeVar("T")

# More pictures at once are no faster, and progress and cancellation wait for a whole chunk. An H100 takes 16
# in the time that it takes to be told what to do, 5 ms, and 64 in 9.
_LARGEST_CHUNK = {"cpu": 16, "mps": 16, "cuda": 64}
# A gradient keeps every activation of its pictures until the backward pass: at 224 pixels some 100 MB each in
# float32. Four keep a worker on the CPU within its memory at no loss of speed.
_LARGEST_GRADIENT_CHUNK = {"cpu": 4, "mps": 16, "cuda": 16}


class Explainer:
    """Networks, pictures and chunks for the methods. One thread at a time may use it.

    exact: float32, BatchNorm folded. It defines what is right; every certificate is measured with it.
    fast: bfloat16 where the engine found that fast and harmless for predictions, else ``exact`` itself.
        A method that uses it certifies its own result and falls back to ``exact``.
    fast_gradients: of ``fast`` and ``exact``, the one with which a method that needs gradients begins.
    original: the float32 network with BatchNorm, whose first kernels are those that were trained.

    Methods differentiate by inputs and outputs of the network's own functions. No hook is ever set and all
    parameters stay frozen, so that nothing has to be restored after an exception.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.manifest = engine.manifest
        self.device = engine.device
        self.size = engine.manifest.input.size
        self.original: ResNet = engine.network
        # The network that predicts, and no copy of it: that would be 85 to 170 MB for nothing.
        self.fast = engine.folded
        self.exact = self.fast
        if engine.report["precision"] != "fp32":
            self.exact = fold_batchnorm(engine.network)
        # Of the few pictures whose gradients are wanted at once a GPU makes short work in any precision: four
        # of 224 pixels took an H100 15 ms in float32 and 13 in bfloat16, which often was in vain.
        self.fast_gradients = self.exact if self.device.type == "cuda" else self.fast
        self._judged: tuple[NDArray[np.uint8], Tensor] | None = None
        self.max_batch = min(_LARGEST_CHUNK.get(self.device.type, 16), engine.max_batch)
        self.max_gradient_batch = min(self.max_batch, _LARGEST_GRADIENT_CHUNK.get(self.device.type, 4))

    def tensor(self, picture: NDArray[np.uint8]) -> Tensor:
        """uint8 [S, S, 3] -> normalised float32 [1, 3, S, S] on the device."""
        # A copy: torch warns of arrays that it could not write to, and those from a cache may be read-only.
        return self.engine.normalise(torch.from_numpy(picture.copy())[None])

    def baseline(self, name: Baseline, picture: Tensor) -> Tensor:
        """The baseline of a normalised picture, [1, 3, S, S]; see :mod:`core.explain.baselines`."""
        statistics = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in self._normal)
        return baseline_picture(name, picture, *statistics)

    @property
    def _normal(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        return self.manifest.input.mean, self.manifest.input.std

    def target(self, picture: NDArray[np.uint8], label: str | None = None) -> Target:
        """The class to explain, by default the predicted one, judged in float32.

        Raises InvalidRequest if there is no class ``label``.
        """
        # A job asks once for each method, always of the same picture.
        if self._judged is None or not np.array_equal(self._judged[0], picture):
            self._judged = picture.copy(), self.logits(self.exact, self.tensor(picture))
        logits = self._judged[1]
        return choose_target(logits, self.manifest.labels, self.manifest.temperature, label)

    def logits(self, network: ResNet, pictures: Tensor) -> Tensor:
        """Normalised [N, 3, S, S] -> finite float32 [N, classes], in chunks that fit."""

        @torch.inference_mode()
        def compute(start: int, stop: int) -> Tensor:
            return finite(network(pictures[start:stop].to(dtype_of(network))).float())

        return torch.cat(list(self.chunks(len(pictures), compute)))

    def value_and_gradient(self, network: ResNet, pictures: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Log-odds of class ``index`` [N] and their gradient by the pictures [N, 3, S, S], both float32.

        For one chunk, of ``max_gradient_batch`` pictures at most.
        """
        inputs = pictures.detach().to(dtype_of(network), memory_format=torch.channels_last, copy=True)
        with torch.no_grad():
            by_hand = isinstance(network, FoldedResNet) and fusible(inputs)
        if by_hand:
            values, gradient = value_and_gradient(
                cast(FoldedResNet, network), inputs, lambda logits: log_odds(logits, index)
            )
        else:
            with torch.enable_grad():
                values = log_odds(network(inputs.requires_grad_(True)).float(), index)
                (gradient,) = torch.autograd.grad(values.sum(), inputs)
        return finite(values.detach()), finite(gradient.float())

    def chunks(self, total: int, compute: Callable[[int, int], T], *, gradient: bool = False) -> Iterator[T]:
        """``compute(start, stop)`` for 0 to ``total`` in chunks; where memory runs out, in smaller ones.

        What did not fit once will not fit the next time: the smaller size is kept for all that follow.
        Raises DeviceOutOfMemory if not even one fits.
        """
        start = 0
        while start < total:
            largest = self.max_gradient_batch if gradient else self.max_batch
            # As equal as can be: a last chunk of one picture takes far more than its share of the time.
            remaining = -(-(total - start) // largest)
            stop = start + -(-(total - start) // remaining)
            try:
                result = compute(start, stop)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                yield result
                start = stop
                continue
            # Outside of "except", where the traceback no longer keeps the failed chunk's tensors alive.
            self._shrink(stop - start, gradient)

    def _shrink(self, tried: int, gradient: bool) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        if tried == 1:
            raise DeviceOutOfMemory(f"One picture alone does not fit into the memory of {self.device}.")
        if gradient:
            self.max_gradient_batch = tried // 2
        else:
            self.max_batch = tried // 2
            self.max_gradient_batch = min(self.max_gradient_batch, self.max_batch)
        log.warning("out of memory with %d pictures; trying %d", tried, tried // 2)

    def provenance(self, network: ResNet, why: str) -> dict[str, Any]:
        """What every method says about how it was computed; JSON-able."""
        return {
            "explains": "log-odds: the class's logit less the logsumexp of the others",
            "precision": "fp32" if dtype_of(network) == torch.float32 else "bf16",
            "why": why,
            "device": str(self.device),
            "model": self.manifest.name,
            "model_version": self.manifest.version,
            "weights_sha256": self.manifest.sha256,
            "seed": None,  # nothing here is random
        }


def dtype_of(network: ResNet) -> torch.dtype:
    """The type of the convolutions; the classifier is float32 in any case."""
    return network.conv1.weight.dtype


def finite(values: Tensor) -> Tensor:
    """``values``, or NonFiniteLogits if one of them is infinite or nan."""
    if not torch.isfinite(values).all():
        raise NonFiniteLogits("The network's answer or its gradient is not finite.")
    return values
