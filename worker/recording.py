"""Writing what came of a micro-batch: all of it in one transaction, each job behind its own fence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.database import Database
from core.errors import PawlensError
from core.jobs import results
from core.jobs.claims import Claim
from core.jobs.results import Result
from core.logs import log_context
from core.settings import Settings
from core.vision.manifest import Manifest
from core.vision.prediction import Prediction
from worker.preparing import MicroBatch
from worker.writing import write_outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of one job of a batch: a prediction, an error, or neither when it was not wanted any more."""

    claim: Claim
    prediction: Prediction | None = None
    error: PawlensError | None = None
    timings: dict[str, Any] | None = None


class Recorder:
    def __init__(self, settings: Settings, database: Database, manifest: Manifest) -> None:
        self._settings = settings
        self._database = database
        self._model = {"name": manifest.name, "version": manifest.version, "digest": manifest.sha256}

    def record(self, batch: MicroBatch, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes and release the batch.

        Raises:
            ServiceUnavailable: the database was away for longer than the lease. The jobs will run again.
        """
        try:
            with batch.step("write"):
                written = write_outcome(
                    self._settings, self._database, lambda session: self._write(session, outcomes)
                )
        finally:
            batch.release()
        # Only now is it true: before the commit, the transaction might have had to be repeated.
        for outcome in outcomes:
            with log_context(job=outcome.claim.job_id, correlation=outcome.claim.correlation_id):
                _log_outcome(outcome, written=outcome.claim.job_id in written)
        _log_batch(batch, outcomes)

    def _write(self, session: Session, outcomes: Sequence[Outcome]) -> set[str]:
        """The ids of the jobs of which something was written; the others are no longer these attempts'."""
        found = [
            (outcome.claim, Result(outcome.prediction.shown(), self._model, outcome.timings))
            for outcome in outcomes
            if outcome.prediction is not None and outcome.timings is not None
        ]
        written = results.succeed_all(session, found)
        retry = self._settings.retry_seconds
        for outcome in outcomes:
            claim = outcome.claim
            if claim.job_id in written:
                continue
            failed = outcome.error and results.fail(session, claim, outcome.error, retry_seconds=retry)
            if failed or results.acknowledge_cancel(session, claim):
                written.add(claim.job_id)
        return written


def _log_outcome(outcome: Outcome, *, written: bool) -> None:
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


def _log_batch(batch: MicroBatch, outcomes: Sequence[Outcome]) -> None:
    answered = [outcome for outcome in outcomes if outcome.prediction is not None]
    logger.info(
        "batch run",
        extra={
            "batch_size": len(answered),
            "dropped": sum(outcome.prediction is None and outcome.error is None for outcome in outcomes),
            "steps": {
                name: [round(began, 4), round(ended, 4)] for name, (began, ended) in batch.steps.items()
            },
        },
    )
