from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from core.errors import DeviceOutOfMemory, InvalidImage, InvalidWeights
from core.vision import engine as engine_module
from core.vision.engine import Engine, NonFiniteLogits
from core.vision.precision import synthetic_pictures
from core.vision.prediction import ImageEngine

from .conftest import EXAMPLES, SHIPPED


def pictures(count: int, size: int = 64) -> list[NDArray[np.uint8]]:
    return list(synthetic_pictures(count, size, seed=1).numpy())


# ---- the shipped weights


def test_the_example_photos(shipped_engine: Engine) -> None:
    """The weights are a first version: twelve of fourteen, no more is claimed."""
    predictions = shipped_engine.predict([shipped_engine.prepare(path.read_bytes()) for path in EXAMPLES])
    truth = ["cat" if path.name[0].isupper() else "dog" for path in EXAMPLES]
    right = sum(found.label == label for found, label in zip(predictions, truth, strict=True))
    assert len(EXAMPLES) == 14
    assert right >= 12
    for prediction in predictions:
        assert set(prediction.scores) == {"cat", "dog"}
        assert sum(prediction.scores.values()) == pytest.approx(1)
        assert prediction.margin == pytest.approx(abs(prediction.logits[0] - prediction.logits[1]))


def test_logits_equal_an_independent_path_through_torchvision(shipped_engine: Engine) -> None:
    """torchvision's decoder-to-logits, with nothing of this project but the numbers in the manifest."""
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    content = json.loads(SHIPPED.read_text())
    shape = content["input"]
    transform = Compose(
        [Resize(shape["size"]), CenterCrop(shape["size"]), ToTensor(), Normalize(shape["mean"], shape["std"])]
    )
    oracle = torchvision.models.resnet101(num_classes=2)
    state = load_file(SHIPPED.parent / content["weights"])
    oracle.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)

    from PIL import Image

    paths = EXAMPLES[::5]
    inputs = []
    for path in paths:
        with Image.open(path) as image:
            inputs.append(transform(image.convert("RGB")))
    with torch.inference_mode():
        expected = oracle.eval()(torch.stack(inputs))
    found = shipped_engine.logits(np.stack([shipped_engine.prepare(path.read_bytes()) for path in paths]))
    # The crops may differ by a grey level here and there; the networks agree to 1e-4 (test_resnet.py).
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_folded_and_trained_network_agree_on_the_shipped_weights(shipped_engine: Engine) -> None:
    inputs = shipped_engine.normalise(torch.from_numpy(np.stack(pictures(2, 160))))
    with torch.inference_mode():
        torch.testing.assert_close(
            shipped_engine.forward(inputs), shipped_engine.network(inputs), rtol=1e-4, atol=1e-4
        )


# ---- batches


def test_a_pictures_answer_does_not_depend_on_its_neighbours(small_engine: Engine) -> None:
    batch = pictures(7)
    together = small_engine.logits(np.stack(batch))
    for index, picture in enumerate(batch):
        alone = small_engine.logits(picture[None])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-5, atol=1e-5)
    assert together.std(0).min() > 1e-3


def test_order_is_kept_and_any_length_is_served(small_manifest: Path) -> None:
    engine: ImageEngine = Engine(small_manifest, device="cpu", precision="fp32", max_batch=3)
    batch = pictures(8)
    forward = engine.predict(batch)
    backward = engine.predict(batch[::-1])
    for one, other in zip(forward, backward[::-1], strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-5)
    assert engine.predict([]) == []


def test_normalisation_by_hand(small_engine: Engine) -> None:
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[..., 0], picture[..., 2] = 255, 51
    normalised = small_engine.normalise(picture)
    assert normalised.shape == (1, 3, 64, 64)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    expected = torch.tensor([(1 - 0.5) / 0.2, (0 - 0.4) / 0.25, (0.2 - 0.3) / 0.3])
    torch.testing.assert_close(normalised[0, :, 5, 7], expected)


# ---- memory


