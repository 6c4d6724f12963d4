"""Telling the workers, after the commit, that there is work.

A thread does it, so that no request waits for Redis. The first job is told at once; while more keep coming
they are told together, :data:`PAUSE_SECONDS` apart, because a message costs as much as accepting a job does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from core.broker import BrokerUnavailable, hints_for, publish
from core.jobs.states import Queue
from core.settings import Settings

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02


class HintPublisher:
    """Publishes what was noted, all that came together at once. A lost hint is harmless: see core.broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: Counter[Queue] = Counter()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def note(self, queue: Queue, jobs: int = 1) -> None:
        """So many jobs have become ready. Call it after the commit."""
        with self._changed:
            self._jobs[queue] += jobs
            self._changed.notify()

    def _run(self) -> None:
        away = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                noted, self._jobs = self._jobs, Counter()
                if not noted:
                    return
            published_at = time.monotonic()
            try:
                for queue, jobs in noted.items():
                    publish(self._settings, queue, hints_for(queue, jobs))
                away = False
            except BrokerUnavailable as error:
                if not away:
                    logger.warning("no broker: jobs are kept and start when it is back: %s", error)
                away = True
            except Exception:
                logger.exception("publishing a hint failed")
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping, timeout=published_at + PAUSE_SECONDS - time.monotonic()
                )
