"""Weights in files: read, written, and converted from other layouts.

Weights are safetensors, which cannot carry code, pinned by the SHA-256 in their manifest. Torch's own files
are read by the converter alone, and with ``weights_only=True``.

    python -m core.vision.checkpoint convert IN --layout original --out weights/mine.json --labels cat,dog
"""

from __future__ import annotations

import argparse
import hashlib
import math
import pickle
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from core.errors import InvalidWeights, PawlensError
from core.files import replacing
from core.vision.manifest import (
    ARCHITECTURES,
    InputFormat,
    Manifest,
    ModelCard,
    StrideOn,
    read_manifest,
    write_manifest,
)
from core.vision.resnet import ResNet
from core.vision.threads import one_thread

StateDict = dict[str, Tensor]

# BatchNorm's count of batches seen, without meaning once the training is over.
_COUNTER = "num_batches_tracked"


def load_checkpoint(
    manifest_path: str | Path, *, memory_format: torch.memory_format = torch.preserve_format
) -> tuple[ResNet, Manifest]:
    """The network in float32, evaluation mode, on the CPU, and its manifest.

    ``memory_format`` is that of the convolutions' weights.

    Raises InvalidWeights if a file is missing or damaged, if the SHA-256 is another one, or if a tensor is
    missing, unknown or of another shape.
    """
    manifest = read_manifest(manifest_path)
    path = Path(manifest_path).parent / manifest.weights
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidWeights(f"The weights {path} cannot be read ({error.strerror}).") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest.sha256:
        raise InvalidWeights(
            f"The weights {path} have the SHA-256 {digest}, but their manifest expects {manifest.sha256}."
        )
    try:
        state = load(data)
    except SafetensorError as error:
        raise InvalidWeights(f"The weights {path} are no safetensors file: {error}") from error
    return build_network(state, manifest, memory_format=memory_format), manifest


