"""Running one explain job: the prediction first, then each method, each visible as soon as it is there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from core.broker import TASK_SECONDS
from core.database import Database
from core.errors import DeviceFailed, InternalError, PawlensError, ServiceUnavailable, TimedOut
from core.explain import rendering
from core.explain.explanation import Explainer, Explanation, Floats
from core.explain.methods import GENERATION, METHODS
from core.explain.options import ExplainOptions
from core.jobs import claims, explanations, queries, results
from core.jobs.claims import Claim
from core.jobs.explanations import File, Finished
from core.logs import log_context
from core.settings import Settings
from core.vision.prediction import ImageEngine, Prediction
from core.vision.preprocessing import Placement, Preprocessing
from worker.leases import LeaseKeeper
from worker.writing import write_outcome

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
"""Progress is written at most so often; every chunk looks whether the job is still wanted."""


class JobStopped(Exception):
    """The job is to be left between two chunks: canceled, expired, lost, or this worker is stopping."""


class ExplainRunner:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        engine: ImageEngine,
        explainer: Explainer,
        keeper: LeaseKeeper,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._explainer = explainer
        self._keeper = keeper
        self._stopping = stopping
        manifest = engine.manifest
        self._preprocessing = Preprocessing(manifest.input)
        self._model = {"name": manifest.name, "version": manifest.version, "digest": manifest.sha256}

    def run(self, claim: Claim) -> None:
        """Run the job to its end, or put it back, or leave it to whoever has it now."""
        with log_context(job=claim.job_id, correlation=claim.correlation_id):
            try:
                self._run(claim)
            except JobStopped as reason:
                logger.info("left: %s", reason)
                self._write(lambda session: self._leave(session, claim))
            except (ServiceUnavailable, DeviceFailed):
                raise  # the database is away, or the process must be left: the lease sees to the rest
            except SoftTimeLimitExceeded:
                self._fail(claim, TimedOut(f"It ran for {TASK_SECONDS} seconds, longer than any job may."))
            except PawlensError as error:
                self._fail(claim, error)
            except Exception:
                logger.exception("job failed")
                self._fail(claim, InternalError.of_worker())

    def _run(self, claim: Claim) -> None:
        started = time.perf_counter()
        with self._database.read() as session:
            image, picture = queries.picture_of(session, claim.job_id)
        crop = self._engine.prepare(picture)
        decode_ms = (time.perf_counter() - started) * 1000
        prediction = self._engine.predict([crop])[0]
        inference_ms = (time.perf_counter() - started) * 1000 - decode_ms
        shown = prediction.shown()
        self._fenced(lambda session: results.predicted(session, claim, shown, self._model))

        options = ExplainOptions.model_validate(claim.options)
        if options.target is None:
            # The answer that is shown: the explainer judges in float32 and, in a close call, otherwise.
            options = options.model_copy(update={"target": prediction.label})
        placement = self._preprocessing.placement(image.width, image.height)
        with self._database.read() as session:
            pending = explanations.pending(session, claim)
        for method in pending:
            self._check(claim)
            self._explain(claim, method, crop, options, prediction, placement)

        timings = {
            "queued_ms": claim.queued_ms,
            "decode_ms": round(decode_ms, 1),
            "inference_ms": round(inference_ms, 1),
            "batch_size": 1,
        }
        self._fenced(
            lambda session: results.succeed(
                session,
                claim,
                prediction=shown,
                model=self._model,
                timings=timings,
                partial=explanations.any_failed(session, claim),
            )
        )
        logger.info("job explained", extra={"label": prediction.label, "attempt": claim.attempt})

    def _explain(
        self,
        claim: Claim,
        method: str,
        crop: Any,
        options: ExplainOptions,
        prediction: Prediction,
        placement: Placement,
    ) -> None:
        """One method from start to artifacts. Its own failure is recorded with it and ends nothing else."""
        of_picture = METHODS[method].needs_picture
        key = explanations.cache_key(
            picture=(claim.image_sha256 or "") if of_picture else "",
            network=self._engine.manifest.answers_digest(),
            generation=GENERATION,
            method=method,
            options=options.of(method, shared=of_picture),
        )
        reused = self._write(lambda session: explanations.reuse(session, claim, method, key=key))
        if reused:
            logger.info("method reused", extra={"method": method})
            return
        if reused is False:
            raise JobStopped("the job is no longer this attempt's")
        self._fenced(lambda session: explanations.start(session, claim, method, key=key))
        started = time.perf_counter()
        try:
            progress = _Progress(self._database, claim, method, lambda: self._check(claim))
            explanation = self._explainer.explain(method, crop, options, progress)
            files = rendering.render(explanation, crop, prediction=prediction.shown())
        except (JobStopped, DeviceFailed, SoftTimeLimitExceeded):
            raise
        except Exception as error:
            if not isinstance(error, PawlensError):
                logger.exception("method failed", extra={"method": method})
            shown = error if isinstance(error, PawlensError) else InternalError.of_worker()
            seconds = time.perf_counter() - started
            self._fenced(lambda session: explanations.fail(session, claim, method, shown, seconds=seconds))
            return
        finished = Finished(
            files={name: File(data, media_type) for name, (data, media_type) in files.items()},
            quality=explanation.quality,
            provenance=explanation.provenance | (_explained(explanation, placement) if of_picture else {}),
            seconds=time.perf_counter() - started,
        )
        self._fenced(lambda session: explanations.finish(session, claim, method, finished))
        logger.info("method succeeded", extra={"method": method, "seconds": round(finished.seconds, 3)})

    def _check(self, claim: Claim) -> None:
        if not self._keeper.wanted(claim):
            raise JobStopped("the job is canceled or no longer this attempt's")
        if self._stopping.is_set():
            raise JobStopped("this worker is stopping")

    def _write(self, work: Callable[[Session], Any]) -> Any:
        return write_outcome(self._settings, self._database, work)

    def _fenced(self, work: Callable[[Session], bool]) -> None:
        """Write, or learn from the fence that there is nothing more to write."""
        if not self._write(work):
            raise JobStopped("the job is no longer this attempt's")

    def _leave(self, session: Session, claim: Claim) -> None:
        if not results.acknowledge_cancel(session, claim) and self._stopping.is_set():
            claims.give_back(session, claim)

    def _fail(self, claim: Claim, error: PawlensError) -> None:
        logger.warning("job failed: %s", error.detail, extra={"code": error.code})
        retry = self._settings.retry_seconds
        self._write(
            lambda session: (
                results.fail(session, claim, error, retry_seconds=retry)
                or results.acknowledge_cancel(session, claim)
            )
        )


def _explained(explanation: Explanation, placement: Placement) -> dict[str, Any]:
    """Which class of which square of the picture; its log-odds in float32, and its calibrated probability."""
    target = explanation.target
    return {
        "target": target.label,
        "margin": target.margin,
        "probability": target.probability,
        "placement": asdict(placement),
    }


class _Progress:
    """Called by a method between its chunks: stops it when the job is unwanted, else shows how far it is."""

    def __init__(self, database: Database, claim: Claim, method: str, check: Callable[[], None]) -> None:
        self._database = database
        self._claim = claim
        self._method = method
        self._check = check
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int, partial: Floats | None) -> None:
        self._check()
        if time.monotonic() < self._next:
            return
        file = None
        if partial is not None and done < total:
            file = File(rendering.heatmap(self._method, partial), "image/png")
        try:
            with self._database.write() as session:
                wrote = explanations.progress(
                    session, self._claim, self._method, done=done, total=total, partial=file
                )
        except ServiceUnavailable as error:  # to be told later is good enough for progress
            logger.warning("progress not written: %s", error.__cause__)
            wrote = True
        if not wrote:
            raise JobStopped("the job is canceled or no longer this attempt's")
        self._next = time.monotonic() + PROGRESS_SECONDS
