"""The manifest: a JSON file beside the weights that says everything needed to use them.

The code knows no label, no input size and no normalisation of its own. They belong to the weights, and
a network read with another normalisation than its own is wrong without any error to see.

This module does not import torch; the API reads manifests too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import InvalidWeights
from core.files import replacing

Architecture = Literal["resnet14", "resnet26", "resnet50", "resnet101"]

# Bottleneck blocks in each of the four stages. A network has 3 * sum + 2 layers with weights: 101 for the
# last.
ARCHITECTURES: dict[Architecture, tuple[int, int, int, int]] = {
    "resnet14": (1, 1, 1, 1),
    "resnet26": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}

StrideOn = Literal["3x3", "first_1x1"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputFormat(_Frozen):
    """How pixels become the network's input.

    The shorter side is resized to ``round(size * resize_scale)`` and the centre of ``size`` x ``size`` is cut
    out; then, with pixels in [0, 1] and channels R, G, B, the input is ``(pixel - mean) / std``.
    """

    size: int = Field(ge=32, le=1024)
    resize_scale: float = Field(default=1.0, ge=1.0, le=4.0)
    mean: tuple[UnitInterval, UnitInterval, UnitInterval]
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["bilinear"] = "bilinear"


class ModelCard(_Frozen):
    """What is known of a network before its weights are written to a file."""

    name: str = Field(min_length=1, max_length=100)
    version: str = Field(min_length=1, max_length=40)
    architecture: Architecture = "resnet101"
    stride_on: StrideOn = "3x3"
    labels: tuple[str, ...] = Field(min_length=2, description="Class names in the order of the logits.")
    input: InputFormat
    temperature: Positive = Field(default=1.0, description="Scores are softmax(logits / temperature).")
    calibrated: bool = Field(
        default=False, description="Whether the temperature was fitted to held-out data."
    )
    metrics: dict[str, Any] = {}
    created: str = ""
    licence: str = ""
    provenance: str = ""

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self


class Manifest(ModelCard):
    """A :class:`ModelCard` with the file of weights it describes."""

    # A plain name: a manifest must not be able to point at files elsewhere.
    weights: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def answers_digest(self) -> str:
        """SHA-256 of all that an answer depends on: the weights and how they are used, name and version."""
        said = self.model_dump_json(exclude={"metrics", "calibrated", "created", "licence", "provenance"})
        return hashlib.sha256(said.encode()).hexdigest()


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest at ``path``. The weights it names lie in the same folder.

    Raises InvalidWeights if the file is missing, is no JSON, or has missing, unknown or impossible values.
    """
    path = Path(path)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidWeights(
            f"The manifest {path} cannot be read ({error.strerror}). PAWLENS_WEIGHTS must name the JSON file "
            "that lies beside the weights."
        ) from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}"
            for e in error.errors(include_url=False)
        )
        raise InvalidWeights(f"The manifest {path} is not valid: {problems}") from error


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest, as a whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(manifest.model_dump_json(indent=2) + "\n")
