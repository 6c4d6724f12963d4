"""The protocol against a model of it: random histories of everything that clients, workers and beat may do.

The model beside the database is a dozen lines of plain Python for each step, and knows nothing of rows, locks
or clocks. Claims are kept for ever, so that workers come back with ones that they have long lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.errors import Conflict, NotFound, PawlensError
from core.jobs import batch_changes, batches, blobs, claims, rescue, results, retention
from core.jobs.batches import Item, Wishes
from core.jobs.claims import Claim, LeaseLost
from core.jobs.ids import new_id
from core.jobs.states import BatchState, JobState, Queue
from core.jobs.tables import Batch, Job, Table
from tests.chaos import invariants
from tests.core.jobs.steps import (
    PICTURE,
    RESULT,
    Lasting,
    Passing,
    change,
    claimed,
    fetching,
    submitted,
    types,
)

HOOK = "https://example.com/hook"
S = JobState


@dataclass
class ModelJob:
    state: JobState
    max_attempts: int = 3
    attempt: int = 0
    leased: bool = False
    lease_over: bool = False
    batch: str | None = None

    def move(self, to: JobState, *, leased: bool = False) -> None:
        self.state, self.leased, self.lease_over = to, leased, False

    def put_back(self) -> None:
        self.move(S.FETCHING if self.state is S.FETCHING else S.QUEUED)

    def shown(self) -> tuple[JobState, int, int, bool]:
        return self.state, self.attempt, self.max_attempts, self.leased

    def is_held_by(self, claim: Claim) -> bool:
        return self.leased and self.attempt == claim.attempt and self.state is claim.state


class Protocol(RuleBasedStateMachine):
    """One history. ``jobs`` and ``batches`` (True: it was asked to cancel) are what should be there."""

    known = Bundle("jobs")
    held = Bundle("claims")
    posted = Bundle("batches")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.jobs: dict[str, ModelJob] = {}
        self.batches: dict[str, bool] = {}
        with database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(delete(table))

    # What clients do

    @rule(target=known, url=st.booleans(), attempts=st.integers(1, 3), told=st.booleans())
    def submit(self, url: bool, attempts: int, told: bool) -> str:
        wishes: dict[str, Any] = {"url": "https://example.com/cat.jpg"} if url else {}
        wishes |= {"webhook_url": HOOK} if told else {}
        job_id = submitted(self.database, max_attempts=attempts, **wishes)
        self.jobs[job_id] = ModelJob(S.FETCHING if url else S.QUEUED, attempts)
        return job_id

    @rule(target=posted, kinds=st.lists(st.sampled_from(["picture", "url", "refused"]), max_size=3))
    def submit_batch(self, kinds: list[str]) -> str:
        batch_id = new_id("batch")
        with self.database.write() as session:
            blobs.store_pictures(session, [PICTURE])
            items = [_item(index, kind) for index, kind in enumerate(["picture", *kinds])]
            batches.create(session, batch_id, items=items, wishes=Wishes(webhook_url=HOOK), max_attempts=2)
        self.batches[batch_id] = False
        with self.database.read() as session:
            for job in session.scalars(select(Job).where(Job.batch_id == batch_id)):
                self.jobs[job.id] = ModelJob(items[job.batch_index or 0].state, 2, batch=batch_id)
        return batch_id

    @rule(job_id=known)
    def cancel(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        expected = None if job is None or job.state.is_final else _canceled(job)
        answers: list[JobState] = []
        allowed = self._allowed(lambda session: answers.append(results.cancel(session, job_id)))
        assert answers == ([expected] if expected else [])
        assert allowed == (expected is not None)

    @rule(batch_id=posted)
    def cancel_batch(self, batch_id: str) -> None:
        running = self._unfinished(batch_id)
        assert self._allowed(lambda session: batch_changes.cancel(session, batch_id)) == bool(running)
        for job in running:
            self.batches[batch_id] = True
            _canceled(job)

    @rule(job_id=known)
    def delete_job(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        allowed = job is not None and job.state.is_final
        assert self._allowed(lambda session: retention.delete_job(session, job_id)) == allowed
        if allowed:
            del self.jobs[job_id]

    @rule(batch_id=posted)
    def delete_batch(self, batch_id: str) -> None:
        allowed = batch_id in self.batches and not self._unfinished(batch_id)
        assert self._allowed(lambda session: retention.delete_batch(session, batch_id)) == allowed
        if allowed:
            del self.batches[batch_id]
            self.jobs = {job_id: job for job_id, job in self.jobs.items() if job.batch != batch_id}

    # What workers do, with claims that they hold or have lost

    @rule(target=held, limit=st.integers(1, 3))
    def claim(self, limit: int) -> Any:
        waiting = [job for job in self.jobs.values() if job.state is S.QUEUED]
        retried = [job for job in waiting if job.attempt]
        taken = claimed(self.database, Queue.PREDICT, limit=limit)
        assert len(taken) == (1 if retried else min(limit, len(waiting)))
        return self._take(taken, S.QUEUED, S.RUNNING)

    @rule(target=held, limit=st.integers(1, 2))
    def claim_downloads(self, limit: int) -> Any:
        waiting = [job for job in self.jobs.values() if job.state is S.FETCHING and not job.leased]
        taken = claimed(self.database, Queue.IO, limit=limit)
        assert len(taken) == min(limit, len(waiting))
        return self._take(taken, S.FETCHING, S.FETCHING)

    @rule(some=st.lists(held, max_size=4))
    def heartbeat(self, some: list[Claim]) -> None:
        expected = {}
        for claim in some:
            job = self.jobs.get(claim.job_id)
            canceling = claim.state is S.RUNNING and job is not None and job.state is S.CANCELING
            if job is not None and (job.is_held_by(claim) or (canceling and job.attempt == claim.attempt)):
                expected[claim.job_id] = job.state
                job.lease_over = False
        with self.database.write() as session:
            assert claims.heartbeat(session, some, lease_seconds=60) == expected

    @rule(claim=held, partial=st.booleans())
    def finish(self, claim: Claim, partial: bool) -> None:
        if claim.state is S.RUNNING:
            with self.database.write() as session:
                wrote = results.succeed(session, claim, **RESULT, partial=partial)
            self._wrote(wrote, claim, S.PARTIAL if partial else S.SUCCEEDED)

    @rule(claim=held, may_pass=st.booleans())
    def fail(self, claim: Claim, may_pass: bool) -> None:
        error = (Passing if may_pass else Lasting)("no")
        with self.database.write() as session:
            wrote = results.fail(session, claim, error, retry_seconds=0)
        again = may_pass and claim.attempt < claim.max_attempts
        self._wrote(wrote, claim, None if again else S.FAILED)

    @rule(claim=held)
    def give_back(self, claim: Claim) -> None:
        with self.database.write() as session:
            wrote = claims.give_back(session, claim)
        if self._wrote(wrote, claim, None):
            self.jobs[claim.job_id].max_attempts += 1

    @rule(claim=held)
    def acknowledge_cancel(self, claim: Claim) -> None:
        if claim.state is S.RUNNING:
            job = self.jobs.get(claim.job_id)
            expected = job is not None and job.state is S.CANCELING and job.attempt == claim.attempt
            with self.database.write() as session:
                assert results.acknowledge_cancel(session, claim) == expected
            if job is not None and expected:
                job.move(S.CANCELED)

    @rule(claim=held)
    def finish_download(self, claim: Claim) -> None:
        if claim.state is S.FETCHING:
            try:
                with self.database.write() as session:
                    results.fetched(session, claim, PICTURE)
            except LeaseLost:
                wrote = False
            else:
                wrote = True
            if self._wrote(wrote, claim, S.QUEUED):
                self.jobs[claim.job_id].attempt = 0

    # What time and beat do

    @rule(claim=held)
    def end_lease(self, claim: Claim) -> None:
        job = self.jobs.get(claim.job_id)
        if job is not None and job.leased:
            with self.database.write() as session:
                change(session, claim.job_id, lease_until=db_now(-1))
            job.lease_over = True

    @rule()
    def rescue(self) -> None:
        lost = [job for job in self.jobs.values() if job.leased and job.lease_over]
        with self.database.write() as session:
            rescued = rescue.rescue(session, retry_seconds=0)
        assert rescued.requeued + rescued.failed + rescued.canceled == len(lost)
        for job in lost:
            if job.state is S.CANCELING:
                job.move(S.CANCELED)
            elif job.attempt < job.max_attempts:
                job.put_back()
            else:
                job.move(S.FAILED)

    @rule(job_id=known)
    def expire(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        due = job is not None and not job.state.is_final and job.state is not S.CANCELING
        with self.database.write() as session:
            if due:
                change(session, job_id, deadline_at=db_now(-1))
            assert rescue.expire(session) == due
        if job is not None and due:
            job.move(S.EXPIRED)

    # What must hold after each step

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        with self.database.read() as session:
            rows = session.execute(select(Job.id, Job.state, Job.attempt, Job.max_attempts, Job.lease_until))
            found = {job_id: (state, a, most, bool(until)) for job_id, state, a, most, until in rows}
            ended = {batch.id: batch.state for batch in session.execute(select(Batch.id, Batch.state))}
        assert found == {job_id: job.shown() for job_id, job in self.jobs.items()}
        final = {False: BatchState.COMPLETED, True: BatchState.CANCELED}
        assert ended == {
            batch_id: BatchState.RUNNING if self._unfinished(batch_id) else final[canceled]
            for batch_id, canceled in self.batches.items()
        }

    def teardown(self) -> None:
        invariants.check(self.database, self.jobs, at_rest=False)

    def _allowed(self, work: Callable[[Session], object]) -> bool:
        try:
            with self.database.write() as session:
                work(session)
        except (Conflict, NotFound):
            return False
        return True

    def _take(self, taken: Sequence[Claim], source: JobState, to: JobState) -> Any:
        for claim in taken:
            job = self.jobs[claim.job_id]
            assert (job.state, job.leased) == (source, False)
            job.attempt += 1
            assert (claim.attempt, claim.state) == (job.attempt, to)
            job.move(to, leased=True)
        return multiple(*taken)

    def _wrote(self, wrote: bool, claim: Claim, to: JobState | None) -> bool:
        """The claim's write was kept if and only if it still held the job, which has gone ``to`` or back."""
        job = self.jobs.get(claim.job_id)
        assert wrote == (job is not None and job.is_held_by(claim))
        if job is not None and wrote:
            job.put_back() if to is None else job.move(to)
        return wrote

    def _unfinished(self, batch_id: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.batch == batch_id and not job.state.is_final]


