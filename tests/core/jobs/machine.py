"""The protocol against a model of it: random histories of everything that clients, workers and beat may do.

The model beside the database (``model.py``) is a few lines of plain Python for each step. Claims are kept for
ever, so that workers come back with ones that they have long lost. A rule that would find nothing to do is
not chosen, and at the end each outcome must have been met: a machine that only ever looks at an empty queue
would agree with anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.errors import Conflict, NotFound
from core.jobs import batch_changes, batches, blobs, claims, rescue, results, retention
from core.jobs.batches import Item, Wishes
from core.jobs.claims import Claim, LeaseLost
from core.jobs.ids import new_id
from core.jobs.results import Result
from core.jobs.states import BatchState, JobState, Queue
from core.jobs.tables import Batch, Job, Table
from tests.chaos import invariants
from tests.core.jobs.batch_steps import remove_batch
from tests.core.jobs.model import ModelJob
from tests.core.jobs.steps import (
    PICTURE,
    RESULT,
    Lasting,
    Passing,
    change,
    claimed,
    submitted,
)

HOOK = "https://example.com/hook"
S = JobState
WORKERS = ("one/1", "two/1")
ANY = st.integers(0, 99)
"""Which of those that there are."""
PICK = st.tuples(ANY, st.sampled_from(["good", "rival", "any"]))
"""Which; of what there is something to do with, of claims whose job is another's by now, or of everything."""
Pick = tuple[int, str]

WRITES = ("succeed", "succeed_all", "partial", "predicted", "fail", "fail for now", "give_back", "fetched")
OUTCOMES = {
    *(f"{write} {kept}" for write in (*WRITES, "acknowledge_cancel") for kept in (True, False)),
    *("requeued", "failed", "canceled", "worker stopped", "worker died", "expired", "heartbeat kept"),
    *("heartbeat refused", "cancel True", "cancel False", "cancel of a batch True", "retry True"),
    *("cancel of a batch False", "retry False", "job deleted True", "job deleted False"),
    *("batch deleted True", "batch deleted False", "a retry taken alone"),
}
"""What the histories together must have met."""


def _some(condition: Callable[[ModelJob], bool]) -> Callable[[Any], bool]:
    return lambda machine: any(condition(job) for job in machine.jobs.values())


def _is_waiting(job: ModelJob) -> bool:
    return job.state is S.QUEUED


def _is_unfetched(job: ModelJob) -> bool:
    return job.state is S.FETCHING and not job.leased


def _is_lost(job: ModelJob) -> bool:
    return job.lease_over


def _may_expire(job: ModelJob) -> bool:
    return not job.state.is_final and job.state is not S.CANCELING


