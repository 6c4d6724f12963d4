"""The network at work: pictures in, predictions out, as fast as the device allows and as exact as promised.

What was decided at load (device, precision, why, how large a batch) stands in ``engine.report``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import DeviceFailed, DeviceOutOfMemory, PawlensError
from core.vision.checkpoint import load_checkpoint
from core.vision.compiled import attempt, compile_network
from core.vision.folding import FoldedResNet, fold_batchnorm
from core.vision.images import MAX_PIXELS
from core.vision.memory import free_memory, is_out_of_memory
from core.vision.precision import Forward, compare, fast_bfloat16, synthetic_pictures
from core.vision.prediction import Prediction
from core.vision.preprocessing import Preprocessing
from core.vision.resnet import ResNet
from core.vision.verdicts import Verdicts

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16"]

# Throughput no longer grows beyond these, and latency does.
_LARGEST_BATCH = {"cuda": 64, "mps": 16, "cpu": 16}


class NonFiniteLogits(PawlensError):
    """The network answered with infinity or nan, in float32 too."""

    code, title = "non_finite_logits", "No finite answer"


class Engine:
    """An :class:`~core.vision.prediction.ImageEngine` around the weights of one manifest.

    ``network`` is the float32 network as it was trained, BatchNorm and all, on ``device``: for explanations.
    ``folded`` is the same without BatchNorm, its convolutions in float32 or bfloat16.
    ``forward`` is what predictions use, normalised pictures [N, 3, size, size] -> logits [N, classes]; at
    first ``folded``. It may be replaced, for instance by a compiled network, once
    :func:`core.vision.precision.compare` has passed it.
    ``cache`` is an existing folder, this user's alone, for what makes the next start faster; without one,
    nothing is kept.

    Raises InvalidWeights if the weights cannot be loaded, and ValueError for an unknown device or precision.
    """

    def __init__(
        self,
        manifest_path: str | Path,
        device: str = "auto",
        precision: Precision = "auto",
        max_batch: int | None = None,
        *,
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        cache: Path | None = None,
    ) -> None:
        started = time.monotonic()
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision must be auto, fp32 or bf16, not {precision!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(_best_device() if device == "auto" else device)
        if self.device.type == "cuda":
            # float32 shall mean float32: cuDNN's default for convolutions is TF32, with 10 bits of mantissa.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]

        network, self.manifest = load_checkpoint(manifest_path, memory_format=torch.channels_last)
        network.requires_grad_(False)  # explanations differentiate by pictures, never by weights
        self.network: ResNet = network.to(self.device)
        self.preprocessing = Preprocessing(self.manifest.input)
        self.max_pixels = max_pixels
        self._copies: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(self.manifest.input.mean, device=self.device).view(shape) * 255
        self._std = torch.tensor(self.manifest.input.std, device=self.device).view(shape) * 255

        self._cache = cache
        self._verdicts = Verdicts(cache, self.manifest, self.device)
        self.folded, decision = self._fold(precision)
        self.forward: Forward = _in_its_type(self.folded)
        self.max_batch = max_batch or self._batch_that_fits()
        self.report: dict[str, Any] = {
            "device": str(self.device),
            "device_name": _device_name(self.device),
            **decision,
            "max_batch": self.max_batch,
            "threads": torch.get_num_threads(),
            "load_seconds": round(time.monotonic() - started, 3),
        }
        log.info("engine ready: %s", self.report)

    def compile_in_background(self) -> threading.Thread:
        """Compile ``folded`` in the thread that is returned, and change to it once it is checked.

        Until then, and if that fails, predictions go on without; ``report["compile"]`` says how it stands.
        Call it when nothing else is left to load: the compiled code keeps the number of threads it finds.
        """
        self.report["compile"] = {"state": "compiling", "why": "meanwhile it answers without"}
        # A daemon: a worker that is told to stop does not wait for a compiler.
        thread = threading.Thread(target=self._compile, name="compile", daemon=True)
        thread.start()
        return thread

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """A picture's bytes -> uint8 [size, size, 3]. Raises InvalidImage or UnsupportedMediaType."""
        return self.preprocessing.read(data, max_pixels=self.max_pixels)

    def predict(self, batch: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """One prediction for each prepared picture, in order; a batch of any length.

        Raises DeviceOutOfMemory if one picture alone is too large, NonFiniteLogits if there is no answer.
        """
        if not batch:
            return []
        logits = self.logits(np.stack(batch)).cpu().numpy()
        return [Prediction.from_logits(row, self.manifest) for row in logits]

    @torch.inference_mode()
    def logits(self, batch: NDArray[np.uint8]) -> Tensor:
        """uint8 [N, size, size, 3] -> float32 [N, classes] on ``device``; raises as :meth:`predict`."""
        if not len(batch):
            return torch.empty(0, len(self.manifest.labels), device=self.device)
        try:
            logits = self._in_parts(self.forward, batch)
            # The first look at a number: until here a GPU computes while this thread hands it the next part.
            lost = ~torch.isfinite(logits).all(1)
            if lost.any():
                log.warning("logits are not finite; computing %d pictures again in float32", lost.sum())
                logits[lost] = self._in_parts(self.network, batch[lost.cpu().numpy()])
                if not torch.isfinite(logits).all():
                    raise NonFiniteLogits("The network's answer is not finite; its weights may be damaged.")
        except torch.AcceleratorError as error:
            # CUDA reports it late and for good: every later call in this process fails as well.
            raise DeviceFailed(f"{self.device} failed and its process must be left.") from error
        return logits

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] on any device -> float32 [N, 3, H, W] on ``device``, channels last in memory."""
        # Bytes travel, floats are made on the device: a quarter of the copy.
        pixels = batch.to(self.device).permute(0, 3, 1, 2).float()
        return (pixels - self._mean) / self._std

    def _in_parts(self, forward: Forward, batch: NDArray[np.uint8]) -> Tensor:
        """Logits of at least one picture, in parts that fit into memory; they may not be finite."""
        done: list[Tensor] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + self.max_batch]
            try:
                done.append(forward(self.normalise(self._upload(part))))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of "except", where the traceback no longer keeps the failed forward's tensors alive.
            self._shrink(len(part))
        return torch.cat(done)

    def _upload(self, part: NDArray[np.uint8]) -> Tensor:
        """``part`` on the device. To a GPU it is copied while the part before it is still being computed."""
        pictures = torch.from_numpy(part)
        if self._copies is None:
            return pictures.to(self.device)
        # Only pinned memory is copied without the processor waiting. PyTorch keeps it for later batches, and
        # gives it to none before the copy is done.
        with torch.cuda.stream(self._copies):
            there = pictures.pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        # Nor may what lies on the device be given away before the network has read it.
        there.record_stream(computing)
        return there

    def _shrink(self, tried: int) -> None:
        """Halve the largest batch, for good: what did not fit once will not fit the next time."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        if tried == 1:
            raise DeviceOutOfMemory(f"One picture alone does not fit into the memory of {self.device}.")
        self.max_batch = self.report["max_batch"] = tried // 2
        log.warning("out of memory with %d pictures; the largest batch is now %d", tried, self.max_batch)

    def _fold(self, precision: Precision) -> tuple[FoldedResNet, dict[str, Any]]:
        fast, why = fast_bfloat16(self.device)
        if precision == "fp32" or (precision == "auto" and not fast):
            why = "as asked" if precision == "fp32" else why
            return fold_batchnorm(self.network), {"precision": "fp32", "why": why, "check": None}

        folded = fold_batchnorm(self.network, torch.bfloat16)
        check = self._verdicts.of("bf16", lambda: self._compare(_in_its_type(folded)))
        if precision == "auto" and not check["passed"]:
            why += "; but the check against float32 fails with these weights"
            return fold_batchnorm(self.network), {"precision": "fp32", "why": why, "check": check}
        why = f"{why}; the check passes" if precision == "auto" else "as asked"
        return folded, {"precision": "bf16", "why": why, "check": check}

    @torch.inference_mode()
    def _pictures_to_check(self) -> Tensor:
        return self.normalise(synthetic_pictures(8, self.manifest.input.size))

    def _compare(self, forward: Forward) -> dict[str, Any]:
        return compare(self.network, forward, self._pictures_to_check())

    def _compile(self) -> None:
        forward, said = attempt(
            lambda: compile_network(self.folded, self._pictures_to_check(), self._cache), self._compare
        )
        if forward is not None:
            self.forward = forward
        self.report["compile"] = said
        log.info("compiling the network: %s", said)

    def _batch_that_fits(self) -> int:
        """From free memory, with half of it left to others, and from what a batch needs at its widest.

        That is in the first stage: four tensors alive of 256 channels at a quarter of the resolution, in
        float32, and as much again for the convolution's own workspace.
        """
        bytes_per_picture = 2 * 4 * 256 * (self.manifest.input.size // 4) ** 2 * 4
        fitting = free_memory(self.device) // 2 // bytes_per_picture
        return max(1, min(fitting, _LARGEST_BATCH.get(self.device.type, 16)))


def _in_its_type(network: ResNet) -> Forward:
    """float32 pictures -> logits, of a network whose convolutions may be of another type."""
    return lambda pictures: network(pictures.to(network.conv1.weight.dtype))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name", "")) if device.type == "cpu" else device.type
