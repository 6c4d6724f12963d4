"""What a run is: one YAML file, checked; unknown keys are refused.

All randomness follows from ``experiment.seed``, so that the file, the data and the device determine the
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import PawlensError
from core.vision.manifest import ARCHITECTURES, Architecture, StrideOn

Depths = tuple[
    Annotated[int, Field(ge=1)],
    Annotated[int, Field(ge=1)],
    Annotated[int, Field(ge=1)],
    Annotated[int, Field(ge=1)],
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=32, le=1024)]

_TEXTS = {"experiment.name", "experiment.version", "experiment.licence"}


class TrainingError(PawlensError):
    """A configuration, data or a run with which training cannot go on; ``detail`` says what to do."""

    code, title = "training_error", "Training cannot go on"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Experiment(_Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Also of the weights.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    output: Path = Field(default=Path("runs"), description="The run's folder is made in it.")
    checkpoint_steps: Annotated[int, Field(ge=1)] = Field(
        default=250, description="Steps from one checkpoint to the next; each validation has one, too."
    )
    log_steps: Annotated[int, Field(ge=1)] = 20
    version: str = Field(default="1", min_length=1, max_length=40, description="Of the weights.")
    licence: str = ""


class Data(_Section):
    source: Literal["oxford-iiit-pet", "folder", "archive", "generated"]
    path: Path | None = Field(
        default=None, description="The folder or archive of class folders; for Oxford-IIIT Pet, its root."
    )
    classes: Literal["binary", "breeds"] = Field(default="binary", description="Of Oxford-IIIT Pet.")
    download: bool = True
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    test: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.1, description="Ignored where the data set has a test part of its own."
    )
    per_class: Annotated[int, Field(ge=4)] | None = Field(
        default=None, description="Take this many of each class, for a trial; of generated pictures, make."
    )
    duplicate_bits: Annotated[int, Field(ge=-1, le=32)] = Field(
        default=6, description="Pictures whose 128-bit hashes differ in no more are one. -1: do not look."
    )
    normalisation: Literal["mean-std", "median-mad"] = "mean-std"
    margin: Annotated[float, Field(ge=1, le=2)] = Field(
        default=1.15, description="Pictures are kept this much larger than the stage's size, to crop from."
    )
    cache: Path = Field(default=Path(".pawlens/training"), description="For decoded pictures.")

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if self.path is None and self.source in ("folder", "archive"):
            raise ValueError(f"data.path is needed for the source {self.source!r}")
        return self


class Model(_Section):
    stride_on: StrideOn = Field(default="3x3", description="Of a random network; weights keep their own.")
    zero_init_residual: bool = Field(default=True, description="Begin with every block as the identity.")
    weights: Path | None = Field(
        default=None, description="A manifest to begin from; None: random (He et al., 2015)."
    )


class Optimiser(_Section):
    name: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    momentum: Fraction = Field(default=0.9, description="Of SGD, which is Nesterov's.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="On convolutions and the classifier's weights, not on BatchNorm or biases."
    )
    gradient_norm: Annotated[float, Field(gt=0)] | None = Field(default=1.0, description="Clip beyond.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    average: Decay = Field(
        default=0.998, description="Of the weights' moving average, which is what is evaluated."
    )


class Schedule(_Section):
    """Each stage has a cosine of its own, after a linear warm-up."""

    warmup: Fraction = Field(default=0.05, description="Share of the stage's steps.")
    final: Fraction = Field(default=0.01, description="Rate at the end, as a share of the peak.")


class Augmentation(_Section):
    scale: tuple[Fraction, Fraction] = Field(default=(0.45, 1.0), description="Area of the crop, as a share.")
    aspect: tuple[float, float] = Field(default=(0.7, 1.4), description="Width / height before squaring.")
    flip: Fraction = 0.5
    brightness: Fraction = 0.3
    contrast: Fraction = 0.3
    saturation: Fraction = 0.3
    erase: Fraction = Field(default=0.25, description="Probability of a rectangle without content.")
    mixup: Annotated[float, Field(ge=0)] = Field(
        default=0.1, description="Both parameters of the Beta distribution; 0: none."
    )
    cutmix: Fraction = Field(default=0, description="Share of the batches mixed by it instead of by mixup.")

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError("scale and aspect are (smallest, largest), both above 0")
        return self


class Stage(_Section):
    depths: Depths
    size: Size
    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)] = 64
    rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="Peak learning rate.")
    validate_every: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Epochs from one validation, with its checkpoint, to the next; the last has one.",
    )
    augmentation: Augmentation | None = Field(default=None, description="Instead of the run's own.")


class Configuration(_Section):
    experiment: Experiment
    data: Data
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the device is fast at it, else fp16 on CUDA, else fp32."
    )
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _stages_grow_to_a_known_network(self) -> Self:
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if any(new < old for old, new in zip(before.depths, after.depths, strict=True)):
                raise ValueError(f"stages may only grow deeper; {after.depths} follows {before.depths}")
        if self.stages[-1].depths not in ARCHITECTURES.values():
            known = ", ".join(f"{list(depths)} ({name})" for name, depths in ARCHITECTURES.items())
            raise ValueError(f"the last stage's depths must be one of {known}, which manifests can name")
        return self

    @property
    def folder(self) -> Path:
        """Where everything of this run is written."""
        return self.experiment.output / self.experiment.name

    @property
    def architecture(self) -> Architecture:
        """Of the finished network."""
        depths = self.stages[-1].depths
        return next(name for name, known in ARCHITECTURES.items() if known == depths)

    def determining(self) -> dict[str, Any]:
        """Whatever has a say in the weights: all but where things lie and how often they are written."""
        everything = self.model_dump(mode="json")
        for name in ("output", "checkpoint_steps", "log_steps", "version", "licence"):
            del everything["experiment"][name]
        for name in ("path", "cache", "download"):
            del everything["data"][name]
        return everything

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def read_config(path: Path, changes: Sequence[str] = ()) -> Configuration:
    """The configuration in ``path``, with ``changes`` made to it: "data.path=pets.zip", "stages.0.epochs=2".

    A change's value is YAML; names, versions and licences need no quotes. Raises TrainingError, naming every
    key that is missing, unknown or impossible.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals:
                raise TrainingError(f"{change!r} is no change; write KEY=VALUE, as in experiment.seed=2.")
            _put(content, name, _value(name, value))
        return Configuration.model_validate(content)
    except OSError as error:
        raise TrainingError(f"The configuration {path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise TrainingError(f"The configuration {path} is not valid:\n{problems}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8, a 30th of February
        raise TrainingError(f"The configuration {path} is not valid YAML in UTF-8: {error}") from error


def _value(name: str, text: str) -> Any:
    """What a change says: YAML, but a text is taken as it stands, since a version 2.10 is no number."""
    value = yaml.safe_load(text)
    return text.strip() if name in _TEXTS and not isinstance(value, str) else value


def _put(content: Any, name: str, value: Any) -> None:
    *parents, last = name.split(".")
    try:
        for parent in parents:
            content = content[int(parent)] if isinstance(content, list) else content.setdefault(parent, {})
        content[int(last) if isinstance(content, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise TrainingError(f"There is no place {name!r} in the configuration.") from error
