"""The network that a worker runs: the real one, or the stand-in of load and fault tests.

Only what is used gets imported, so that a worker without the network never loads torch.
"""

from __future__ import annotations

from pathlib import Path

from core.explain.explanation import Explainer
from core.settings import Settings
from core.vision.prediction import ImageEngine


def load(settings: Settings, *, explains: bool) -> tuple[ImageEngine, Explainer | None]:
    """The network named by the settings, on its device, and what explains it, if that is wanted.

    Raises:
        InvalidWeights: the weights are missing, damaged, or do not fit the network.
    """
    if settings.engine == "stand-in":
        from core.explain.stand_in import StandInExplainer  # noqa: PLC0415
        from core.vision.stand_in import StandInEngine  # noqa: PLC0415

        seconds = settings.stand_in_seconds
        stand_in = StandInEngine(max_batch=settings.max_batch or 64, seconds_per_batch=seconds)
        return stand_in, StandInExplainer(stand_in, seconds_per_method=seconds) if explains else None
    from core.vision.engine import Engine  # noqa: PLC0415

    engine = Engine(
        settings.weights,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_pixels=settings.max_pixels,
        cache=_cache(settings),
    )
    explainer: Explainer | None = None
    if explains:
        from core.explain.run import NetworkExplainer  # noqa: PLC0415

        explainer = NetworkExplainer(engine)
    if settings.compile:
        engine.compile_in_background()
    return engine, explainer


def _cache(settings: Settings) -> Path | None:
    """Where an engine leaves what makes its next start faster; None where there is no data directory.

    It is not made here: a worker with a database and a queue elsewhere has none, and needs none.
    """
    folder = settings.data_dir / "cache"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder
