"""``/metrics`` for Prometheus: this process's HTTP requests, and the state of the service from the database.

HTTP metrics are counters of this process; sum them over all API processes. Everything else is read from the
database when it is asked for, is the same whichever process is asked, and so must not be summed. Jobs that
ended are a gauge over the last minute and no counter: counting all of them would read the whole table each
time and fall when old jobs are removed, and a worker's own counter would die with it. Scrape once a minute or
more often, and use ``avg_over_time``.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.database import Database
from core.errors import PawlensError
from core.explain.methods import METHODS
from core.jobs import queries, statistics, workers
from core.jobs.states import FINAL, DeliveryState, MethodState, Queue

logger = logging.getLogger(__name__)

QUANTILES = (0.5, 0.9, 0.99)
KEEP_SECONDS = 1.0
"""However often ``/metrics`` is asked for, the database is read no more often than this."""

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one application. One registry for each, so that several fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = CounterMetric(
            "pawlens_http_requests",
            "HTTP requests that this process has answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "pawlens_http_request_duration_seconds",
            "From a request's arrival to the end of its answer; long polls and streams take long on purpose.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def watch(self, database: Database, *, silent_seconds: float) -> None:
        """Show the service's state as well. A worker that was silent for so long counts as gone."""
        self.registry.register(ServiceState(database, silent_seconds=silent_seconds))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their media type, in the form that an Accept header asks for."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class Measured:
    """Counts and times every request by its route's template, of which there are only so many."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500  # what is raised from here is answered so

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        finally:
            # Refused before it was routed, or led nowhere: its path may be anything, and is no label.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _VERBS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - started)


class ServiceState(Collector):
    """Reads the database for each scrape. When it is away, it says so and nothing else."""

    def __init__(self, database: Database, *, silent_seconds: float) -> None:
        self._database = database
        self._silent_seconds = silent_seconds
        self._one_reads = threading.Lock()
        self._metrics: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would ask for everything to learn the names

    def collect(self) -> Iterable[Metric]:
        with self._one_reads:
            if time.monotonic() - self._read_at > KEEP_SECONDS:
                self._metrics = [_gauge("build_info", "Always 1.", {(version("pawlens"),): 1}, "version")]
                self._metrics += self._read()
                self._read_at = time.monotonic()
            return self._metrics

    def _read(self) -> list[Metric]:
        meaning = "Whether the database answered."
        try:
            with self._database.read() as session:
                depths = queries.queue_depths(session)
                heard_of = workers.alive(session, silent_seconds=self._silent_seconds)
                recent = statistics.recent(session)
                deliveries = statistics.recent_deliveries(session)
                pending = statistics.pending_deliveries(session)
        except PawlensError as error:
            logger.warning("the database cannot be read for the metrics: %s", error.detail)
            return [_gauge("database_up", meaning, {(): 0})]
        alive = Counter(worker.queue for worker in heard_of)
        return [
            _gauge("database_up", meaning, {(): 1}),
            *_depths(depths),
            _gauge("workers_alive", "Workers heard of lately.", {(q,): alive[q] for q in Queue}, "queue"),
            *_recent(recent),
            _gauge(
                "webhook_deliveries_last_hour",
                "Webhook deliveries that were made in the last hour, by what they are now.",
                {(state,): deliveries[state] for state in DeliveryState},
                "state",
            ),
            _gauge("webhook_deliveries_pending", "Webhook deliveries still to be tried.", {(): pending}),
        ]


def _depths(depths: dict[Queue, queries.QueueDepth]) -> Iterator[Metric]:
    for name, meaning, attribute in (
        ("jobs_waiting", "Jobs that wait for a worker; those of io for their download.", "waiting"),
        ("jobs_running", "Jobs that a worker has.", "running"),
        ("oldest_waiting_job_seconds", "How long the longest-waiting job has waited.", "oldest_seconds"),
    ):
        values = {(queue,): float(getattr(depth, attribute)) for queue, depth in depths.items()}
        yield _gauge(name, meaning, values, "queue")


def _recent(recent: statistics.Recent) -> Iterator[Metric]:
    newest = f"of the last minute's newest {statistics.SAMPLE} jobs"
    models = (Queue.PREDICT, Queue.EXPLAIN)
    yield _gauge(
        "jobs_finished_last_minute",
        "Jobs that ended in the last minute, by how.",
        {(queue, state): recent.outcomes[queue, state] for queue in models for state in sorted(FINAL)},
        *("queue", "status"),
    )
    yield _quantiles(
        "stage_seconds",
        f"Seconds of each stage {newest}; inference is that of the whole micro-batch.",
        recent.stages,
        *("queue", "stage"),
    )
    yield _quantiles(
        "micro_batch_pictures",
        f"How many pictures shared the forward pass of one, {newest}.",
        {(queue,): sizes for queue, sizes in recent.batch_sizes.items()},
        "queue",
    )
    yield _gauge(
        "methods_finished_last_minute",
        f"Explanations {newest}, by how they ended.",
        {(name, state): recent.method_outcomes[name, state] for name in METHODS for state in _METHOD_ENDS},
        *("method", "status"),
    )
    yield _quantiles(
        "method_seconds",
        f"Seconds of each computed explanation {newest}.",
        {(name,): seconds for name, seconds in recent.methods.items()},
        "method",
    )


_METHOD_ENDS = (MethodState.SUCCEEDED, MethodState.FAILED, MethodState.CANCELED, MethodState.SKIPPED)


def _gauge(name: str, meaning: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"pawlens_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric([str(part) for part in key], value)
    return family


def _quantiles(name: str, meaning: str, values: Mapping[Any, Sequence[float]], *labels: str) -> Metric:
    """A gauge for each quantile. What nothing was measured of is absent, rather than 0."""
    return _gauge(
        name,
        meaning,
        {
            (*key, str(quantile)): _quantile(sorted(measured), quantile)
            for key, measured in values.items()
            for quantile in QUANTILES
        },
        *labels,
        "quantile",
    )


def _quantile(ordered: Sequence[float], quantile: float) -> float:
    """The smallest measured value that is not below this share of all (the nearest rank)."""
    return ordered[math.ceil(quantile * len(ordered)) - 1]