def _item(index: int, kind: str) -> Item:
    if kind == "refused":
        return Item(index, error={"code": "invalid_image", "title": "no", "detail": "no"})
    if kind == "url":
        return Item(index, url="https://example.com/cat.jpg")
    return Item(index, image_sha256=PICTURE.sha256)


def _canceled(job: ModelJob) -> JobState:
    if job.state is S.RUNNING:
        job.state = S.CANCELING
    elif job.state is not S.CANCELING:
        job.move(S.CANCELED)
    return job.state


def play(database: Database, examples: int) -> None:
    class OnThis(Protocol):
        def __init__(self) -> None:
            super().__init__(database)

    run_state_machine_as_test(
        OnThis,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            # A guard was taken out on purpose: nobody will read the history that shows it.
            phases=[Phase.generate] if "CHAOS_FAULT" in os.environ else list(Phase),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_on_sqlite(sqlite_database: Database) -> None:
    @event.listens_for(sqlite_database.engine, "connect")
    def hasten(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    play(sqlite_database, 60)


def test_on_postgresql(postgres_database: Database) -> None:
    play(postgres_database, 25)


@pytest.mark.parametrize("error", [Passing("no"), Lasting("no")])
def test_a_download_that_was_put_back_is_nobodys(database: Database, error: PawlensError) -> None:
    """Found by the machine: state and attempt are as before, so that nothing but the lease tells."""
    claim = fetching(database)
    with database.write() as session:
        assert claims.give_back(session, claim)
    with database.write() as session:
        assert not results.fail(session, claim, error, retry_seconds=0)
    with pytest.raises(LeaseLost), database.write() as session:
        results.fetched(session, claim, PICTURE)
    assert types(database, claim.job_id) == ["job.created", "job.requeued"]
