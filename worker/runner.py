"""Running jobs: claim a micro-batch, decode, one forward, write the results.

No timers collect a batch. While one batch runs, jobs pile up, and the next claim takes what is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from core.broker import TASK_SECONDS
from core.database import Database
from core.errors import DeviceFailed, InternalError, PawlensError, ServiceUnavailable, TimedOut
from core.explain.explanation import Explainer
from core.jobs import claims, queries, results
from core.jobs.claims import Claim
from core.jobs.rescue import ready
from core.jobs.states import Queue
from core.logs import log_context
from core.settings import Settings
from core.vision.prediction import ImageEngine, Prediction
from worker.explaining import ExplainRunner
from worker.leases import LeaseKeeper
from worker.writing import write_outcome

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
"""A task takes batch after batch for so long, then leaves the queue to Celery's other tasks."""


@dataclass(frozen=True)
class Outcome:
    """What came of one job of a batch: a prediction or an error."""

    claim: Claim
    prediction: Prediction | None = None
    error: PawlensError | None = None
    timings: dict[str, Any] | None = None


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
        self._engine = engine
        self._keeper = keeper
        self._stopping = stopping
        self._explaining: ExplainRunner | None = None
        if explainer is not None:
            self._explaining = ExplainRunner(settings, database, engine, explainer, keeper, stopping)
        self._decoders = ThreadPoolExecutor(settings.threads or 2, thread_name_prefix="decode")
        self._model = {
            "name": engine.manifest.name,
            "version": engine.manifest.version,
            "digest": engine.manifest.sha256,
        }

    def drain(self, queue: Queue, owner: str) -> bool:
        """Run ready jobs until there are none or the time is up; True when there may be more.

        ``owner`` names the lease, so that the parent process can release it if this process dies.
        """
        limit = self._engine.max_batch if queue is Queue.PREDICT else 1
        leave_at = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < leave_at and not self._stopping.is_set():
            batch = self._claim(queue, owner, limit)
            if not batch:
                return False
            with self._keeper.holding(batch):
                if queue is Queue.EXPLAIN:
                    assert self._explaining is not None
                    self._explaining.run(batch[0])
                else:
                    self._run_and_record(batch)
        return True

    def _claim(self, queue: Queue, owner: str, limit: int) -> list[Claim]:
        # Looking first keeps a hint too many from taking the write lock (SQLite has only one).
        with self._database.read() as session:
            if not ready(session, queue, at_most=1):
                return []
        with self._database.write() as session:
            lease = self._settings.lease_seconds
            return claims.claim(session, queue, owner=owner, limit=limit, lease_seconds=lease)

    def _run_and_record(self, batch: list[Claim]) -> None:
        try:
            outcomes = self._run(batch)
        except SoftTimeLimitExceeded:
            late = TimedOut(f"It ran for {TASK_SECONDS} seconds, longer than any job may.")
            outcomes = [Outcome(claim, error=late) for claim in batch]
        except ServiceUnavailable:
            raise  # the database is away: the leases will run out and the jobs run again
        except DeviceFailed:
            raise  # the process must be left; its leases are released by the parent
        except Exception:
            logger.exception("batch failed", extra={"batch_size": len(batch)})
            outcomes = [Outcome(claim, error=InternalError.of_worker()) for claim in batch]
        written = write_outcome(
            self._settings,
            self._database,
            lambda session: [self._record(session, outcome) for outcome in outcomes],
        )
        # Only now is it true: before the commit, the transaction might have had to be repeated.
        for outcome, wrote in zip(outcomes, written, strict=True):
            with log_context(job=outcome.claim.job_id, correlation=outcome.claim.correlation_id):
                _log_outcome(outcome, wrote)

    def _run(self, batch: list[Claim]) -> list[Outcome]:
        started = time.perf_counter()
        with self._database.read() as session:
            pictures = queries.picture_bytes(session, {claim.image_sha256 or "" for claim in batch})
        decoded = list(self._decoders.map(lambda claim: self._prepare(pictures, claim), batch))
        decode_ms = (time.perf_counter() - started) * 1000
        outcomes = [Outcome(claim, error=item) for claim, item in decoded if isinstance(item, PawlensError)]
        whole = [(claim, item) for claim, item in decoded if not isinstance(item, PawlensError)]
        whole = [(claim, item) for claim, item in whole if self._keeper.wanted(claim)]
        dropped = len(batch) - len(outcomes) - len(whole)
        predictions = self._predict([item for _, item in whole])
        inference_ms = (time.perf_counter() - started) * 1000 - decode_ms
        for (claim, _), answer in zip(whole, predictions, strict=True):
            if isinstance(answer, PawlensError):
                outcomes.append(Outcome(claim, error=answer))
            else:
                timings = _timings(claim, decode_ms, inference_ms, len(whole))
                outcomes.append(Outcome(claim, answer, timings=timings))
        # What was canceled or lost before the forward is recorded too: a cancel wants its acknowledgement.
        recorded = {outcome.claim.job_id for outcome in outcomes}
        outcomes += [Outcome(claim) for claim in batch if claim.job_id not in recorded]
        logger.info(
            "batch run",
            extra={
                "batch_size": len(whole),
                "dropped": dropped,
                "decode_ms": round(decode_ms, 1),
                "inference_ms": round(inference_ms, 1),
            },
        )
        return outcomes

    def _prepare(self, pictures: dict[str, bytes], claim: Claim) -> tuple[Claim, Any]:
        try:
            return claim, self._engine.prepare(pictures[claim.image_sha256 or ""])
        except PawlensError as error:
            return claim, error
        except Exception:
            with log_context(job=claim.job_id, correlation=claim.correlation_id):
                logger.exception("decoding failed")
            return claim, InternalError.of_worker()

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

    def _record(self, session: Session, outcome: Outcome) -> bool:
        """Write what came of a job; False when it is no longer this attempt's."""
        claim, written = outcome.claim, False
        if outcome.error is not None:
            retry = self._settings.retry_seconds
            written = results.fail(session, claim, outcome.error, retry_seconds=retry)
        elif outcome.prediction is not None and outcome.timings is not None:
            written = results.succeed(
                session,
                claim,
                prediction=outcome.prediction.shown(),
                model=self._model,
                timings=outcome.timings,
            )
        return written or results.acknowledge_cancel(session, claim)


def _timings(claim: Claim, decode_ms: float, inference_ms: float, batch_size: int) -> dict[str, Any]:
    return {
        "queued_ms": claim.queued_ms,
        "decode_ms": round(decode_ms, 1),
        "inference_ms": round(inference_ms, 1),
        "batch_size": batch_size,
    }


def _shown(error: Exception) -> PawlensError:
    if isinstance(error, PawlensError):
        return error
    logger.error("prediction failed", exc_info=error)
    return InternalError.of_worker()


def _log_outcome(outcome: Outcome, written: bool) -> None:
    if not written:
        logger.warning(
            "result dropped: the job is no longer this attempt's", extra={"attempt": outcome.claim.attempt}
        )
    elif outcome.error is not None:
        logger.warning("job failed: %s", outcome.error.detail, extra={"code": outcome.error.code})
    elif outcome.prediction is not None:
        logger.info(
            "job succeeded", extra={"label": outcome.prediction.label, "attempt": outcome.claim.attempt}
        )
