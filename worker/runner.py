"""Running the jobs of the model queues: predictions as a pipeline, explanations one by one."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from core.database import Database
from core.explain.explanation import Explainer
from core.jobs.states import Queue
from core.settings import Settings
from core.vision.prediction import ImageEngine
from worker.leases import LeaseKeeper
from worker.predicting import PredictRunner
from worker.preparing import claim

if TYPE_CHECKING:
    from worker.explaining import ExplainRunner

DRAIN_SECONDS = 10.0
"""A task takes batch after batch for so long, then leaves the queue to Celery's other tasks."""


class Runner:
    """Runs the jobs of the model queues in this process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        engine: ImageEngine,
        keeper: LeaseKeeper,
        stopping: threading.Event,
        explainer: Explainer | None = None,  # a worker of predictions alone has none
    ) -> None:
        self._settings = settings
        self._database = database
        self._keeper = keeper
        self._stopping = stopping
        self._predicting = PredictRunner(settings, database, engine, keeper)
        self._explaining: ExplainRunner | None = None
        if explainer is not None:
            from worker.explaining import ExplainRunner  # noqa: PLC0415 - it draws, with matplotlib's tables

            self._explaining = ExplainRunner(settings, database, engine, explainer, keeper, stopping)

    def drain(self, queue: Queue, owner: str) -> bool:
        """Run ready jobs until there are none or the time is up; True when there may be more.

        ``owner`` names the lease, so that the parent process can release it if this process dies.
        """
        leave_at = time.monotonic() + DRAIN_SECONDS

        def may_claim() -> bool:
            return time.monotonic() < leave_at and not self._stopping.is_set()

        if queue is Queue.PREDICT:
            return self._predicting.drain(owner, may_claim)
        assert self._explaining is not None
        while may_claim():
            held = claim(self._settings, self._database, queue, owner=owner, limit=1)
            if not held:
                return False
            with self._keeper.holding(held):
                self._explaining.run(held[0])
        return True
