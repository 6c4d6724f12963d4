"""Running predict jobs as a pipeline: while the network computes one micro-batch, a second thread writes the
results of the one before it and makes the next one ready.

::

    this thread         compute k                     | compute k+1 ...
    beside it           write k-1 | claim, read k+1   | write k | claim, read k+2 ...
    threads of decoders             decode k+1        |           decode k+2 ...

One thread beside the network and not two, because on SQLite a claim and a result would wait for each other's
transaction anyway. Never is more under way than these three batches. When each step began and ended stands in
the log line "batch run".

A job that was tried before may be what killed its process. It is alone here: nothing is claimed ahead of its
end, and what came before it is written first. So a deadly picture costs others one attempt at most, however
many there are of its kind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from core.broker import TASK_SECONDS
from core.database import Database
from core.errors import DeviceFailed, InternalError, PawlensError, ServiceUnavailable, TimedOut
from core.jobs import claims
from core.settings import Settings
from core.vision.prediction import ImageEngine, Prediction
from worker.leases import LeaseKeeper
from worker.preparing import MicroBatch, Preparer
from worker.recording import Outcome, Recorder

logger = logging.getLogger(__name__)

HASTE = 2.0
"""The next batch is claimed when the time left is so many times what getting the last one ready took."""


class PredictRunner:
    def __init__(
        self, settings: Settings, database: Database, engine: ImageEngine, keeper: LeaseKeeper
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._keeper = keeper
        self._preparer = Preparer(settings, database, engine, keeper)
        self._recorder = Recorder(settings, database, engine.manifest)
        self._last: MicroBatch | None = None  # whose steps tell how long the next one will take
        self._began = 0.0  # with the batch that is being run

    def drain(self, owner: str, may_claim: Callable[[], bool]) -> bool:
        """Run what is ready while ``may_claim``; True when there may be more.

        What has been claimed is run to its end, except when something fails that ends all work here.

        Raises:
            ServiceUnavailable: the database is away; the leases will run out and the jobs run again.
            DeviceFailed: the process must be left.
        """
        beside = ThreadPoolExecutor(1, thread_name_prefix="beside")
        batch: MicroBatch | None = None
        ahead: Future[MicroBatch | None] | None = None
        recorded: Future[None] | None = None
        computed, leaving = threading.Event(), threading.Event()

        def may_take() -> bool:
            return may_claim() and not leaving.is_set()

        try:
            while True:
                batch = ahead.result() if ahead else None
                ahead = None
                if batch is None:
                    if recorded:
                        recorded.result()
                    if not may_claim():
                        return True
                    batch = self._preparer.take(owner)
                    if batch is None:
                        return False
                computed.clear()
                if may_claim() and not batch.is_retry:
                    size = len(batch.claims)
                    ahead = beside.submit(self._take_ahead, owner, size, computed, may_take)
                outcomes = self._run(batch)
                computed.set()
                if recorded:
                    recorded.result()
                recorded = beside.submit(self._recorder.record, batch, outcomes)
        finally:
            leaving.set()
            computed.set()
            beside.shutdown(wait=False)
            # When something has failed: a batch that is finished need not share the fate of what is not.
            unfinished: list[Future[Any]] = [future for future in (recorded, ahead) if future]
            wait(unfinished, timeout=self._settings.lease_seconds)
            if batch:
                batch.release()
            if ahead:
                self._give_back(ahead)

    def _take_ahead(
        self, owner: str, size: int, computed: threading.Event, may_take: Callable[[], bool]
    ) -> MicroBatch | None:
        """The next batch, as late as will do: until it is claimed, any other worker may take these jobs, a
        more urgent one goes before them, and a cancel needs nobody's consent."""
        last = self._last
        if last and len(last.claims) == size:  # which is so when there is much to do: all batches are full
            left = self._began + last.seconds("compute", "compute") - time.monotonic()
            computed.wait(max(0.0, left - HASTE * last.seconds("claim", "decode")))
        return self._preparer.take(owner, ahead=True) if may_take() else None

    def _give_back(self, ahead: Future[MicroBatch | None]) -> None:
        """Put back what was claimed and will not be run, since nothing is wrong with it."""
        batch = ahead.result() if ahead.done() and not ahead.exception() else None
        if batch is None:
            return
        batch.release()
        try:
            with self._database.write() as session:
                for claim in batch.claims:
                    claims.give_back(session, claim)
        except ServiceUnavailable as error:
            logger.warning("leases run out by themselves, the database is away: %s", error.__cause__)

    def _run(self, batch: MicroBatch) -> list[Outcome]:
        self._began = time.monotonic()
        try:
            outcomes = self._answers(batch)
        except SoftTimeLimitExceeded:
            late = TimedOut(f"It ran for {TASK_SECONDS} seconds, longer than any job may.")
            return [Outcome(claim, error=late) for claim in batch.claims]
        except DeviceFailed:
            raise
        except Exception:
            logger.exception("batch failed", extra={"batch_size": len(batch.claims)})
            return [Outcome(claim, error=InternalError.of_worker()) for claim in batch.claims]
        self._last = batch
        return outcomes

    def _answers(self, batch: MicroBatch) -> list[Outcome]:
        with batch.step("wait"):
            decoded = [future.result() for future in batch.decoding]
        batch.decoding = []
        # What was canceled or lost meanwhile is not run, but recorded: a cancel wants its acknowledgement.
        outcomes = {claim.job_id: Outcome(claim) for claim in batch.claims}
        whole = []
        for claim, item in zip(batch.claims, decoded, strict=True):
            if isinstance(item, PawlensError):
                outcomes[claim.job_id] = Outcome(claim, error=item)
            elif self._keeper.wanted(claim):
                whole.append((claim, item))
        with batch.step("compute"):
            answers = self._predict([item for _, item in whole])
        timings = {
            "decode_ms": round(batch.seconds("read", "decode") * 1000, 1),
            "inference_ms": round(batch.seconds("compute", "compute") * 1000, 1),
            "batch_size": len(whole),
        }
        for (claim, _), answer in zip(whole, answers, strict=True):
            if isinstance(answer, PawlensError):
                outcomes[claim.job_id] = Outcome(claim, error=answer)
            else:
                shown = {"queued_ms": claim.queued_ms, **timings}
                outcomes[claim.job_id] = Outcome(claim, answer, timings=shown)
        return list(outcomes.values())

    def _predict(self, items: Sequence[Any]) -> list[Prediction | PawlensError]:
        """One forward for all; when it fails, one for each, so that a bad picture fails alone."""
        if not items:
            return []
        try:
            return list(self._engine.predict(items))
        except (DeviceFailed, SoftTimeLimitExceeded):
            raise
        except Exception as error:
            if len(items) == 1:
                return [_shown(error)]
            logger.warning("a batch of %d failed, trying one by one: %r", len(items), error)
            return [answer for item in items for answer in self._predict([item])]


def _shown(error: Exception) -> PawlensError:
    if isinstance(error, PawlensError):
        return error
    logger.error("prediction failed", exc_info=error)
    return InternalError.of_worker()
