from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from core.errors import InvalidWeights
from core.vision.checkpoint import build_network, load_checkpoint, main, save_checkpoint
from core.vision.resnet import ResNet

from .conftest import EXAMPLES, REPOSITORY, SHIPPED, randomise, small_card


class OriginalBlock(nn.Module):
    """The bottleneck of the original project: stride on the first 1x1, ``shortcut``; written apart."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width * 4:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width * 4, 1, stride, bias=False), nn.BatchNorm2d(width * 4)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class OriginalResNet101(nn.Module):
    def __init__(self, depths: tuple[int, ...], num_classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=2):
            blocks = []
            for index in range(depth):
                blocks.append(OriginalBlock(inputs, width, 2 if number > 2 and index == 0 else 1))
                inputs = width * 4
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in (2, 3, 4, 5):
            x = getattr(self, f"layer{number}")(x)
        logits: Tensor = self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_original_layout_converts(wrapped: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = OriginalResNet101((2, 2, 2, 2))
    randomise(original)
    state = original.eval().state_dict()
    content = (
        {"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state
    )
    torch.save(content, tmp_path / "best.pth")
    out = tmp_path / "weights" / "converted.json"
    main(["convert", str(tmp_path / "best.pth"), "--layout", "original", "--architecture", "resnet26",
          "--out", str(out), "--labels", "cat,dog"])  # fmt: skip
    network, manifest = load_checkpoint(out)
    assert manifest.labels == ("cat", "dog")
    assert manifest.stride_on == "first_1x1"
    assert (manifest.input.size, manifest.input.resize_scale) == (224, 1.14)
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(pictures), original(pictures), rtol=1e-4, atol=1e-4)


def test_the_torchvision_layout_converts(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = TorchvisionResNet(Bottleneck, [2, 2, 2, 2], num_classes=3)
    randomise(original)
    save_file(original.state_dict(), tmp_path / "in.safetensors")
    out = tmp_path / "converted.json"
    main(["convert", str(tmp_path / "in.safetensors"), "--layout", "torchvision",
          "--architecture", "resnet26", "--out", str(out), "--labels", "a,b,c"])  # fmt: skip
    network, _ = load_checkpoint(out)
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(pictures), original.eval()(pictures), rtol=1e-4, atol=1e-4)


def test_the_wrong_layout_is_refused_with_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(OriginalResNet101((1, 1, 1, 1)).state_dict(), tmp_path / "best.pth")
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(tmp_path / "best.pth"), "--layout", "torchvision", "--architecture", "resnet14",
              "--out", str(tmp_path / "out.json"), "--labels", "cat,dog"])  # fmt: skip
    assert stopped.value.code == 1
    assert "missing: layer1.0.conv1.weight, " in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a checkpoint ran",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Exploit()}, tmp_path / "evil.pth")
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "evil.pth"), "--layout", "torchvision",
              "--out", str(tmp_path / "out.json"), "--labels", "cat,dog"])  # fmt: skip
    captured = capsys.readouterr()
    assert "cannot be read as weights" in captured.err
    assert "code from a checkpoint ran" not in captured.out


def test_what_is_saved_loads_again(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = ResNet((1, 1, 1, 1), 3).eval()
    randomise(network)
    for dtype, tolerance in ((torch.float32, 0.0), (torch.float16, 1e-3)):
        path = tmp_path / f"{dtype}.json"
        written = save_checkpoint(network, path, small_card(), dtype=dtype)
        again, manifest = load_checkpoint(path)
        assert manifest == written
        assert not again.training
        for name, parameter in again.named_parameters():
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter, network.get_parameter(name), rtol=tolerance, atol=tolerance)


def test_a_card_of_another_network_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidWeights, match="describes"):
        save_checkpoint(ResNet((1, 1, 1, 1), 2), tmp_path / "a.json", small_card())
    network = ResNet((1, 1, 1, 1), 3)
    with torch.no_grad():
        network.fc.bias[0] = 1e6  # beyond float16
    with pytest.raises(InvalidWeights, match=r"fc\.bias"):
        save_checkpoint(network, tmp_path / "a.json", small_card())
    assert list(tmp_path.iterdir()) == []


def test_damaged_weights_are_refused(small_manifest: Path, tmp_path: Path) -> None:
    for file in small_manifest.parent.iterdir():
        shutil.copy(file, tmp_path)
    manifest, weights = tmp_path / "small.json", tmp_path / "small.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InvalidWeights, match="SHA-256"):
        load_checkpoint(manifest)
    weights.unlink()
    with pytest.raises(InvalidWeights, match="cannot be read"):
        load_checkpoint(manifest)


def test_a_file_of_another_kind_is_refused(small_manifest: Path, tmp_path: Path) -> None:
    content = json.loads(small_manifest.read_text())
    (tmp_path / "small.safetensors").write_bytes(b"")
    content["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes
    (tmp_path / "small.json").write_text(json.dumps(content))
    with pytest.raises(InvalidWeights, match="no safetensors file"):
        load_checkpoint(tmp_path / "small.json")


def test_tensors_that_do_not_fit_are_named(small_manifest: Path) -> None:
    state = load_file(small_manifest.with_suffix(".safetensors"))
    state["fc.weight"] = torch.zeros(5, 2048)
    state["extra"] = torch.zeros(1)
    del state["layer1.0.conv1.weight"]
    with pytest.raises(InvalidWeights) as refused:
        build_network(state, small_card())
    assert "1 missing: layer1.0.conv1.weight" in refused.value.detail
    assert "1 unexpected: extra" in refused.value.detail
    assert "fc.weight [5, 2048] instead of [3, 2048]" in refused.value.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float, small_manifest: Path) -> None:
    state = load_file(small_manifest.with_suffix(".safetensors"))
    state["layer3.0.conv2.weight"][5, 7, 1, 2] = value
    with pytest.raises(InvalidWeights, match=r"1 tensors .* not finite: layer3\.0\.conv2\.weight"):
        build_network(state, small_card())


def test_a_weight_beyond_float32_is_refused(small_manifest: Path) -> None:
    state = load_file(small_manifest.with_suffix(".safetensors"))
    state["fc.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    with pytest.raises(InvalidWeights, match=r"fc\.bias"):
        build_network(state, small_card())


def test_weights_are_laid_out_as_asked(small_manifest: Path) -> None:
    plain, _ = load_checkpoint(small_manifest)
    last, _ = load_checkpoint(small_manifest, memory_format=torch.channels_last)
    kernel, other = plain.layer1[0].conv2.weight, last.layer1[0].conv2.weight
    assert kernel.is_contiguous()
    assert not other.is_contiguous()
    assert other.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name]), name


def test_loading_and_explaining_import_nothing_that_takes_seconds(small_manifest: Path) -> None:
    """sympy comes with torch's tracing, which initial values on the meta device and torchvision call for."""
    program = (
        "import sys\n"
        "from core.explain.run import NetworkExplainer\n"
        "from core.vision.engine import Engine\n"
        "engine = Engine(sys.argv[1], device='cpu', precision='bf16')\n"
        "NetworkExplainer(engine)\n"
        "engine.predict([engine.prepare(open(sys.argv[2], 'rb').read())])\n"
        "heavy = {'sympy', 'torchvision', 'torch._dynamo', 'torch._inductor', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program, str(small_manifest), str(EXAMPLES[0])]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, check=True).stdout
    assert printed == "[]\n"


def test_the_shipped_weights_are_resnet101() -> None:
    state = load_file(SHIPPED.with_suffix(".safetensors"))
    assert all(tensor.dtype == torch.float16 for tensor in state.values())
    oracle = torchvision.models.resnet101(num_classes=2)
    missing, unexpected = oracle.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
