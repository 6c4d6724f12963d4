"""Getting a micro-batch ready for the network: claim its jobs, read their pictures, have them decoded.

No timers collect a batch. While one batch runs, jobs pile up, and the next claim takes what is there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from core.database import Database
from core.errors import InternalError, PawlensError, ServiceUnavailable
from core.jobs import claims, queries
from core.jobs.claims import Claim
from core.jobs.rescue import ready
from core.jobs.states import Queue
from core.logs import log_context
from core.settings import Settings
from core.vision.prediction import ImageEngine
from worker.leases import LeaseKeeper

logger = logging.getLogger(__name__)


class MicroBatch:
    """Jobs that go through the network together, under lease until :meth:`release`.

    ``decoding`` has, for each claim in its order, what will be its picture or the reason why there is none.
    ``steps`` says when each step began and ended, in seconds of the system's monotonic clock.
    """

    def __init__(self, held: Sequence[Claim], keeper: LeaseKeeper) -> None:
        self.claims = list(held)
        self.decoding: list[Future[Any]] = []
        self.steps: dict[str, tuple[float, float]] = {}
        self._leases = ExitStack()
        self._leases.enter_context(keeper.holding(held))

    @property
    def is_retry(self) -> bool:
        """A job tried before, which therefore is alone (see :func:`core.jobs.claims.claim`)."""
        return self.claims[0].attempt > 1

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = began, time.monotonic()

    def seconds(self, first: str, last: str) -> float:
        """From the beginning of the one step to the end of the other."""
        return self.steps[last][1] - self.steps[first][0]

    def release(self) -> None:
        """Keep the leases no longer, and decode nothing more. May be called again."""
        for picture in self.decoding:
            picture.cancel()
        self._leases.close()


def claim(
    settings: Settings, database: Database, queue: Queue, *, owner: str, limit: int, ahead: bool = False
) -> list[Claim]:
    """Take up to ``limit`` ready jobs; with ``ahead``, for a worker that has not finished what it has.

    Who claims ahead leaves as many behind, so that no other worker looks in vain for jobs that wait here. And
    it takes no job that was tried before: should that kill the process, what is under way must not die with
    it.
    """
    enough = 2 * limit if ahead else 1
    # Looking first keeps a hint too many from taking the write lock (SQLite has only one).
    with database.read() as session:
        if ready(session, queue, at_most=enough) < enough:
            return []
    with database.write() as session:
        found = claims.claim(session, queue, owner=owner, limit=limit, lease_seconds=settings.lease_seconds)
        if ahead and found and found[0].attempt > 1:
            session.rollback()  # nobody has seen this claim, and nothing is counted
            return []
    return found


class Preparer:
    """Makes micro-batches of predict jobs. Its threads decode; the caller's does the rest."""

    def __init__(
        self, settings: Settings, database: Database, engine: ImageEngine, keeper: LeaseKeeper
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._keeper = keeper
        self._decoders = ThreadPoolExecutor(
            settings.threads or os.cpu_count() or 2, thread_name_prefix="decode"
        )

    def take(self, owner: str, *, ahead: bool = False) -> MicroBatch | None:
        """What is ready, as :func:`claim` has it, its pictures being decoded; None when there is nothing.

        Raises:
            ServiceUnavailable: the database is away. What was claimed is left to the end of its lease.
        """
        began = time.monotonic()
        limit = self._engine.max_batch
        held = claim(self._settings, self._database, Queue.PREDICT, owner=owner, limit=limit, ahead=ahead)
        if not held:
            return None
        batch = MicroBatch(held, self._keeper)
        batch.steps["claim"] = began, time.monotonic()
        try:
            self._read(batch)
        except ServiceUnavailable:
            batch.release()
            raise
        except Exception as error:  # of ours; it comes up where the batch is run, and fails it
            batch.decoding = [_failed(error)]
        return batch

    def _read(self, batch: MicroBatch) -> None:
        with batch.step("read"), self._database.read() as session:
            pictures = queries.picture_bytes(session, {claim.image_sha256 or "" for claim in batch.claims})
        began = time.monotonic()

        def decode(claim: Claim) -> Any:
            try:
                return self._decode(pictures, claim)
            finally:
                batch.steps["decode"] = began, time.monotonic()  # the last one to end has the last word

        batch.decoding = [self._decoders.submit(decode, claim) for claim in batch.claims]

    def _decode(self, pictures: dict[str, bytes], claim: Claim) -> Any:
        try:
            return self._engine.prepare(pictures[claim.image_sha256 or ""])
        except PawlensError as error:
            return error
        except Exception:
            with log_context(job=claim.job_id, correlation=claim.correlation_id):
                logger.exception("decoding failed")
            return InternalError.of_worker()


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