class Limited:
    """A forward that runs out of memory above ``limit`` pictures, with the words of torch's CPU allocator."""

    def __init__(self, engine: Engine, limit: int) -> None:
        self.forward, self.limit, self.tried = engine.forward, limit, list[int]()

    def __call__(self, batch: Tensor) -> Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.limit:
            torch.empty(1 << 60, dtype=torch.uint8)
        return self.forward(batch)


def test_out_of_memory_halves_the_batch_and_remembers(small_engine: Engine) -> None:
    batch = pictures(19)
    expected = small_engine.predict(batch)
    limited = Limited(small_engine, limit=5)
    small_engine.forward, small_engine.max_batch = limited, 16
    found = small_engine.predict(batch)
    assert limited.tried == [16, 8, 4, 4, 4, 4, 3]
    assert small_engine.max_batch == small_engine.report["max_batch"] == 4
    for one, other in zip(found, expected, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-5)
    small_engine.predict(batch[:8])
    assert limited.tried[7:] == [4, 4]


def test_one_picture_that_does_not_fit_is_an_error_of_its_own(small_engine: Engine) -> None:
    small_engine.forward = Limited(small_engine, limit=0)
    with pytest.raises(DeviceOutOfMemory, match="One picture alone"):
        small_engine.predict(pictures(3))


def test_other_errors_of_the_device_are_not_taken_for_want_of_memory(small_engine: Engine) -> None:
    def broken(batch: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    small_engine.forward = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        small_engine.predict(pictures(2))


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (1 << 50, 16), (6 * 2 * 2 * 4 * 256 * 16**2 * 4, 6)])
def test_the_largest_batch_follows_free_memory(
    free: int, expected: int, small_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "free_memory", lambda device: free)
    assert Engine(small_manifest, device="cpu", precision="fp32").max_batch == expected


# ---- precision


def test_bfloat16_is_close_to_float32_and_the_report_says_how_close(
    small_manifest: Path, small_engine: Engine
) -> None:
    engine = Engine(small_manifest, device="cpu", precision="bf16")
    assert engine.report["precision"] == "bf16"
    assert engine.report["check"]["pictures"] == 8
    assert engine.report["check"]["passed"]
    assert json.loads(json.dumps(engine.report)) == engine.report
    exact, rounded = (e.logits(np.stack(pictures(4))) for e in (small_engine, engine))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1  # not 0: it was bfloat16
    assert engine.network.conv1.weight.dtype == torch.float32


def test_a_second_start_remembers_the_check_and_answers_the_same(
    small_manifest: Path, tmp_path: Path
) -> None:
    first, second = (Engine(small_manifest, device="cpu", precision="bf16", cache=tmp_path) for _ in range(2))
    assert first.report["check"]["remembered"] is False
    assert second.report["check"] == first.report["check"] | {"remembered": True}
    batch = np.stack(pictures(3))
    assert torch.equal(first.logits(batch), second.logits(batch))
    other = Engine(small_manifest, device="cpu", precision="fp32", cache=tmp_path)
    assert (other.report["precision"], other.report["check"]) == ("fp32", None)


def test_auto_takes_bfloat16_where_it_is_fast_and_passes(
    small_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "fast_bfloat16", lambda device: (True, "fast here"))
    engine = Engine(small_manifest, device="cpu")
    assert (engine.report["precision"], engine.report["why"]) == ("bf16", "fast here; the check passes")

    monkeypatch.setattr(engine_module, "compare", lambda *_: {"passed": False, "max_margin_error": 1.0})
    engine = Engine(small_manifest, device="cpu")
    assert engine.report["precision"] == "fp32"
    assert "check against float32 fails" in engine.report["why"]
    assert engine.report["check"]["max_margin_error"] == 1.0

    monkeypatch.setattr(engine_module, "fast_bfloat16", lambda device: (False, "slow here"))
    engine = Engine(small_manifest, device="cpu")
    assert (engine.report["precision"], engine.report["why"]) == ("fp32", "slow here")


def test_a_batch_that_is_not_finite_is_computed_again_in_float32(small_engine: Engine) -> None:
    batch = pictures(3)
    expected = small_engine.predict(batch)
    forward = small_engine.forward
    small_engine.forward = lambda inputs: forward(inputs) / torch.tensor([1.0, 0.0, 1.0])
    for one, other in zip(small_engine.predict(batch), expected, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-4)


