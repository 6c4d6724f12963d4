"""What the endpoints share: the database, the hints, the watcher, and the one way in for a job."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from api.acceptance import Acceptance, Accepted
from api.auth import KeyRing
from api.hints import HintPublisher
from api.limits import Throughput
from api.schemas import JobOut
from api.submissions import Asked, check
from api.watcher import Watcher
from core.broker import BrokerProbe
from core.database import Database
from core.errors import InvalidRequest, InvalidWeights, ServiceUnavailable
from core.jobs import queries
from core.jobs.states import Queue
from core.jobs.submit import Idempotency, made_before
from core.settings import Settings
from core.vision.manifest import Manifest, read_manifest


class Service:
    """Made once per process. The blocking methods are called in threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.hints = HintPublisher(settings)
        self.probe = BrokerProbe(settings)
        self.watcher = Watcher(self.database)
        self.keys = KeyRing(self.database)
        self.throughput = Throughput(self.database, settings.max_queue)
        self.acceptance = Acceptance(self.database, max_attempts=settings.max_attempts)
        # Pictures being decoded for checking take memory and a core each, so only a few at a time.
        self._checkers = ThreadPoolExecutor(8, thread_name_prefix="check")

    def start(self) -> None:
        self.acceptance.start()
        self.hints.start()
        self.watcher.start()

    async def stop(self) -> None:
        await self.watcher.stop()
        await asyncio.to_thread(self._checkers.shutdown)
        await asyncio.to_thread(self.acceptance.stop)
        await asyncio.to_thread(self.hints.stop)
        await self.keys.close()
        self.probe.close()
        self.database.dispose()

    async def accept(self, asked: Asked, *, owner: str | None) -> JobOut:
        """Check the picture, write the job, and only after the commit hint that there is work."""
        job, _ = await self.accept_once(asked, None, owner=owner)
        return job

    async def accept_once(
        self, asked: Asked, once: Idempotency | None, *, owner: str | None
    ) -> tuple[JobOut, bool]:
        """As :meth:`accept`, unless this very request has come before: then its job as it is now, and True.

        Raises:
            IdempotencyKeyReused: another request has come with this key.
        """
        if once is not None:  # what was accepted is answered also when nothing new would be
            made = await asyncio.to_thread(self._made_before, once, owner)
            if made is not None:
                return made, True
        queue = Queue.IO if asked.url else Queue.EXPLAIN if asked.fields.methods else Queue.PREDICT
        # From the checkers straight to the writer: the event loop, of which there is one, hears of the end.
        answer: Future[Accepted] = Future()
        check = partial(self._check_and_post, answer, asked, queue, once, owner)
        self._checkers.submit(copy_context().run, check)
        accepted = await asyncio.wrap_future(answer)
        if accepted.record is None:
            return await asyncio.to_thread(self.job, accepted.job_id, owner=owner), True
        self.hints.note(queue)
        return self.shown(accepted.record), False

    def _made_before(self, once: Idempotency, owner: str | None) -> JobOut | None:
        with self.database.read() as session:
            made = made_before(session, once, owner=owner)
        return None if made is None else self.job(made, owner=owner)

    def _check_and_post(
        self,
        answer: Future[Accepted],
        asked: Asked,
        queue: Queue,
        once: Idempotency | None,
        owner: str | None,
    ) -> None:
        if answer.cancelled():  # its client has gone away
            return
        try:
            self.throughput.accept(queue)  # first: a full service had better not decode pictures
            submission = check(asked, self.settings, owner=owner)
            self.check_target(asked.fields.options.target)
            self.acceptance.post(submission, once, answer)
        except Exception as error:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def check_target(self, target: str | None) -> None:
        """Raises InvalidRequest when it is no class of the network."""
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
            from core.vision.stand_in import StandInEngine  # noqa: PLC0415 - loads NumPy

            return StandInEngine().manifest
        try:
            return read_manifest(self.settings.weights)
        except InvalidWeights as error:
            raise ServiceUnavailable(f"The weights cannot be used: {error.detail}") from error

    def job(self, job_id: str, *, owner: str | None) -> JobOut:
        with self.database.read() as session:
            record = queries.get_job(session, job_id, owner=owner)
        if record.position is not None:
            self.throughput.refresh()
        return self.shown(record)

    def shown(self, record: queries.JobRecord) -> JobOut:
        if record.position is None:
            return JobOut.of(record)
        return JobOut.of(record, self.throughput.start_of(record.job.queue, record.position))

    async def wait(
        self,
        job_id: str,
        seconds: float,
        *,
        owner: str | None,
        after: int | None = None,
        even_when_stopping: bool = False,
    ) -> JobOut:
        """The job once it has ended, has an event above ``after``, or the time is up.

        When this process is stopping the time is up, unless the caller has no other way to the answer.
        """
        if seconds > 0:
            if owner is not None:  # waiting for another owner's job would tell that it is there
                await asyncio.to_thread(self.job, job_id, owner=owner)
            await self.watcher.wait(job_id, seconds, after=after, even_when_released=even_when_stopping)
        return await asyncio.to_thread(self.job, job_id, owner=owner)


async def get_service(request: Request) -> Service:
    # Async, as every dependency here: FastAPI calls a plain function in a thread, for each request.
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
