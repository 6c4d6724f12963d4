"""What the endpoints share: the database, the hints, the watcher, and the one way in for a job."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from sqlalchemy import select

from api.hints import HintPublisher
from api.schemas import JobOut
from api.submissions import Asked, check
from api.watcher import Watcher
from core.broker import BrokerProbe
from core.database import Database, db_now
from core.errors import InvalidRequest, InvalidWeights, ServiceUnavailable
from core.jobs import queries
from core.jobs.states import Queue
from core.jobs.submit import submit
from core.settings import Settings
from core.vision.manifest import Manifest, read_manifest
from core.vision.stand_in import StandInEngine


class Service:
    """Made once per process. The blocking methods are called in threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.hints = HintPublisher(settings)
        self.probe = BrokerProbe(settings)
        self.watcher = Watcher(self.database)
        self._throughput = Throughput(self.database)
        # Pictures being decoded for checking take memory and a core each, so only a few at a time.
        self._doors = CapacityLimiter(8)

    def start(self) -> None:
        self.hints.start()
        self.watcher.start()

    async def stop(self) -> None:
        await self.watcher.stop()
        await asyncio.to_thread(self.hints.stop)
        self.probe.close()
        self.database.dispose()

    async def accept(self, asked: Asked) -> JobOut:
        """Check the picture, write the job, and only after the commit hint that there is work."""
        return await to_thread.run_sync(self._accept, asked, limiter=self._doors)

    def _accept(self, asked: Asked) -> JobOut:
        submission = check(asked, self.settings)
        self._check_target(asked.fields.options.target)
        with self.database.write() as session:
            job_id = submit(session, submission, max_attempts=self.settings.max_attempts)
        if submission.url is not None:
            self.hints.note(Queue.IO)
        else:
            self.hints.note(Queue.EXPLAIN if submission.methods else Queue.PREDICT)
        return self.job(job_id)

    def _check_target(self, target: str | None) -> None:
        if target is not None and target not in (labels := self.manifest().labels):
            raise InvalidRequest(
                f"options.target: {target!r} is no class. The classes are {', '.join(labels)}."
            )

    def manifest(self) -> Manifest:
        """What the workers' weights say of themselves.

        Raises:
            ServiceUnavailable: the manifest is missing or damaged.
        """
        if self.settings.engine == "stand-in":
            return StandInEngine().manifest
        try:
            return read_manifest(self.settings.weights)
        except InvalidWeights as error:
            raise ServiceUnavailable(f"The weights cannot be used: {error.detail}") from error

    def job(self, job_id: str) -> JobOut:
        with self.database.read() as session:
            record = queries.get_job(session, job_id)
        return self.shown(record)

    def shown(self, record: queries.JobRecord) -> JobOut:
        if record.position is None:
            return JobOut.of(record)
        return JobOut.of(record, self._throughput.start_of(record.job.queue, record.position))

    async def wait(self, job_id: str, seconds: float, *, after: int | None = None) -> JobOut:
        """The job once it has ended, has an event above ``after``, or the time is up."""
        if seconds > 0:
            await self.watcher.wait(job_id, seconds, after=after)
        return await asyncio.to_thread(self.job, job_id)


class Throughput:
    """Estimates when a waiting job starts: its position over the jobs that finished in the last minute."""

    CACHE_SECONDS = 1.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read_at = float("-inf")
        self._now: datetime | None = None
        self._depths: dict[Queue, queries.QueueDepth] = {}

    def start_of(self, queue: Queue, position: int) -> datetime | None:
        if time.monotonic() - self._read_at > self.CACHE_SECONDS:
            with self._database.read() as session:
                self._depths, self._now = queries.queue_depths(session), session.scalar(select(db_now()))
            self._read_at = time.monotonic()
        a_minute = self._depths[queue].finished_last_minute
        if not a_minute or self._now is None:
            return None
        return self._now + timedelta(seconds=position * 60 / a_minute)


def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
