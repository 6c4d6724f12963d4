"""Train a network from scratch, in stages; ``pawlens train CONFIG`` runs this.

    python -m core.training.train configs/tiny.yaml

In ``OUTPUT/NAME`` it leaves ``config.yaml`` (the configuration with all defaults), ``data.json`` (what was
found in the data and how it was split), ``metrics.jsonl``, the checkpoints ``last.pt`` (to go on from) and
``best.pt`` (the averaged weights of the last stage that did best on validation), and ``NAME.json`` with
``NAME.safetensors``, which the service can load. Run again, it goes on where it was stopped or killed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from core.errors import PawlensError
from core.training.config import Configuration, read_config
from core.training.export import described, exported
from core.training.journal import JOURNAL
from core.training.loop import AfterStep, Stopped, Training
from core.training.progress import Display
from core.training.state import BEST, LAST, State, sole_writer


def train(
    config: Configuration,
    *,
    device: str = "auto",
    fresh: bool = False,
    display: Display | None = None,
    after_step: AfterStep = lambda _state: False,
) -> Path:
    """Train to the end, from the beginning or from where this run stands, and return the manifest's path.

    fresh: throw away what this run has done so far. after_step: see :data:`core.training.loop.AfterStep`.

    Raises TrainingError if it cannot go on, and Stopped if ``after_step`` asked it to leave.
    """
    with sole_writer(config.folder), display or Display() as shown:
        if fresh:
            for name in (LAST, BEST, JOURNAL, f"{config.experiment.name}.json"):
                (config.folder / name).unlink(missing_ok=True)
        training = Training(config, choose_device(device), shown)
        training.run(after_step)
        return described(exported(config.folder), config.experiment)


def choose_device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class _Signals:
    """The first Ctrl-C or SIGTERM lets the step end and a checkpoint be written; the second does not wait."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def asked_to_leave(self, _state: State) -> bool:
        return self.received is not None


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """What training and evaluation have in common on the command line."""
    options = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("config", type=Path, metavar="CONFIG", help="for example configs/tiny.yaml")
    options.add_argument("--data", metavar="PATH", help="folder or archive, instead of data.path")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the configuration"
    )
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return options


def configured(options: argparse.Namespace) -> Configuration:
    """The configuration with the changes from the command line. Raises TrainingError."""
    changes = list(options.set)
    if options.data:
        changes.append(f"data.path={options.data}")
    return read_config(options.config, changes)


def main(arguments: list[str] | None = None) -> None:
    known = parser("pawlens train", __doc__)
    known.add_argument("--fresh", action="store_true", help="start over, and lose what this run has done")
    options = known.parse_args(arguments)
    try:
        config = configured(options)
        signals = _Signals()
        manifest = train(
            config, device=options.device, fresh=options.fresh, after_step=signals.asked_to_leave
        )
    except Stopped:
        print("Stopped. Run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
    except PawlensError as error:
        print(error.detail, file=sys.stderr)
        sys.exit(1)
    print(f"Wrote {manifest}. Now measure it: pawlens evaluate {options.config}")


if __name__ == "__main__":
    main()
