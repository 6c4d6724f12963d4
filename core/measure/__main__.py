"""Check and measure the network on this machine; ``pawlens bench engine`` runs this.

    python -m core.measure --weights weights/resnet101-cat-dog.json --device cuda --json figures.json

Ends with status 1 if a check fails. The JSON is what ``pawlens bench plan --figures`` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from core.errors import PawlensError
from core.measure import explanations, network
from core.measure.machine import accelerator, machine, peak_bytes
from core.measure.tables import tables
from core.vision.engine import Engine
from core.vision.precision import synthetic_pictures

LARGEST_BATCH = {"cuda": 256, "cpu": 32}


def measure(
    manifest: Path,
    *,
    device: str = "auto",
    precision: Any = "auto",
    photo: bytes | None = None,
    explained: bytes | None = None,
    largest_batch: int | None = None,
    quick: bool = False,
    threads: int | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """All figures, as they stand in the JSON.

    photo: a file to be decoded; by default a JPEG of noise. explained: a file to be explained; by default
    smooth noise, on which Integrated Gradients take longer than on photos. compiled: predictions by the
    compiled network, if it compiles and passes its check; the report says so.

    Raises InvalidWeights, InvalidImage, and ValueError for an unknown device or precision.
    """
    started = time.perf_counter()
    machine_found = machine()  # before: afterwards the load is our own
    engine = Engine(manifest, device=device, precision=precision, threads=threads)
    if compiled:
        engine.compile_in_background().join()
    size = engine.manifest.input.size
    if explained is not None:
        picture = engine.prepare(explained)
    else:
        picture = synthetic_pictures(1, size, seed=3)[0].numpy()
    first = time.perf_counter()
    engine.predict([picture])
    first = time.perf_counter() - first

    checks = network.checks(engine)
    memory = {"loaded": peak_bytes(engine.device)}
    rounds, seconds = (1, 0.3) if quick else (5, 0.5)
    largest = largest_batch or LARGEST_BATCH.get(engine.device.type, 32)
    rates = network.rates(engine, largest, rounds=rounds, seconds=seconds)
    best = network.best(rates)
    cores = machine_found["cores"]
    from_bytes = network.from_bytes(
        engine, photo, best.batch, cores=cores, rounds=rounds, seconds=2 * seconds
    )
    memory["predictions"] = peak_bytes(engine.device)
    report = dict(engine.report)
    methods, more_checks = explanations.explanations(engine, picture, rounds=1 if quick else 3)
    memory["explanations"] = peak_bytes(engine.device)
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_found | {"accelerator": accelerator(engine.device)},
        "model": {"name": engine.manifest.name, "sha256": engine.manifest.sha256, "size": size},
        "engine": report | {"first_prediction_seconds": round(first, 3)},
        "checks": [asdict(check) for check in [*checks, *more_checks]],
        "rates": [asdict(rate) | {"milliseconds": rate.milliseconds} for rate in rates],
        "best_batch": best.batch,
        "pictures_per_second": best.pictures_per_second,
        "from_bytes": asdict(from_bytes),
        "explain": {name: asdict(cost) for name, cost in methods.items()},
        "peak_bytes": memory,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="pawlens bench engine", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, metavar="MANIFEST")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--photo", type=Path, metavar="FILE", help="decode this one")
    parser.add_argument("--explained", type=Path, metavar="FILE", help="explain this one")
    parser.add_argument("--largest-batch", type=int, metavar="N")
    parser.add_argument("--compile", action="store_true", help="measure the compiled network")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json: there is no folder {given.json.parent}")
    try:
        figures = measure(
            given.weights,
            device=given.device,
            precision=given.precision,
            photo=None if given.photo is None else given.photo.read_bytes(),
            explained=None if given.explained is None else given.explained.read_bytes(),
            largest_batch=given.largest_batch,
            quick=given.quick,
            threads=given.threads,
            compiled=given.compile,
        )
    except (PawlensError, OSError, ValueError) as error:
        parser.error(str(error))
    except (RuntimeError, AssertionError) as error:  # as torch says that there is no such device
        parser.error(f"{given.device}: {str(error).splitlines()[0]}")
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a pipe has 80, and the tables would be cut
    console.print(*tables(figures), sep="\n")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
        console.print(f"written to {given.json}")
    return 0 if all(check["passed"] for check in figures["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
