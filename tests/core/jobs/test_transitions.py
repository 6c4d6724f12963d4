from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.errors import Conflict
from core.jobs import claims, events, results
from core.jobs.claims import Claim, LeaseLost
from core.jobs.rescue import expire, rescue
from core.jobs.states import FINAL, MOVES, JobState, Queue
from core.jobs.tables import Job
from core.jobs.transitions import move
from tests.core.jobs.steps import PICTURE, RESULT, Lasting, Passing, change, ended, job, log


def refused(session: Session, claim: Claim) -> bool:
    with pytest.raises(Conflict):
        results.cancel(session, claim.job_id)
    return False


def dropped(session: Session, claim: Claim) -> bool:
    with pytest.raises(LeaseLost):
        results.fetched(session, claim, PICTURE)
    return False


EVERYTHING: dict[str, Callable[[Session, Claim], object]] = {
    "claim": lambda s, c: claims.claim(s, Queue.PREDICT, owner="w", limit=9, lease_seconds=60),
    "claim_fetches": lambda s, c: claims.claim_fetches(s, owner="w", limit=9, lease_seconds=60),
    "heartbeat": lambda s, c: claims.heartbeat(s, [c], lease_seconds=60),
    "give_back": claims.give_back,
    "fetched": dropped,
    "predicted": lambda s, c: results.predicted(s, c, {}, {}),
    "succeed": lambda s, c: results.succeed(s, c, **RESULT),
    "succeed in part": lambda s, c: results.succeed(s, c, **RESULT, partial=True),
    "succeed with others": lambda s, c: results.succeed_all(s, [(c, results.Result(**RESULT))]),
    "fail": lambda s, c: results.fail(s, c, Lasting("no"), retry_seconds=0),
    "fail for now": lambda s, c: results.fail(s, c, Passing("no"), retry_seconds=0),
    "cancel": refused,
    "acknowledge_cancel": results.acknowledge_cancel,
    "note": lambda s, c: events.note(s, c.job_id, c.attempt, "job.progress", {}),
    "rescue": lambda s, c: rescue(s, retry_seconds=0),
    "rescue its owner": lambda s, c: rescue(s, retry_seconds=0, owner="worker"),
    "expire": lambda s, c: expire(s, limit=9),
}


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_never_changes(database: Database, state: JobState) -> None:
    claim = ended(database, state)
    with database.write() as session:
        change(session, claim.job_id, deadline_at=db_now(-1))
    before = vars(job(database, claim.job_id)) | {"_sa_instance_state": None}
    count = len(log(database, claim.job_id))
    for name, attempt in EVERYTHING.items():
        with database.write() as session:
            assert not attempt(session, claim), name
        assert vars(job(database, claim.job_id)) | {"_sa_instance_state": None} == before, name
        assert len(log(database, claim.job_id)) == count, name


ILLEGAL = [(source, to) for source in JobState for to in JobState if to not in MOVES.get(source, frozenset())]


def test_nothing_leaves_a_final_state() -> None:
    assert not FINAL & MOVES.keys()
    assert {state for state in JobState if state.is_final} == FINAL


@pytest.mark.parametrize(("source", "to"), ILLEGAL, ids=[f"{a}-{b}" for a, b in ILLEGAL])
def test_an_illegal_move_is_refused(source: JobState, to: JobState) -> None:
    with pytest.raises(ValueError, match=f"never moves from {source} to {to}"):
        move(Session(), to, source=source, where=[Job.id == "x"], event="job.odd")
