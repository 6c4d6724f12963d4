"""From jobs a day to workers, disk and money, by measured figures; docs/capacity.md derives each formula.

Load is counted in erlangs: arrivals a second times seconds of work each (Little's law for a busy worker).
Imports no torch and no database.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from core.settings import ROOT

SHIPPED = ROOT / "configs" / "capacity.json"
DAY = 86_400
MONTH_HOURS = 730
UTILISATION = 0.7
"""Of a worker's time at the peak hour. At 0.7 one worker's queue holds about two jobs, at 0.9 nine."""


class _Figures(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class MethodFigures(_Figures):
    seconds: float
    artifact_bytes: dict[str, int]


class FromBytes(_Figures):
    pictures_per_second: float
    decode_milliseconds: float


class Engine(_Figures):
    """What ``pawlens bench engine --json`` has found out about one machine, as far as it matters here."""

    machine: dict[str, Any]
    engine: dict[str, Any]
    measured_at: str
    best_batch: int
    pictures_per_second: float
    from_bytes: FromBytes
    explain: dict[str, MethodFigures]

    @property
    def on_gpu(self) -> bool:
        return not str(self.engine["device"]).startswith("cpu")

    @property
    def described(self) -> str:
        if self.on_gpu:
            name = (self.machine.get("accelerator") or {}).get("name")
            return f"GPU {name or self.engine['device']}"
        return f"machine with {self.machine['cores']} cores of {self.machine['processor']}"

    @property
    def predictions_per_second(self) -> float:
        """Of a machine or a GPU. On a CPU, decoding shares its cores; beside a GPU other cores do it."""
        return self.pictures_per_second if self.on_gpu else self.from_bytes.pictures_per_second

    @property
    def workers_per_gpu(self) -> int:
        """Predict workers that keep one GPU busy: each is one process, which reads files more slowly than a
        GPU computes. 1 on a CPU."""
        return math.ceil(self.predictions_per_second / self.from_bytes.pictures_per_second)


class JobStorage(_Figures):
    """What one job leaves in the database, beside pictures and artifacts: rows, and bytes with all
    indexes."""

    rows: float
    bytes: float


class DatabaseFigures(_Figures):
    predict: JobStorage
    explain: JobStorage
    blob_overhead: float = Field(description="bytes on disk for a byte of pictures and artifacts")


class Storage(_Figures):
    """What the benchmark ``storage`` has found out about the service around the network."""

    databases: dict[str, DatabaseFigures]
    posts_per_second: float = Field(description="that one API process accepts")
    broker_bytes: int = Field(description="of an idle Redis or Valkey")
    hint_bytes: float
    most_hints: int = Field(description="that ever wait, of all queues")


class Figures(_Figures):
    engine: Engine
    storage: Storage

    @classmethod
    def read(cls, given: Path | None = None) -> Self:
        """``given``: what ``pawlens bench engine --json`` or ``make bench`` wrote. What it lacks is taken
        from the figures that come with Pawlens, and so is all of it when none is given.

        Raises OSError, and ValueError (pydantic's, too) if it is no such file.
        """
        content = json.loads(SHIPPED.read_text())
        if given is not None:
            found = json.loads(given.read_text())
            if not isinstance(found, dict) or not {"rates", "engine", "storage"} & set(found):
                raise ValueError(f"{given} has no figures of `pawlens bench engine` or `make bench`.")
            content |= {"engine": found} if "rates" in found else found
        return cls.model_validate(content)


@dataclass(frozen=True)
class Demand:
    """What is asked of the service. ``peak_factor``: arrivals in the busiest hour over those of the mean."""

    predictions_per_day: float
    explanations_per_day: float
    peak_factor: float = 4.0
    retention_days: float = 7.0
    methods: tuple[str, ...] = ()  # of an explanation; all when empty
    picture_bytes: int = 400_000
    utilisation: float = UTILISATION
    price_per_hour: float | None = None  # of one worker's machine or GPU


@dataclass(frozen=True)
class Workers:
    """Workers of one queue. erlangs: how many would be busy at the peak, on average."""

    arrivals: float  # a second, at the peak
    seconds: float  # of one worker, for one job
    erlangs: float
    count: int
    wait_mean: float  # seconds, at the peak
    wait_p95: float


@dataclass(frozen=True)
class Plan:
    demand: Demand
    predict: Workers
    explain: Workers
    shared: int  # that suffice when each takes jobs of both queues; never more than both counts together
    decoding_cores: float  # beside GPUs
    api_processes: int
    rows: int  # kept, at the retention
    database_bytes: dict[str, int]  # rows and indexes, kept; by kind of database
    blob_bytes: dict[str, int]  # pictures and artifacts, kept
    picture_bytes: int
    artifact_bytes: int
    broker_bytes: int
    monthly_cost: float | None

    @property
    def cost_per_thousand_jobs(self) -> float | None:
        jobs = (self.demand.predictions_per_day + self.demand.explanations_per_day) * MONTH_HOURS / 24
        return None if self.monthly_cost is None or not jobs else 1000 * self.monthly_cost / jobs


def plan(demand: Demand, figures: Figures) -> Plan:
    """Raises ValueError for a method that the figures do not have."""
    engine, storage = figures.engine, figures.storage
    methods = demand.methods or tuple(engine.explain)
    if unknown := [name for name in methods if name not in engine.explain]:
        raise ValueError(f"There is no method {unknown[0]!r}; there are {', '.join(engine.explain)}.")
    predictions, explanations = (
        per_day * demand.peak_factor / DAY
        for per_day in (demand.predictions_per_day, demand.explanations_per_day)
    )
    posts = predictions + explanations
    one = 1 / engine.predictions_per_second
    explained = one + sum(engine.explain[name].seconds for name in methods)
    predict = _predicting(predictions, one, engine.best_batch, demand.utilisation)
    explain = _explaining(explanations, explained, demand.utilisation)
    shared = workers_for(predict.erlangs + explain.erlangs, demand.utilisation)

    # Either kind of job keeps its picture. Equal pictures are kept once: this is what different ones take.
    days = demand.retention_days
    predicted, told = demand.predictions_per_day * days, demand.explanations_per_day * days
    pictures = (predicted + told) * demand.picture_bytes
    artifacts = told * sum(sum(engine.explain[name].artifact_bytes.values()) for name in methods)
    any_database = next(iter(storage.databases.values()))
    jobs = {
        name: predicted * kept.predict.bytes + told * kept.explain.bytes
        for name, kept in storage.databases.items()
    }
    blobs = {name: (pictures + artifacts) * kept.blob_overhead for name, kept in storage.databases.items()}
    price = demand.price_per_hour
    return Plan(
        demand=demand,
        predict=predict,
        explain=explain,
        shared=shared,
        decoding_cores=posts * engine.from_bytes.decode_milliseconds / 1000 if engine.on_gpu else 0.0,
        api_processes=workers_for(posts / storage.posts_per_second, demand.utilisation),
        rows=round(predicted * any_database.predict.rows + told * any_database.explain.rows),
        database_bytes={name: round(size) for name, size in jobs.items()},
        blob_bytes={name: round(size) for name, size in blobs.items()},
        picture_bytes=round(pictures),
        artifact_bytes=round(artifacts),
        broker_bytes=round(storage.broker_bytes + storage.most_hints * storage.hint_bytes),
        monthly_cost=None if price is None else (predict.count + explain.count) * price * MONTH_HOURS,
    )


def workers_for(erlangs: float, utilisation: float) -> int:
    """The fewest that are busy for no more than this share of the time."""
    # Rounded: 2.1 / 0.7 must not become four by the last bit of a float, nor very little work nobody's.
    return math.ceil(round(erlangs / utilisation, 9)) or int(erlangs > 0)


def _predicting(arrivals: float, seconds: float, batch: int, utilisation: float) -> Workers:
    """A picture that arrives while a batch is computed waits for its end, and goes with the next."""
    erlangs = arrivals * seconds
    count = workers_for(erlangs, utilisation)
    # It never waits for a batch to fill, so none lasts longer than the largest. One that comes at a time of
    # its own finds a batch running as often as the worker is busy, and half of it left on average.
    longest = batch * seconds if count else 0.0
    return Workers(arrivals, seconds, erlangs, count, erlangs / max(1, count) * longest / 2, longest)


def _explaining(arrivals: float, seconds: float, utilisation: float) -> Workers:
    erlangs = arrivals * seconds
    count = workers_for(erlangs, utilisation)
    mean, p95 = waits(arrivals, seconds, count)
    return Workers(arrivals, seconds, erlangs, count, mean, p95)


def waits(arrivals: float, seconds: float, workers: int) -> tuple[float, float]:
    """Mean and 95th percentile of the seconds that a job waits for one of ``workers``: M/M/c.

    Erlang's C formula (Erlang 1917; Kleinrock, Queueing Systems I, 3.5). Explanations take more equal times
    than M/M/c assumes, which makes the true waits shorter: about half where all times are equal.
    """
    erlangs = arrivals * seconds
    if not erlangs:
        return 0.0, 0.0
    if erlangs >= workers:
        return math.inf, math.inf
    waiting = erlang_c(erlangs, workers)
    drain = (workers - erlangs) / seconds  # 1 / seconds is each worker's rate
    return waiting / drain, max(0.0, math.log(waiting / 0.05) / drain)


def erlang_c(erlangs: float, workers: int) -> float:
    """Probability that all ``workers`` are busy when a job arrives; needs erlangs < workers."""
    blocked = 1.0  # Erlang B, by its recursion, which neither overflows nor loses digits
    for count in range(1, workers + 1):
        blocked = erlangs * blocked / (count + erlangs * blocked)
    return blocked / (1 - erlangs / workers * (1 - blocked))
