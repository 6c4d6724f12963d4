"""The states of a job and the moves between them.

::

    fetching ──> queued ──> running ──> succeeded | partial | failed
       │           │  ^        │ │
       │           │  └────────┘ └────> canceling ──> canceled
       │           │  (lease lost)
       └───────────┴──> failed | canceled | expired      (running may expire too)

Final states never change.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    FETCHING = "fetching"
    """Its picture's URL is not downloaded yet. An ``io`` worker moves it on; it holds a lease meanwhile."""
    QUEUED = "queued"
    """Ready to be claimed as soon as ``run_after`` has passed. A model worker's claim moves it on."""
    RUNNING = "running"
    """A model worker holds its lease. That worker finishes it, or the rescue takes it back."""
    CANCELING = "canceling"
    """Canceled while running. Its worker stops at the next chunk; without one, the rescue ends it."""
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    """The prediction stands; at least one explanation failed."""
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    """Its deadline passed first."""

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset(
    {JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELED, JobState.EXPIRED}
)
LEASED = frozenset({JobState.FETCHING, JobState.RUNNING, JobState.CANCELING})
"""States in which a worker may hold a lease."""

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.FETCHING: frozenset(
        {
            JobState.FETCHING,  # its download was lost or put off, and attempts are left
            JobState.QUEUED,
            JobState.FAILED,
            JobState.CANCELED,
            JobState.EXPIRED,
        }
    ),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELED, JobState.EXPIRED}),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,  # its lease was lost or given back, and attempts are left
            JobState.CANCELING,
            JobState.SUCCEEDED,
            JobState.PARTIAL,
            JobState.FAILED,
            JobState.EXPIRED,
        }
    ),
    # A result that arrives while canceling is dropped: the client was told that the job is being canceled.
    JobState.CANCELING: frozenset({JobState.CANCELED}),
}


class MethodState(StrEnum):
    """The states of one explanation method within a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    SKIPPED = "skipped"
    """Never started because the job ended first (prediction failed, deadline, worker lost)."""


class BatchState(StrEnum):
    """The states of a batch. Whoever ends the last of its jobs moves it on, in the same transaction."""

    RUNNING = "running"
    COMPLETED = "completed"
    """All its jobs have ended, however they did."""
    CANCELED = "canceled"
    """As completed, after somebody asked to cancel it."""


class DeliveryState(StrEnum):
    """The states of one webhook delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Queue(StrEnum):
    """The named queues. The first two need the network; ``io`` never loads torch."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    IO = "io"
