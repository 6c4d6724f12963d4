"""What is measured: the shipped weights, at any size of picture, and a service that protects its jobs as the
product does rather than as the tests do, which cannot wait for so long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.vision.manifest import read_manifest
from tests.processes import PHOTOS

MANIFEST = Path("weights/resnet101-cat-dog.json")
COMPARED_AT = 224
SMALLEST = min(range(len(PHOTOS)), key=lambda number: PHOTOS[number].stat().st_size)
"""Of the photos, by its number: for what is to cost little beside the service itself."""

_PROTECTED: dict[str, Any] = {
    "lease_seconds": 60,
    "heartbeat_seconds": 15,
    "rescue_seconds": 5,
    "dispatch_seconds": 2,
}
QUIET = _PROTECTED | {"log_level": "WARNING"}
IN_USE = _PROTECTED | {"engine": "resnet"}


def weights_at(folder: Path, size: int) -> Path:
    """The manifest, in ``folder``, of the shipped weights for pictures of another size."""
    manifest = read_manifest(MANIFEST)
    other = manifest.model_copy(update={"input": manifest.input.model_copy(update={"size": size})})
    (folder / manifest.weights).symlink_to((MANIFEST.parent / manifest.weights).resolve())
    path = folder / "manifest.json"
    path.write_text(other.model_dump_json())
    return path
