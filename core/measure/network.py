"""How fast one engine is, and whether it answers what float32 answers.

A rate is of the whole way that a worker goes: pixels to the device, normalisation, network, logits back.
"""

from __future__ import annotations

import copy
import functools
import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.vision.engine import Engine
from core.vision.precision import MAX_MARGIN_ERROR, Forward, compare, margins, synthetic_pictures

# Log-odds between float32 on two devices. Sums in another order make 1e-4; TF32, with 10 bits of mantissa,
# makes some 1e-2 and must not pass for float32.
MAX_DEVICE_ERROR = 5e-3
_CHECKED = 16
# A batch within 3 % of the fastest is as good, and lets its pictures wait for less.
_AS_FAST = 0.97
_PHOTO = (1280, 960)


@dataclass(frozen=True)
class Check:
    """Something that must hold. ``detail`` says what was found, whether it holds or not."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Rate:
    """Pictures a second at one size of batch: in the fastest round, since disturbances only slow down, in the
    median of the rounds, and in the slowest."""

    batch: int
    pictures_per_second: float
    median: float
    lowest: float

    @property
    def milliseconds(self) -> float:
        """What the whole batch takes."""
        return 1000 * self.batch / self.pictures_per_second


@dataclass(frozen=True)
class FromBytes:
    """From a file's bytes to logits at the best batch: all are decoded, then computed, nothing overlapped.

    decode_milliseconds: of one picture, on one core. cores: how many decoded side by side. decode_share: of
    the whole time.
    """

    photo: str
    cores: int
    decode_milliseconds: float
    pictures_per_second: float
    decode_share: float


def checks(engine: Engine) -> list[Check]:
    """Compare what predictions use with float32, float32 with the CPU's, and a picture alone with itself
    among others. Needs some seconds on a CPU."""
    pixels = synthetic_pictures(_CHECKED, engine.manifest.input.size, seed=1)
    pictures = engine.normalise(pixels)
    found = [_compared("forward against float32", engine.network, engine.forward, pictures, MAX_MARGIN_ERROR)]
    if engine.device.type != "cpu":
        network = copy.deepcopy(engine.network).cpu()

        def on_the_cpu(batch: Tensor) -> Tensor:
            answer: Tensor = network(batch.cpu())
            return answer.to(engine.device)

        name = "float32 against the CPU's"
        found.append(_compared(name, on_the_cpu, engine.network, pictures, MAX_DEVICE_ERROR))
    return [*found, _alone_and_together(engine, pixels)]


def _compared(name: str, reference: Forward, candidate: Forward, pictures: Tensor, bound: float) -> Check:
    found = compare(reference, candidate, pictures)
    error = found["max_margin_error"]
    labels = f"{found['labels_equal']} of {found['pictures']} labels equal"
    detail = f"log-odds differ by {error:.2g} at most, {bound:g} allowed; {labels}"
    return Check(name, found["passed"] and error <= bound, detail)


def _alone_and_together(engine: Engine, pixels: Tensor) -> Check:
    """A job's answer must not depend on who shares its batch."""
    together = engine.logits(pixels.numpy())
    alone = torch.cat([engine.logits(pixels[index : index + 1].numpy()) for index in range(len(pixels))])
    labels = together.argmax(1)
    error = float((margins(alone, labels) - margins(together, labels)).abs().max())
    detail = f"log-odds differ by {error:.2g} at most, {MAX_MARGIN_ERROR:g} allowed"
    return Check("alone against in a batch", error <= MAX_MARGIN_ERROR, detail)


def rates(engine: Engine, largest: int, *, rounds: int, seconds: float) -> list[Rate]:
    """Pictures a second at 1, 2, 4, ... ``largest`` a batch, each for about ``seconds`` in each round.

    The sizes take turns, so that a machine that slows down in between slows all of them. It ends with the
    largest that fits into memory.
    """
    pictures = synthetic_pictures(largest, engine.manifest.input.size, seed=2).numpy()
    before, engine.max_batch = engine.max_batch, largest
    taken: dict[int, list[float]] = {}
    for size in (2**power for power in range(largest.bit_length())):
        engine.logits(pictures[:size])  # allocates, chooses algorithms, compiles
        if engine.max_batch < size:
            break
        taken[size] = []
    for _ in range(rounds):
        for size, found in taken.items():
            run = functools.partial(_answered, engine, pictures[:size])
            found.append(_rate(run, size, seconds))
    if engine.max_batch == largest:  # all fitted
        engine.max_batch = before
    return [Rate(size, max(found), statistics.median(found), min(found)) for size, found in taken.items()]


def _answered(engine: Engine, pictures: NDArray[np.uint8]) -> Tensor:
    return engine.logits(pictures).cpu()  # which waits for the device


def _rate(run: Callable[[], object], pictures: int, seconds: float) -> float:
    started, done = time.perf_counter(), 0
    while True:
        run()
        done += pictures
        if (elapsed := time.perf_counter() - started) >= seconds:
            return done / elapsed


def best(found: Sequence[Rate]) -> Rate:
    """The smallest batch that is as fast as any."""
    fastest = max(rate.pictures_per_second for rate in found)
    return next(rate for rate in found if rate.pictures_per_second >= _AS_FAST * fastest)


def from_bytes(
    engine: Engine, photo: bytes | None, batch: int, *, cores: int, rounds: int, seconds: float
) -> FromBytes:
    """In the fastest round. ``photo``: a file's bytes; by default a JPEG of 1280 x 960 pixels of noise."""
    data = photo or noisy_jpeg()
    with Image.open(io.BytesIO(data)) as image:
        described = f"{image.format}, {image.width} x {image.height}, {len(data) // 1000} kB"
    decode_rate = max(_rate(lambda: engine.prepare(data), 1, seconds) for _ in range(rounds))
    decoding = 0.0

    def run() -> None:
        nonlocal decoding
        started = time.perf_counter()
        prepared: list[NDArray[np.uint8]] = list(pool.map(engine.prepare, [data] * batch))
        decoding += time.perf_counter() - started
        _answered(engine, np.stack(prepared))

    with ThreadPoolExecutor(cores) as pool:
        run()
        found = []
        for _ in range(rounds):
            decoding, started = 0.0, time.perf_counter()
            rate = _rate(run, batch, seconds)
            found.append((rate, decoding / (time.perf_counter() - started)))
    rate, share = max(found)
    return FromBytes(described, cores, 1000 / decode_rate, rate, share)


def noisy_jpeg() -> bytes:
    """As large as a photo of its size at quality 90."""
    width, height = _PHOTO
    pixels = synthetic_pictures(1, width, seed=4)[0, :height].numpy().astype(np.float32)
    pixels += np.random.default_rng(4).normal(0, 8, pixels.shape)  # grain, as of a camera
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