def test_only_the_pictures_without_a_finite_answer_are_computed_again(
    small_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pictures(7)
    expected = small_engine.predict(batch)
    forward, network, again = small_engine.forward, small_engine.network, list[int]()

    def loses_every_second(inputs: Tensor) -> Tensor:
        logits = forward(inputs)
        logits[1::2, 0] = torch.nan
        return logits

    def counted(inputs: Tensor) -> Tensor:
        again.append(len(inputs))
        return network(inputs)  # type: ignore[no-any-return]

    small_engine.forward, small_engine.max_batch = loses_every_second, 4
    monkeypatch.setattr(small_engine, "network", counted)
    for one, other in zip(small_engine.predict(batch), expected, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-4)
    assert again == [3]  # the second and fourth of the first part, the second of the last


def test_without_a_finite_answer_there_is_an_error(small_engine: Engine) -> None:
    small_engine.forward = lambda inputs: torch.full((len(inputs), 3), torch.nan)
    small_engine.network.fc.weight.fill_(torch.inf)
    with pytest.raises(NonFiniteLogits):
        small_engine.predict(pictures(1))


# ---- the rest of the contract


def test_prepare_refuses_what_is_no_picture(small_engine: Engine, small_manifest: Path) -> None:
    assert small_engine.prepare(EXAMPLES[0].read_bytes()).shape == (64, 64, 3)
    with pytest.raises(InvalidImage):
        small_engine.prepare(EXAMPLES[0].read_bytes()[:1000])
    strict = Engine(small_manifest, device="cpu", precision="fp32", max_pixels=1000)
    with pytest.raises(InvalidImage, match="pixels"):
        strict.prepare(EXAMPLES[0].read_bytes())


def test_the_network_is_ready_for_gradients_by_the_picture(small_engine: Engine) -> None:
    inputs = small_engine.normalise(torch.from_numpy(np.stack(pictures(1)))).requires_grad_(True)
    logits = small_engine.network(inputs)
    (gradient,) = torch.autograd.grad(logits[0, 0], inputs)
    assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in small_engine.network.parameters())


def test_arguments_that_cannot_be(small_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16"):
        Engine(small_manifest, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(InvalidWeights):
        Engine(tmp_path / "none.json")


def test_threads_are_left_alone_unless_asked(small_manifest: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert Engine(small_manifest, device="cpu", precision="fp32").report["threads"] == before
        assert Engine(small_manifest, device="cpu", precision="fp32", threads=1).report["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(small_manifest: Path, small_engine: Engine) -> None:
    batch = np.stack(pictures(9))
    exact = Engine(small_manifest, device="cuda", precision="fp32")
    torch.testing.assert_close(exact.logits(batch).cpu(), small_engine.logits(batch), rtol=1e-4, atol=1e-4)
    fast = Engine(small_manifest, device="cuda")
    assert fast.report["check"] is None or fast.report["check"]["passed"]
    torch.testing.assert_close(fast.logits(batch).cpu(), small_engine.logits(batch), rtol=0, atol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_keeps_pictures_apart_while_the_next_are_copied(
    small_manifest: Path, small_engine: Engine
) -> None:
    batch = np.stack(pictures(64))
    engine = Engine(small_manifest, device="cuda", precision="fp32", max_batch=4)
    expected = small_engine.logits(batch)
    for _ in range(5):
        torch.testing.assert_close(engine.logits(batch).cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # the compiler uses what torch itself calls deprecated
def test_cuda_compiles(small_manifest: Path, small_engine: Engine, tmp_path: Path) -> None:
    engine = Engine(small_manifest, device="cuda", cache=tmp_path)
    engine.compile_in_background().join()
    assert engine.report["compile"]["state"] == "used", engine.report
    for count in (1, 2, 9):
        batch = np.stack(pictures(count))
        torch.testing.assert_close(engine.logits(batch).cpu(), small_engine.logits(batch), rtol=0, atol=0.1)
