"""Maintenance, every few seconds: take back lost jobs, end expired ones, and hint where work is waiting.

The duties run in this process and not as Celery tasks: a message would need the very broker whose loss they
repair, could pile up while no worker takes it, and would wait behind long downloads. Any number of these
processes may run; every duty is a guarded statement that may be repeated.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from sqlalchemy.orm import Session

from core.broker import JOBS_PER_HINT, MAX_HINTS, BrokerProbe, BrokerUnavailable, hints_for, publish
from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs import delivery_log, rescue, retention, workers
from core.jobs.states import Queue
from core.logs import configure_logging
from core.settings import Settings

logger = logging.getLogger(__name__)

FORGET_WORKERS_SECONDS = 3600
REMOVE_JOBS = 50
"""In one transaction, so that on SQLite nobody waits for long to write."""
EXPIRE_JOBS = 500
"""The same of deadlines that have passed."""
FORGET_DELIVERIES = 200
"""The same of the webhooks' log."""
REMOVE_SECONDS = 1.0
"""For removals, or passed deadlines, at a time; the other duties wait meanwhile."""
AGAIN_SECONDS = 1.0
"""After which a duty that had to leave something goes on."""


@dataclass
class Duty:
    """Something to do every so many seconds, whatever became of it the last time; sooner when it says, by
    returning True, that there is more.
    """

    name: str
    every: float
    work: Callable[[], bool | None]
    due: float = 0.0


class Maintenance:
    def __init__(self, settings: Settings, database: Database, probe: BrokerProbe) -> None:
        self._settings = settings
        self._database = database
        self._probe = probe
        self._broker_away = False
        self._looked_through: str | None = None  # blobs up to this digest were looked through for orphans
        self.duties = [
            Duty("rescue", settings.rescue_seconds, self.rescue),
            Duty("expire", settings.rescue_seconds, self.expire),
            Duty("dispatch", settings.dispatch_seconds, self.dispatch),
            Duty("forget workers", 60, self.forget_workers),
            Duty("remove old jobs", 10, self.remove_old_jobs),
            Duty("remove orphans", 60, self.remove_orphans),
            Duty("forget deliveries", 60, self.forget_deliveries),
            Duty("forget keys", 600, self.forget_keys),
        ]

    def rescue(self) -> None:
        with self._database.write() as session:
            rescued = rescue.rescue(session, retry_seconds=self._settings.retry_seconds)
        if rescued:
            logger.warning("took back jobs whose lease was over", extra=asdict(rescued))

    def expire(self) -> bool:
        def some(session: Session) -> int:
            return rescue.expire(session, limit=EXPIRE_JOBS)

        total, is_more = self._bit_by_bit(some, EXPIRE_JOBS)
        if total:
            logger.info("deadlines passed", extra={"jobs": total})
        return is_more

    def dispatch(self) -> None:
        """Top up each queue's hints to what its ready jobs call for.

        Hints that went to a lost Redis, or were never sent because it was away, are made good here. One
        hint too many finds nothing to claim and returns.
        """
        for queue in Queue:
            with self._database.read() as session:
                ready = rescue.ready(session, queue, at_most=MAX_HINTS * JOBS_PER_HINT)
            if not ready:
                continue
            try:
                missing = hints_for(queue, ready) - self._probe.hints_waiting(queue)
                if missing > 0:
                    publish(self._settings, queue, missing)
            except BrokerUnavailable as error:
                if not self._broker_away:
                    logger.warning("no broker: jobs wait until it is back: %s", error)
                self._broker_away = True
                return
            if self._broker_away:
                logger.info("the broker is back")
            self._broker_away = False

    def forget_workers(self) -> None:
        with self._database.write() as session:
            workers.forget(session, silent_seconds=FORGET_WORKERS_SECONDS)

    def remove_old_jobs(self) -> bool:
        """Remove the jobs that ended longer ago than they are to be kept, with all that is theirs."""
        if not self._settings.retention_days:
            return False
        seconds = self._settings.retention_days * 86_400.0

        def some(session: Session) -> int:
            return retention.delete_finished(session, older_than_seconds=seconds, limit=REMOVE_JOBS)

        total, is_more = self._bit_by_bit(some, 1)
        if total:
            logger.info("removed old jobs", extra={"jobs": total})
        return is_more

    def forget_deliveries(self) -> bool:
        """Remove what the webhooks' log has longer than jobs are kept."""
        if not self._settings.retention_days:
            return False
        seconds = self._settings.retention_days * 86_400.0

        def some(session: Session) -> int:
            return delivery_log.forget(session, older_than_seconds=seconds, limit=FORGET_DELIVERIES)

        return self._bit_by_bit(some, FORGET_DELIVERIES)[1]

    def _bit_by_bit(self, some: Callable[[Session], int], at_least: int) -> tuple[int, bool]:
        """Do some of it in a transaction, then some more, until that is less than ``at_least`` or the time is
        up. How much was done, and whether there may be more.
        """
        until, total = time.monotonic() + REMOVE_SECONDS, 0
        while True:
            with self._database.write() as session:
                done = some(session)
            total += done
            if done < at_least or time.monotonic() >= until:
                return total, done >= at_least

    def remove_orphans(self) -> None:
        """Go on looking through all blobs for those to which nothing refers, and remove them."""
        until, total = time.monotonic() + REMOVE_SECONDS, 0
        while True:
            with self._database.read() as session:
                found, self._looked_through = retention.orphans(session, after=self._looked_through or "")
            if found:
                with self._database.write() as session:
                    total += retention.delete_unreferenced(session, found)
            if self._looked_through is None or time.monotonic() >= until:
                break
        if total:
            logger.info("removed orphaned files", extra={"files": total})

    def forget_keys(self) -> None:
        with self._database.write() as session:
            retention.forget_keys(session)

    def run(self, stopping: threading.Event) -> None:
        """Do each duty when it is due, until told to stop. The process's own monotonic clock paces it."""
        while not stopping.is_set():
            now = time.monotonic()
            for duty in self.duties:
                if duty.due <= now:
                    duty.due = now + duty.every
                    if self._do(duty):
                        duty.due = time.monotonic() + min(AGAIN_SECONDS, duty.every)
            stopping.wait(max(0.01, min(duty.due for duty in self.duties) - time.monotonic()))

    def _do(self, duty: Duty) -> bool:
        try:
            return bool(duty.work())
        except ServiceUnavailable as error:
            logger.warning("%s put off: %s", duty.name, error.__cause__)
        except Exception:
            logger.exception("%s failed", duty.name)
        return False


def main() -> None:
    settings = Settings()
    configure_logging("beat", level=settings.log_level, form=settings.log_format)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    database, probe = Database(settings.database, pool_size=1), BrokerProbe(settings)
    logger.info("beat ready")
    try:
        Maintenance(settings, database, probe).run(stopping)
    finally:
        probe.close()
        database.dispose()


if __name__ == "__main__":
    main()
