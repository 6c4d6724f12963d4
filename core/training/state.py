"""Everything a run needs to go on after it was killed, in one file that is always whole."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch

from core.files import replacing
from core.training.config import Configuration, Depths, TrainingError
from core.training.grow import grow
from core.training.optimise import make_optimiser, put_slots, slots, start_average
from core.training.seeds import derive
from core.vision.resnet import ResNet

LAST, BEST = "last.pt", "best.pt"


@dataclass
class Position:
    """The next step is ``step`` of ``epoch`` of ``stage``, each from 0; ``updates`` were made before."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    updates: int = 0


@dataclass
class Totals:
    """Sums over the running epoch. Seconds are wall-clock time and may differ between equal runs."""

    pictures: int = 0
    loss: float = 0.0
    data_seconds: float = 0.0
    augment_seconds: float = 0.0
    compute_seconds: float = 0.0

    def add(self, pictures: int, data: float, augment: float, compute: float) -> None:
        """One step: the seconds it waited for data, varied them, and computed.

        On a GPU the last holds the waiting for what was begun before, whichever of the three it was.
        """
        self.pictures += pictures
        self.data_seconds += data
        self.augment_seconds += augment
        self.compute_seconds += compute

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items() if name.endswith("_seconds")}

    @property
    def speed(self) -> float:
        """Pictures a second."""
        return self.pictures / (self.data_seconds + self.augment_seconds + self.compute_seconds)


@dataclass
class State:
    """A run between two steps. Generators are not in it: see :mod:`core.training.seeds`.

    best: of the running stage, as it stands in ``metrics.jsonl``; None before the first validation.
    """

    network: ResNet
    average: ResNet
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    position: Position = field(default_factory=Position)
    totals: Totals = field(default_factory=Totals)
    best: dict[str, Any] | None = None

    @classmethod
    def around(cls, network: ResNet, config: Configuration, scaler: torch.amp.GradScaler) -> Self:
        """The beginning of a run."""
        network.train()
        return cls(network, start_average(network), make_optimiser(network, config.optimiser), scaler)

    def deepen(self, depths: Depths, config: Configuration) -> None:
        """Grow network and average; the optimiser keeps what it remembers of the weights that were there."""
        device = self.network.conv1.weight.device
        remembered = slots(self.optimiser, self.network)
        seed = derive(config.experiment.seed, "grow", *depths)
        self.network, self.average = (
            grow(network, depths, seed).to(device).to(memory_format=torch.channels_last)
            for network in (self.network, self.average)
        )
        self.average.requires_grad_(False)
        self.optimiser = make_optimiser(self.network, config.optimiser)
        put_slots(self.optimiser, self.network, remembered)

    def save(self, folder: Path, config: Configuration, digest: str) -> None:
        """``digest``: of the data. A kill while it writes leaves the checkpoint that was there before."""
        content = {
            "config": config.determining(),
            "digest": digest,
            "depths": list(self.network.depths),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": slots(self.optimiser, self.network),
            "scaler": self.scaler.state_dict(),
            "position": asdict(self.position),
            "totals": asdict(self.totals),
            "best": self.best,
        }
        write_whole(folder / LAST, content)

    def load(self, folder: Path, config: Configuration, digest: str) -> None:
        """Go on where the checkpoint in ``folder`` stands. Stages that had not begun may have changed since.

        Raises TrainingError if it is damaged, or belongs to another configuration or to other data.
        """
        device = self.network.conv1.weight.device
        content = read_whole(folder / LAST, device)
        position = Position(**content["position"])
        begun = position.stage + bool(position.epoch or position.step)
        other = _differences(_until(content["config"], begun), _until(config.determining(), begun))
        if content["digest"] != digest:
            other.append("the data themselves")
        if other:
            raise TrainingError(
                f"{folder} holds a run with another {', '.join(other)}. Give this one another "
                "experiment.name, or start over with --fresh."
            )
        depths = cast(Depths, tuple(content["depths"]))
        if depths != self.network.depths:
            self.deepen(depths, config)
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimiser = make_optimiser(self.network, config.optimiser)
        put_slots(self.optimiser, self.network, content["optimiser"])
        if content["scaler"]:  # empty from a device whose precision needs none
            self.scaler.load_state_dict(content["scaler"])
        self.position = position
        self.totals = Totals(**content["totals"])
        self.best = content["best"]


def write_whole(path: Path, content: Any) -> None:
    """Write with torch.save, so that not even a power cut leaves half a file."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def read_whole(path: Path, device: torch.device) -> Any:
    """Raises TrainingError if ``path`` is missing or damaged. Tensors and plain values only: no code runs."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"The checkpoint {path} cannot be read: {error}") from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the run's folder for this process. The kernel lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"Another process is training in {folder}.") from error
        yield
    finally:
        os.close(file)


def _until(config: dict[str, Any], stage: int) -> dict[str, Any]:
    """What had a say in the weights before this stage."""
    return {**config, "stages": config["stages"][:stage]}


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Names of what is not equal in two configurations."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [found for key in old for found in _differences(old[key], new[key], f"{name}.{key}")]
    return [] if old == new else [name.removeprefix(".") or "configuration"]
