"""Many at once, each with a connection of its own. What must hold does so whoever comes first."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from core.database import Database
from core.errors import Conflict
from core.jobs import claims, events, results
from core.jobs.claims import Claim
from core.jobs.ids import new_id
from core.jobs.rescue import rescue
from core.jobs.states import JobState, Queue
from tests.core.jobs.steps import (
    RESULT,
    claimed,
    end_lease,
    job,
    log,
    running,
    submitted,
    types,
)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment; their answers, in order."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def claim_all(database: Database, queue: Queue, owner: str) -> list[Claim]:
    taken: list[Claim] = []
    while batch := claimed(database, queue, owner=owner, limit=3):
        taken += batch
    return taken


@pytest.mark.parametrize("queue", [Queue.PREDICT, Queue.IO])
def test_no_two_claims_have_the_same_job_and_all_have_all(database_url: str, queue: Queue) -> None:
    databases = [Database(database_url) for _ in range(4)]
    url: dict[str, Any] = {"url": "https://example.com/cat.jpg"} if queue is Queue.IO else {}
    made = {submitted(databases[0], **url) for _ in range(40)}
    taken = together(
        *(
            lambda database=database, i=i: claim_all(database, queue, f"worker-{i}")
            for i, database in enumerate(databases)
        )
    )
    ids = [claim.job_id for claims_ in taken for claim in claims_]
    assert len(ids) == 40
    assert set(ids) == made
    for i, claims_ in enumerate(taken):
        for claim in claims_:
            row = job(databases[0], claim.job_id)
            assert (row.lease_owner, row.attempt) == (f"worker-{i}", 1)
    for database in databases:
        database.dispose()


CLAIMER = """
import sys
from core.database import Database
from core.jobs.claims import claim
from core.jobs.states import Queue

database = Database(sys.argv[1])
sys.stdin.read()  # until all are there
taken = []
while True:
    with database.write() as session:
        batch = claim(session, Queue.PREDICT, owner=sys.argv[2], limit=2, lease_seconds=60)
    if not batch:
        break
    taken += [one.job_id for one in batch]
print("\\n".join(taken))
"""


def test_no_two_processes_have_the_same_job(database: Database, database_url: str) -> None:
    made = {submitted(database) for _ in range(60)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, database_url, f"worker-{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    ids = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(ids) == 60
    assert set(ids) == made


def test_a_cancel_and_a_finish_have_one_winner(database: Database) -> None:
    winners = set()
    for _ in range(8):
        claim = running(database)

        def finish(claim: Claim = claim) -> bool:
            with database.write() as session:
                return results.succeed(session, claim, **RESULT)

        def cancel(claim: Claim = claim) -> bool:
            try:
                with database.write() as session:
                    return results.cancel(session, claim.job_id) is JobState.CANCELING
            except Conflict:
                return False

        finished, canceled = together(finish, cancel)
        assert finished != canceled
        if canceled:
            with database.write() as session:
                assert results.acknowledge_cancel(session, claim)
        state = job(database, claim.job_id).state
        assert state is (JobState.SUCCEEDED if finished else JobState.CANCELED)
        finals = [name for name in types(database, claim.job_id) if name in ("job.succeeded", "job.canceled")]
        assert finals == [f"job.{state}"]
        winners.add(state)
    assert winners <= {JobState.SUCCEEDED, JobState.CANCELED}


@pytest.mark.parametrize("first", ["claimed", "waiting"])
def test_a_cancel_meets_a_job_that_is_passed_around(
    postgres_database: Database, postgres_url: str, first: str
) -> None:
    """Another worker claims the job or puts it back before each statement of the cancel, if it can."""
    others = Database(f"{postgres_url}&options=-c%20lock_timeout%3D100ms")
    job_id = submitted(others, max_attempts=100)
    held = claimed(others) if first == "claimed" else []

    def pass_on(*_: object) -> None:
        if not held:
            held.extend(claimed(others))
            return
        with suppress(OperationalError), others.write() as session:  # it waits for the row no longer
            if claims.give_back(session, held[-1]):
                held.clear()

    event.listen(postgres_database.engine, "before_cursor_execute", pass_on)
    with postgres_database.write() as session:
        answer = results.cancel(session, job_id)
    event.remove(postgres_database.engine, "before_cursor_execute", pass_on)
    assert answer in (JobState.CANCELED, JobState.CANCELING)
    assert job(others, job_id).state is answer
    assert types(others, job_id)[-1] == f"job.{answer}"
    others.dispose()


def test_two_rescues_put_a_job_back_once(database: Database) -> None:
    made = [running(database) for _ in range(5)]
    for claim in made:
        end_lease(database, claim.job_id)

    def once() -> int:
        with database.write() as session:
            return rescue(session, retry_seconds=0).requeued

    assert sum(together(once, once)) == 5
    for claim in made:
        assert types(database, claim.job_id) == ["job.created", "job.started", "job.requeued"]


def test_a_finish_and_a_rescue_have_one_winner(database: Database) -> None:
    for _ in range(5):
        claim = running(database)
        end_lease(database, claim.job_id)

        def finish(claim: Claim = claim) -> bool:
            with database.write() as session:
                return results.succeed(session, claim, **RESULT)

        def save() -> bool:
            with database.write() as session:
                return bool(rescue(session, retry_seconds=60))

        finished, saved = together(finish, save)
        assert finished != saved
        assert job(database, claim.job_id).state is (JobState.SUCCEEDED if finished else JobState.QUEUED)


def test_events_are_numbered_without_gaps_by_many_writers(database: Database) -> None:
    claim = running(database)

    def note_ten(writer: int) -> None:
        for i in range(10):
            with database.write() as session:
                assert events.note(session, claim.job_id, 1, "job.progress", {"writer": writer, "i": i})

    together(*(lambda writer=writer: note_ten(writer) for writer in range(4)))
    written = log(database, claim.job_id)[2:]  # which checks the numbers
    assert len(written) == 40
    for writer in range(4):
        assert [event.data["i"] for event in written if event.data["writer"] == writer] == list(range(10))


def test_a_rolled_back_note_leaves_no_gap(database: Database) -> None:
    claim = running(database)

    def change_of_mind() -> None:
        with database.write() as session:
            assert events.note(session, claim.job_id, claim.attempt, "job.progress", {})
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        change_of_mind()
    assert types(database, claim.job_id) == ["job.created", "job.started"]


def test_ids_sort_by_time_of_making_and_never_repeat() -> None:
    made = [new_id("job") for _ in range(10_000)]
    assert made == sorted(set(made))
