"""Remembering that a faster forward answers what float32 answers, so that a worker starts sooner.

The check of :mod:`core.vision.precision` costs more than all the rest of loading. Its outcome depends on the
weights, the code, the libraries and the machine, and on nothing else. So a check that passed is written down
with all of these, and holds as long as every one of them is the same. A check that failed is never written
down: it is rare, and worth another look. Whatever is wrong with the file, it is as if there was none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from core.files import replacing
from core.vision.manifest import Manifest
from core.vision.precision import MAX_MARGIN_ERROR

log = logging.getLogger(__name__)

# A new one at each start of the kernel: another machine with the same data directory, a copied one, and this
# one after its hardware, microcode or drivers were changed, all have another.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Variables by which the libraries choose their algorithms.
_ALGORITHMS = ("ATEN_", "CUBLAS_", "CUDA_", "CUDNN_", "DNNL_", "MKL_", "NVIDIA_", "ONEDNN_", "TORCH")


class Verdicts:
    """What is known of one network on one device. Nothing is remembered without a ``folder``, nor where the
    machine cannot be told from others (where there is no Linux)."""

    def __init__(self, folder: Path | None, manifest: Manifest, device: torch.device) -> None:
        self._folder = folder if folder is not None and _BOOT_ID.exists() else None
        self._manifest = manifest
        self._device = device

    def of(self, forward: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``check``, see :func:`core.vision.precision.compare`, answers, or did in an earlier process.

        ``forward`` names what is checked. The answer says by ``remembered`` which of the two it is.
        """
        if self._folder is None:
            return check() | {"remembered": False}
        key = _circumstances(forward, self._manifest, self._device)
        path = self._folder / f"{forward}-{self._device.type}-{self._manifest.sha256[:16]}.json"
        if (known := _read(path, key)) is not None:
            return known | {"remembered": True}
        found = check()
        if found["passed"]:
            _write(path, {"circumstances": key, "check": found})
        return found | {"remembered": False}


def _circumstances(forward: str, manifest: Manifest, device: torch.device) -> dict[str, Any]:
    """All that the outcome of a check depends on; JSON-able."""
    on_cuda = device.type == "cuda"
    return {
        "forward": forward,
        "weights": manifest.sha256,
        "card": manifest.model_dump(mode="json", include={"architecture", "stride_on", "input"}),
        "code": _digest_of_code(),
        "torch": [torch.__version__, torch.__config__.show()],
        "device": [device.type, torch.cuda.get_device_name(device) if on_cuda else None],
        "driver": [torch.version.cuda, torch.backends.cudnn.version()] if on_cuda else None,  # type: ignore[no-untyped-call]
        "cpu": {name: str(value) for name, value in sorted(torch.cpu.get_capabilities().items())},
        "threads": torch.get_num_threads(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_ALGORITHMS)},
        "boot": _BOOT_ID.read_text().strip(),
    }


@cache
def _digest_of_code() -> str:
    """SHA-256 of this package's sources. A version by hand would be forgotten one day."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _read(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
        check: dict[str, Any] = content["check"]
        holds = content["circumstances"] == key and check["passed"] is True
        if holds and 0 <= check["max_margin_error"] <= MAX_MARGIN_ERROR:
            return check
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be used: %r", path, error)
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with replacing(path, alone=False) as unfinished:  # several workers start at once
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(content, indent=1))
    except OSError as error:
        log.warning("%s cannot be written, the next start will check again: %s", path, error)
