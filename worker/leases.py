"""Keeping the leases of the jobs that this process works on, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from core.database import Database
from core.errors import ServiceUnavailable, StorageFull
from core.jobs import claims, workers
from core.jobs.claims import Claim
from core.jobs.states import JobState, Queue

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Extends the lease of every held claim each ``heartbeat_seconds``, and shows that the worker is alive.

    When the database is away a beat is missed and nothing else happens: the lease outlasts several beats,
    and a lease that does run out is noticed at the next write, which the fence refuses.
    """

    def __init__(
        self,
        database: Database,
        *,
        worker_id: str,
        queues: Sequence[Queue],
        lease_seconds: float,
        heartbeat_seconds: float,
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._queues = queues
        self.report: dict[str, Any] = {}  # what the worker says of its device; shown by /v1/queue
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Claim] = {}
        self._states: dict[str, JobState] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        """Register the worker and begin to beat. The worker's row is what readiness looks at."""
        self._beat_if_possible()  # else at the next beat: a worker may start before its database does
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._lease_seconds)

    @contextmanager
    def holding(self, held: Sequence[Claim]) -> Iterator[None]:
        """Keep these leases while the block runs."""
        keys = [(claim.job_id, claim.attempt) for claim in held]
        with self._lock:
            self._held.update(zip(keys, held, strict=True))
            self._states.update({claim.job_id: claim.state for claim in held})
        try:
            yield
        finally:
            with self._lock:
                for key in keys:
                    self._held.pop(key, None)
                    self._states.pop(key[0], None)

    def wanted(self, claim: Claim) -> bool:
        """Whether the job, at the last beat, was still ours and nobody had canceled it."""
        with self._lock:
            return self._states.get(claim.job_id) is claim.state

    def held(self) -> list[Claim]:
        with self._lock:
            return list(self._held.values())

    def beat(self) -> None:
        held = self.held()
        with self._database.write() as session:
            states = claims.heartbeat(session, held, lease_seconds=self._lease_seconds)
            workers.sign(session, self._worker_id, self._queues, self.report)
        with self._lock:
            for claim in held:
                if (claim.job_id, claim.attempt) in self._held:
                    self._note(claim, states.get(claim.job_id))

    def _note(self, claim: Claim, state: JobState | None) -> None:
        if state is None:
            if self._states.pop(claim.job_id, None) is not None:  # say so once, not at every beat
                logger.warning("lease lost", extra={"job_id": claim.job_id, "attempt": claim.attempt})
        else:
            self._states[claim.job_id] = state

    def _run(self) -> None:
        while not self._stopping.wait(self._heartbeat_seconds):
            self._beat_if_possible()

    def _beat_if_possible(self) -> None:
        try:
            self.beat()
        except (ServiceUnavailable, StorageFull) as error:
            logger.warning("heartbeat missed: %s", error.__cause__)
        except Exception:
            logger.exception("heartbeat failed")
