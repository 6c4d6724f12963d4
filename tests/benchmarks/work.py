"""How much arithmetic something is, and how fast this machine can do arithmetic at all."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from tests.benchmarks.report import Times

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SIDE = 2048
_FUSED = (torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_)


class Work(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products, forward and backward, by
    (precision, "forward" or "gradient"). A multiplication and an addition are two."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in _FUSED:
            # In inference mode operators such as conv2d come whole, as a composite of those that are counted.
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if packet in _FUSED:  # those of core.vision.folding
            # (x, weight, bias, ...), (x, other, weight, bias, ...), in place (other, x, weight, bias, ...)
            x = args[1 if packet is torch.ops.mkldnn._convolution_pointwise_ else 0]
            weight, bias = args[2:4] if func._overloadname == "binary" else args[1:3]
            # Folded convolutions have a bias. Without one it is the way back, a convolution mirrored.
            phase = "gradient" if bias is None else "forward"
            self._add(x, phase, conv_flop_count(list(x.shape), weight.shape, out.shape))
        elif (count := flop_registry.get(packet)) is not None:
            phase = "gradient" if "backward" in packet.__name__ else "forward"
            first = next(tensor for tensor in args if isinstance(tensor, torch.Tensor))
            self._add(first, phase, count(*args, **(kwargs or {}), out_val=out))
        return out

    def _add(self, first: torch.Tensor, phase: str, count: int) -> None:
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        self.flops[names[first.dtype], phase] += count


def work_of(run: Callable[[], Any]) -> Counter[tuple[str, str]]:
    """Of one run: (precision, phase) -> floating-point operations."""
    with Work() as work:
        run()
    flops: Counter[tuple[str, str]] = work.flops
    return flops


class Peak:
    """The rate of a large matrix product in each precision, taken once a round: nothing that this machine
    computes with the same library can be much faster. On a GPU float32 is without TF32, as in the engine."""

    def __init__(self, device: torch.device) -> None:
        self._side = _SIDE if device.type == "cpu" else 4 * _SIDE
        self._times = {name: Times() for name in PRECISIONS}
        factor = torch.randn(self._side, self._side)
        self._factors = {name: factor.to(device, dtype) for name, dtype in PRECISIONS.items()}

    def take(self) -> None:
        for name, factor in self._factors.items():
            for _ in range(4):  # the first of a round also wakes the processor
                self._times[name].take(functools.partial(_product, factor))

    def rate(self, precision: str) -> float:
        """Floating-point operations a second."""
        return 2 * self._side**3 / self._times[precision].least

    def seconds(self, flops: Counter[tuple[str, str]]) -> float:
        """What so much work takes at the peak of its precision."""
        return sum(count / self.rate(precision) for (precision, _), count in flops.items())


def _product(factor: torch.Tensor) -> None:
    torch.mm(factor, factor)[0, 0].item()  # which waits for the device