def save_checkpoint(
    network: ResNet, manifest_path: str | Path, card: ModelCard, *, dtype: torch.dtype = torch.float16
) -> Manifest:
    """Write the weights beside ``manifest_path``, with its name and ".safetensors", then the manifest.

    ``dtype`` is the type of the file; float16 halves it. Raises InvalidWeights if the card does not describe
    this network, or if a weight is not finite in that type.
    """
    manifest_path = Path(manifest_path)
    described = (ARCHITECTURES[card.architecture], len(card.labels), card.stride_on)
    if described != (network.depths, network.num_classes, network.stride_on):
        raise InvalidWeights(
            f"The card describes (depths, classes, stride on) {described}; the network has "
            f"{(network.depths, network.num_classes, network.stride_on)}."
        )
    state = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    _check_finite(state)
    data = save(state)
    manifest = Manifest(
        **card.model_dump(),
        weights=manifest_path.with_suffix(".safetensors").name,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    # A reader between the two finds a wrong SHA-256, never half a file.
    with replacing(manifest_path.parent / manifest.weights) as unfinished:
        unfinished.write_bytes(data)
    write_manifest(manifest, manifest_path)
    return manifest


@one_thread()
def build_network(
    state: Mapping[str, Tensor],
    card: ModelCard,
    *,
    memory_format: torch.memory_format = torch.preserve_format,
) -> ResNet:
    """The network that ``card`` describes, with the tensors of ``state`` in float32; strict.

    Tensors that have this type and ``memory_format`` already are not copied: the network shares them with
    ``state``.
    """
    # No memory and no time for initial values that would be overwritten.
    with torch.device("meta"), _NothingDrawn():
        network = ResNet(ARCHITECTURES[card.architecture], len(card.labels), stride_on=card.stride_on)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        raise InvalidWeights(
            f"The weights do not fit {card.architecture} with {len(card.labels)} classes. "
            + " ".join(f"{len(names)} {what}: {_some(names)}." for what, names in problems.items() if names)
        )
    tensors = {
        name: torch.zeros((), dtype=torch.long)
        if name.endswith(_COUNTER)
        else _in_float32(state[name], memory_format)
        for name in expected
    }
    _check_finite(tensors)
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval()


def convert_original(state: Mapping[str, Tensor]) -> StateDict:
    """From the layout of the project that this one follows: ``layer2`` to ``layer5``, and ``shortcut``.

    It strides on the first 1x1 convolution, which no tensor shows: its card says ``stride_on="first_1x1"``.
    """
    renamed = {}
    for original, tensor in state.items():
        name = re.sub(r"^layer([2-5])\.", lambda stage: f"layer{int(stage[1]) - 1}.", original)
        renamed[name.replace(".shortcut.", ".downsample.")] = tensor
    return renamed


def convert_torchvision(state: Mapping[str, Tensor]) -> StateDict:
    """From torchvision's ResNets with bottleneck blocks, whose names and stride are this project's own."""
    return dict(state)


def read_foreign(path: Path) -> StateDict:
    """Tensors from a safetensors file or a torch file, bare or under "model", "state_dict" and the like."""
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InvalidWeights(f"{path} cannot be read as weights: {error}") from error
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InvalidWeights(f"{path} holds no state dict.")
    # torch.nn.DataParallel puts "module." before every name.
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


class _NothingDrawn(TorchFunctionMode):
    """Leaves random initial values out.

    Drawing them on the meta device imports torch's decompositions and sympy: a second, and 130 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def _in_float32(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    # In one step: a type first and a memory format then would fill twice the memory.
    return tensor.to(
        torch.float32, memory_format=memory_format if tensor.dim() == 4 else torch.preserve_format
    )


def _check_finite(state: Mapping[str, Tensor]) -> None:
    if broken := [name for name, tensor in state.items() if not _is_finite(tensor)]:
        raise InvalidWeights(f"{len(broken)} tensors have values that are not finite: {_some(broken)}.")


def _is_finite(tensor: Tensor) -> bool:
    # Infinity is one of the two extremes, and nan, where there is one, is both. isfinite() would first write
    # its answer for each number.
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m core.vision.checkpoint", description=__doc__)
    convert = parser.add_subparsers(required=True).add_parser(
        "convert", help="convert weights of another layout"
    )
    convert.add_argument("source", type=Path, metavar="IN", help="a .pth, .pt or .safetensors file")
    convert.add_argument("--layout", choices=("original", "torchvision"), required=True)
    convert.add_argument("--out", type=Path, required=True, help="the manifest to write, weights/NAME.json")
    convert.add_argument("--labels", required=True, help="class names in the order of the logits: cat,dog")
    convert.add_argument("--architecture", choices=tuple(ARCHITECTURES), default="resnet101")
    convert.add_argument("--size", type=int, default=224, help="input size in pixels (default: 224)")
    convert.add_argument(
        "--resize-scale", type=float, default=1.14, help="shorter side / size (default: 1.14)"
    )
    convert.add_argument("--mean", type=float, nargs=3, default=(0.4829, 0.4449, 0.3957))
    convert.add_argument("--std", type=float, nargs=3, default=(0.2592, 0.2533, 0.2598))
    options = parser.parse_args(arguments)

    stride_on: StrideOn = "first_1x1" if options.layout == "original" else "3x3"
    converter = convert_original if options.layout == "original" else convert_torchvision
    card = ModelCard(
        name=options.out.stem,
        version="1",
        architecture=options.architecture,
        stride_on=stride_on,
        labels=tuple(options.labels.split(",")),
        input=InputFormat(
            size=options.size, resize_scale=options.resize_scale, mean=options.mean, std=options.std
        ),
        created=datetime.now(UTC).date().isoformat(),
        provenance=f"Converted from {options.source.name}, layout {options.layout}.",
    )
    try:
        network = build_network(converter(read_foreign(options.source)), card)
        manifest = save_checkpoint(network, options.out, card, dtype=torch.float32)
    except PawlensError as error:
        parser.exit(1, f"{error.detail}\n")
    print(f"Wrote {options.out} and {manifest.weights}, SHA-256 {manifest.sha256}")


if __name__ == "__main__":
    main()
