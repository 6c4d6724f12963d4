from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import InvalidImage
from core.measure.network import Rate, best, checks, from_bytes, noisy_jpeg, rates
from core.vision.engine import Engine
from core.vision.memory import is_out_of_memory


def found(engine: Engine) -> dict[str, bool]:
    return {check.name: check.passed for check in checks(engine)}


def test_a_sound_engine_passes(engine: Engine) -> None:
    assert found(engine) == {"forward against float32": True, "alone against in a batch": True}


def test_a_forward_that_is_off_fails(engine: Engine) -> None:
    right = engine.forward
    engine.forward = lambda pictures: right(pictures) + torch.tensor([0.3, 0.0])
    assert not found(engine)["forward against float32"]


def test_an_answer_that_depends_on_the_others_of_its_batch_fails(engine: Engine) -> None:
    right = engine.forward

    def mixed(pictures: Tensor) -> Tensor:
        logits = right(pictures)
        return logits + len(logits) * torch.tensor([0.1, 0.0])

    engine.forward = mixed
    assert not found(engine)["alone against in a batch"]


def test_nan_fails(engine: Engine) -> None:
    right = engine.network.forward
    engine.forward = lambda pictures: right(pictures) * float("nan")
    assert not found(engine)["forward against float32"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_of_a_gpu_is_compared_with_the_cpu_s(manifest: Any) -> None:
    assert found(Engine(manifest, device="cuda"))["float32 against the CPU's"]


def test_rates_of_the_powers_of_two(engine: Engine) -> None:
    before = engine.max_batch
    taken = rates(engine, 6, rounds=2, seconds=0.0)
    assert [rate.batch for rate in taken] == [1, 2, 4]
    for rate in taken:
        assert 0 < rate.lowest <= rate.median <= rate.pictures_per_second
        assert rate.milliseconds == pytest.approx(1000 * rate.batch / rate.pictures_per_second)
    assert engine.max_batch == before


def test_the_rate_is_pictures_by_seconds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only the network moves: a batch of N takes 1 + N seconds."""
    now = 0.0
    right = engine.logits

    def logits(batch: NDArray[np.uint8]) -> Tensor:
        nonlocal now
        now += 1 + len(batch)
        return right(batch)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(engine, "logits", logits)
    taken = {rate.batch: rate.pictures_per_second for rate in rates(engine, 4, rounds=1, seconds=7)}
    assert taken == pytest.approx({1: 1 / 2, 2: 2 / 3, 4: 4 / 5})


def test_it_ends_with_the_largest_batch_that_fits(engine: Engine) -> None:
    right = engine.forward

    def small(pictures: Tensor) -> Tensor:
        if len(pictures) > 2:
            error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
            assert is_out_of_memory(error)
            raise error
        return right(pictures)

    engine.forward = small
    assert [rate.batch for rate in rates(engine, 16, rounds=1, seconds=0.0)] == [1, 2]
    assert engine.max_batch == 2


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [({1: 10.0, 2: 20.0, 4: 40.0}, 4), ({1: 10.0, 2: 39.0, 4: 40.0}, 2), ({1: 40.0, 2: 39.0}, 1)],
)
def test_the_best_batch_is_the_smallest_of_the_fastest(speeds: dict[int, float], chosen: int) -> None:
    assert best([Rate(batch, speed, speed, speed) for batch, speed in speeds.items()]).batch == chosen


def test_from_bytes_knows_the_share_of_decoding(engine: Engine) -> None:
    measured = from_bytes(engine, None, 2, cores=2, rounds=2, seconds=0.0)
    assert measured.photo.startswith("JPEG, 1280 x 960, ")
    assert 0 < measured.decode_share < 1
    assert measured.decode_milliseconds > 0
    assert measured.pictures_per_second > 0


def test_a_photo_that_is_none_is_refused(engine: Engine) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    with pytest.raises(InvalidImage):
        from_bytes(engine, stream.getvalue()[:-40], 1, cores=1, rounds=1, seconds=0.0)


def test_the_jpeg_of_noise_is_as_large_as_a_photo() -> None:
    data = noisy_jpeg()
    bits_per_pixel = 8 * len(data) / (1280 * 960)
    assert 1 < bits_per_pixel < 4
    assert data == noisy_jpeg()
