"""What the protocol promises, in plain Python: no rows, no locks, no clocks. See ``test_machine.py``."""

from __future__ import annotations

from dataclasses import dataclass

from core.jobs.claims import Claim
from core.jobs.states import JobState

S = JobState


@dataclass
class ModelJob:
    state: JobState
    max_attempts: int = 3
    attempt: int = 0
    owner: str | None = None  # of its lease, if it has one
    lease_over: bool = False
    batch: str | None = None
    has_picture: bool = True
    can_run: bool = True  # an item that was refused cannot

    @property
    def leased(self) -> bool:
        return self.owner is not None

    def move(self, to: JobState, *, owner: str | None = None) -> None:
        self.state, self.owner, self.lease_over = to, owner, False

    def put_back(self) -> None:
        self.move(S.FETCHING if self.state is S.FETCHING else S.QUEUED)

    def lose_worker(self) -> str:
        """Its worker is gone: what becomes of it."""
        if self.state is S.CANCELING:
            self.move(S.CANCELED)
            return "canceled"
        if self.attempt < self.max_attempts:
            self.put_back()
            return "requeued"
        self.move(S.FAILED)
        return "failed"

    def cancel(self) -> JobState:
        if self.state is S.RUNNING:
            self.state = S.CANCELING
        elif self.state is not S.CANCELING:
            self.move(S.CANCELED)
        return self.state

    def shown(self) -> tuple[JobState, int, int, bool]:
        return self.state, self.attempt, self.max_attempts, self.leased

    def is_held_by(self, claim: Claim) -> bool:
        return self.leased and self.attempt == claim.attempt and self.state is claim.state

    def is_being_canceled(self, claim: Claim) -> bool:
        """Asked for while this very claim runs it."""
        return claim.state is S.RUNNING and self.state is S.CANCELING and self.attempt == claim.attempt