class Protocol(RuleBasedStateMachine):
    """One history. ``jobs`` and ``batches`` (True: it was asked to cancel) are what should be there."""

    def __init__(self, database: Database, met: Counter[str]) -> None:
        super().__init__()
        self.database = database
        self.met = met
        self.jobs: dict[str, ModelJob] = {}
        # All that there ever were:
        self.ids: list[str] = []
        self.batch_ids: list[str] = []
        self.claims: list[Claim] = []
        self.batches: dict[str, bool] = {}
        with database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(delete(table))

    # What clients do

    @initialize()
    def begin_with_runs(self) -> None:
        for attempts in (1, 2):
            self.submit(url=False, attempts=attempts, told=True)
        self.claim(limit=2, owner=WORKERS[0])

    @initialize()
    def begin_with_downloads(self) -> None:
        for attempts in (1, 2):
            self.submit(url=True, attempts=attempts, told=True)
        self.claim_downloads(limit=2, owner=WORKERS[1])

    @rule(url=st.booleans(), attempts=st.integers(1, 3), told=st.booleans())
    def submit(self, url: bool, attempts: int, told: bool) -> None:
        wishes: dict[str, Any] = {"url": "https://example.com/cat.jpg"} if url else {}
        wishes |= {"webhook_url": HOOK} if told else {}
        job_id = submitted(self.database, max_attempts=attempts, **wishes)
        self._add(job_id, ModelJob(S.FETCHING if url else S.QUEUED, attempts, has_picture=not url))

    @initialize()
    def begin_with_a_batch(self) -> None:
        self.submit_batch(kinds=["url"])

    @rule(kinds=st.lists(st.sampled_from(["picture", "url", "refused"]), max_size=2))
    def submit_batch(self, kinds: list[str]) -> None:
        with self.database.write() as session:
            blobs.store_pictures(session, [PICTURE])
        self._made([_item(index, kind) for index, kind in enumerate(["picture", *kinds])])

    def _made(self, items: Sequence[Item], retry_of: str | None = None) -> None:
        batch_id, wishes = new_id("batch"), Wishes(webhook_url=HOOK)
        with self.database.write() as session:
            given = {"items": items, "wishes": wishes, "max_attempts": 1, "retry_of": retry_of}
            batches.create(session, batch_id, **given)
        self.batches[batch_id] = False
        self.batch_ids.append(batch_id)
        by_index = {item.index: item for item in items}
        with self.database.read() as session:
            for job in session.scalars(select(Job).where(Job.batch_id == batch_id)):
                item = by_index[job.batch_index or 0]
                made = ModelJob(item.state, 1, batch=batch_id)
                made.has_picture, made.can_run = item.url is None, item.error is None
                self._add(job.id, made)

    @precondition(_some(lambda job: job.leased))
    @rule(pick=PICK)
    def cancel(self, pick: Pick) -> None:
        job_id = _picked(pick, self.ids, self._jobs_that(lambda job: job.state is S.RUNNING))
        job = self.jobs.get(job_id)
        expected = None if job is None or job.state.is_final else job.cancel()
        answers: list[JobState] = []
        allowed = self._allowed(lambda session: answers.append(results.cancel(session, job_id)))
        assert answers == ([expected] if expected else [])
        self._meet("cancel", allowed, expected is not None)

    @precondition(lambda self: self.batch_ids)
    @rule(pick=PICK)
    def cancel_batch(self, pick: Pick) -> None:
        batch_id = _picked(pick, self.batch_ids, [one for one in self.batches if self._unfinished(one)])
        running = self._unfinished(batch_id)
        allowed = self._allowed(lambda session: batch_changes.cancel(session, batch_id))
        self._meet("cancel of a batch", allowed, bool(running))
        for job in running:
            self.batches[batch_id] = True
            job.cancel()

    @precondition(_some(lambda job: job.batch is not None and job.can_run and job.state.is_final))
    @rule(pick=PICK)
    def retry_batch(self, pick: Pick) -> None:
        """What failed or expired runs again in a new batch: with its picture, if it was ever there."""
        ended = self._ended_batches()
        batch_id = _picked(pick, self.batch_ids, [one for one in ended if self._failed(one)])
        again = self._failed(batch_id)
        items: list[Item] = []
        allowed = self._allowed(lambda session: items.extend(batch_changes.to_retry(session, batch_id)[1]))
        is_due = batch_id in ended and bool(again)
        self._meet("retry", allowed, is_due)
        states = [S.QUEUED if job.has_picture else S.FETCHING for job in again if is_due]
        assert sorted(item.state for item in items) == sorted(states)
        if allowed:
            self._made(items, batch_id)

    @precondition(_some(lambda job: job.state.is_final))
    @rule(which=ANY)
    def delete_job(self, which: int) -> None:
        job_id = self.ids[which % len(self.ids)]
        job = self.jobs.get(job_id)
        is_free = job is not None and job.state.is_final and not (job.batch and self._unfinished(job.batch))
        allowed = self._allowed(lambda session: retention.delete_job(session, job_id))
        self._meet("job deleted", allowed, is_free)
        if allowed:
            del self.jobs[job_id]

    @precondition(lambda self: self._ended_batches())
    @rule(pick=PICK)
    def delete_batch(self, pick: Pick) -> None:
        batch_id = _picked(pick, self.batch_ids, self._ended_batches())
        gone: list[bool] = []
        allowed = self._allowed(
            lambda session: gone.append(retention.delete_batch(session, batch_id, limit=1))
        )
        if gone == [False]:
            remove_batch(self.database, batch_id)
        self._meet("batch deleted", allowed, batch_id in self._ended_batches())
        if allowed:
            del self.batches[batch_id]
            self.jobs = {job_id: job for job_id, job in self.jobs.items() if job.batch != batch_id}

    # What workers do, with claims that they hold or have lost

    @precondition(_some(_is_waiting))
    @rule(limit=st.integers(1, 3), owner=st.sampled_from(WORKERS))
    def claim(self, limit: int, owner: str) -> None:
        waiting = [job for job in self.jobs.values() if _is_waiting(job)]
        retried = [job for job in waiting if job.attempt]
        taken = claimed(self.database, Queue.PREDICT, owner=owner, limit=limit)
        assert len(taken) == (1 if retried else min(limit, len(waiting)))
        if retried:
            self.met["a retry taken alone"] += limit > 1 and len(waiting) > 1
        self._take(taken, owner, S.QUEUED, S.RUNNING)

    @precondition(_some(_is_unfetched))
    @rule(limit=st.integers(1, 2), owner=st.sampled_from(WORKERS))
    def claim_downloads(self, limit: int, owner: str) -> None:
        waiting = [job for job in self.jobs.values() if _is_unfetched(job)]
        taken = claimed(self.database, Queue.IO, owner=owner, limit=limit)
        assert len(taken) == min(limit, len(waiting))
        self._take(taken, owner, S.FETCHING, S.FETCHING)

    @rule(picks=st.lists(PICK, min_size=1, max_size=4))
    def heartbeat(self, picks: list[Pick]) -> None:
        some, expected = [self._claim(pick) for pick in picks], {}
        for claim in some:
            job = self.jobs.get(claim.job_id)
            if job is not None and (job.is_held_by(claim) or job.is_being_canceled(claim)):
                expected[claim.job_id] = job.state
                job.lease_over = False
        with self.database.write() as session:
            assert claims.heartbeat(session, some, lease_seconds=60) == expected
        self.met["heartbeat kept"] += bool(expected)
        self.met["heartbeat refused"] += any(claim.job_id not in expected for claim in some)

    @rule(pick=PICK, how=st.sampled_from(["succeed", "succeed_all", "partial", "predicted"]))
    def finish(self, pick: Pick, how: str) -> None:
        claim = self._claim(pick, S.RUNNING)
        with self.database.write() as session:
            if how == "succeed_all":
                wrote = bool(results.succeed_all(session, [(claim, Result(**RESULT))]))
            elif how == "predicted":
                wrote = results.predicted(session, claim, RESULT["prediction"], RESULT["model"])
            else:
                wrote = results.succeed(session, claim, **RESULT, partial=how == "partial")
        ends = {"partial": S.PARTIAL, "predicted": None}
        if self._wrote(how, wrote, claim) and (end := ends.get(how, S.SUCCEEDED)):
            self.jobs[claim.job_id].move(end)

    @rule(pick=PICK, may_pass=st.booleans())
    def fail(self, pick: Pick, may_pass: bool) -> None:
        claim = self._claim(pick)
        error = (Passing if may_pass else Lasting)("no")
        with self.database.write() as session:
            wrote = results.fail(session, claim, error, retry_seconds=0)
        again = may_pass and claim.attempt < claim.max_attempts
        if self._wrote("fail for now" if again else "fail", wrote, claim):
            job = self.jobs[claim.job_id]
            job.put_back() if again else job.move(S.FAILED)

    @rule(pick=PICK)
    def give_back(self, pick: Pick) -> None:
        claim = self._claim(pick)
        with self.database.write() as session:
            wrote = claims.give_back(session, claim)
        if self._wrote("give_back", wrote, claim):
            self.jobs[claim.job_id].put_back()
            self.jobs[claim.job_id].max_attempts += 1

    @precondition(_some(lambda job: job.state in (S.RUNNING, S.CANCELING)))
    @rule(pick=PICK)
    def acknowledge_cancel(self, pick: Pick) -> None:
        claim = self._claim(pick, S.RUNNING)
        job = self.jobs.get(claim.job_id)
        with self.database.write() as session:
            wrote = results.acknowledge_cancel(session, claim)
        self._meet("acknowledge_cancel", wrote, job is not None and job.is_being_canceled(claim))
        if job is not None and wrote:
            job.move(S.CANCELED)

    @precondition(_some(lambda job: job.state is S.FETCHING))
    @rule(pick=PICK)
    def finish_download(self, pick: Pick) -> None:
        claim = self._claim(pick, S.FETCHING)
        try:
            with self.database.write() as session:
                results.fetched(session, claim, PICTURE)
        except LeaseLost:
            wrote = False
        else:
            wrote = True
        if self._wrote("fetched", wrote, claim):
            job = self.jobs[claim.job_id]
            job.move(S.QUEUED)
            job.attempt, job.has_picture = 0, True

    @precondition(_some(lambda job: job.leased))
    @rule(owner=st.sampled_from(WORKERS))
    def stop_worker(self, owner: str) -> None:
        """On purpose: what it holds is put back, and its attempt does not count."""
        theirs = [job for job in self.jobs.values() if job.owner == owner]
        with self.database.write() as session:
            assert rescue.release_worker(session, owner.partition("/")[0]) == len(theirs)
        for job in theirs:
            self.met["worker stopped"] += 1
            if job.state is S.CANCELING:
                job.move(S.CANCELED)
            else:
                job.put_back()
                job.max_attempts += 1

    # What time and beat do

    @precondition(_some(lambda job: job.leased and not job.lease_over))
    @rule(which=ANY)
    def end_lease(self, which: int) -> None:
        job_id = _picked((which, "good"), self._jobs_that(lambda job: job.leased and not job.lease_over))
        with self.database.write() as session:
            change(session, job_id, lease_until=db_now(-1))
        self.jobs[job_id].lease_over = True

    @precondition(_some(_is_lost))
    @rule()
    def rescue(self) -> None:
        self._rescued([job for job in self.jobs.values() if _is_lost(job)], owner=None)

    @precondition(_some(lambda job: job.leased))
    @rule(owner=st.sampled_from(WORKERS))
    def lose_worker(self, owner: str) -> None:
        """Its process died, and its parent has seen it."""
        theirs = [job for job in self.jobs.values() if job.owner == owner]
        self.met["worker died"] += bool(theirs)
        self._rescued(theirs, owner=owner)

    def _rescued(self, lost: Sequence[ModelJob], owner: str | None) -> None:
        became = Counter(job.lose_worker() for job in lost)
        with self.database.write() as session:
            found = rescue.rescue(session, retry_seconds=0, owner=owner)
        assert vars(found) == {name: became[name] for name in ("requeued", "failed", "canceled")}
        self.met += became

    @precondition(_some(_may_expire))
    @rule(which=ANY)
    def expire(self, which: int) -> None:
        job_id = _picked((which, "good"), self._jobs_that(_may_expire))
        with self.database.write() as session:
            change(session, job_id, deadline_at=db_now(-1))
            assert rescue.expire(session, limit=9) == 1
            assert rescue.expire(session, limit=9) == 0
        self.jobs[job_id].move(S.EXPIRED)
        self.met["expired"] += 1

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

    def _add(self, job_id: str, job: ModelJob) -> None:
        self.ids.append(job_id)
        self.jobs[job_id] = job

    def _jobs_that(self, condition: Callable[[ModelJob], bool]) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if condition(job)]

    def _ended_batches(self) -> list[str]:
        return [batch_id for batch_id in self.batches if not self._unfinished(batch_id)]

    def _claim(self, pick: Pick, state: JobState | None = None) -> Claim:
        """One of all claims, or of those that may still write."""
        of_kind = [claim for claim in self.claims if state in (None, claim.state)]
        live, rivals = [], []
        for claim in of_kind:
            job = self.jobs.get(claim.job_id)
            if job is not None and (job.is_held_by(claim) or job.is_being_canceled(claim)):
                live.append(claim)
            elif job is not None and not job.state.is_final:
                rivals.append(claim)
        return _picked(pick, of_kind, live, rivals)

    def _meet(self, what: str, happened: bool, expected: bool) -> None:
        assert happened == expected, what
        self.met[f"{what} {happened}"] += 1

    def _take(self, taken: Sequence[Claim], owner: str, source: JobState, to: JobState) -> None:
        for claim in taken:
            job = self.jobs[claim.job_id]
            assert (job.state, job.leased) == (source, False)
            job.attempt += 1
            assert (claim.attempt, claim.state) == (job.attempt, to)
            job.move(to, owner=owner)
        self.claims += taken

    def _wrote(self, write: str, wrote: bool, claim: Claim) -> bool:
        """The claim's write was kept if and only if it still held the job."""
        job = self.jobs.get(claim.job_id)
        self._meet(write, wrote, job is not None and job.is_held_by(claim))
        return wrote

    def _failed(self, batch_id: str) -> list[ModelJob]:
        """What of a batch could be run again."""
        theirs = [job for job in self.jobs.values() if job.batch == batch_id and job.can_run]
        return [job for job in theirs if job.state in (S.FAILED, S.EXPIRED)]

    def _unfinished(self, batch_id: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.batch == batch_id and not job.state.is_final]


def _picked(
    pick: Pick, everything: Sequence[Any], good: Sequence[Any] = (), rivals: Sequence[Any] = ()
) -> Any:
    which, kind = pick
    some = {"good": good, "rival": rivals, "any": everything}[kind] or everything
    return some[which % len(some)]


def _item(index: int, kind: str) -> Item:
    if kind == "refused":
        return Item(index, error={"code": "invalid_image", "title": "no", "detail": "no"})
    if kind == "url":
        return Item(index, url="https://example.com/cat.jpg")
    return Item(index, image_sha256=PICTURE.sha256)
