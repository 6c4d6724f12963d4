from __future__ import annotations

import pytest
from sqlalchemy import select

from core.database import Database
from core.jobs import explanations, results
from core.jobs.claims import Claim
from core.jobs.explanations import File, Finished, cache_key
from core.jobs.queries import get_job
from core.jobs.rescue import rescue
from core.jobs.states import MethodState, Queue
from core.jobs.tables import Artifact, Method
from tests.core.jobs.steps import claimed, running

FINISHED = Finished({"panel.png": File(b"a panel", "image/png")}, {"converged": True}, {"seed": 0}, 1.5)


def methods(database: Database, claim: Claim) -> dict[str, Method]:
    with database.read() as session:
        return {method.name: method for method in get_job(session, claim.job_id).methods}


def test_the_cache_key_depends_on_each_of_its_parts_and_not_on_the_order_of_options() -> None:
    parts = {"picture": "p", "network": "n", "generation": 1, "method": "m", "options": {"a": 1, "b": 2}}
    key = cache_key(**parts)  # type: ignore[arg-type]
    assert key == cache_key(**parts | {"options": {"b": 2, "a": 1}})  # type: ignore[arg-type]
    others = {"picture": "x", "network": "x", "generation": 2, "method": "x", "options": {"a": 1}}
    for name, other in others.items():
        assert key != cache_key(**parts | {name: other})  # type: ignore[arg-type]


def test_a_method_that_was_running_when_its_worker_died_waits_again_and_what_had_ended_stays(
    database: Database,
) -> None:
    claim = running(database, methods=("grad_cam", "occlusion"))
    with database.write() as session:
        assert explanations.start(session, claim, "grad_cam", key="1")
        assert explanations.finish(session, claim, "grad_cam", FINISHED)
        assert explanations.start(session, claim, "occlusion", key="2")
        assert explanations.progress(session, claim, "occlusion", done=3, total=8)
    with database.write() as session:
        rescue(session, retry_seconds=0, owner="worker")
    found = methods(database, claim)
    assert found["grad_cam"].state is MethodState.SUCCEEDED
    assert (found["occlusion"].state, found["occlusion"].done) == (MethodState.QUEUED, 0)
    (again,) = claimed(database, Queue.EXPLAIN)
    with database.read() as session:
        assert explanations.pending(session, again) == ["occlusion"]


def test_no_write_of_an_earlier_attempt_is_kept(database: Database) -> None:
    stale = running(database, methods=("occlusion",))
    with database.write() as session:
        rescue(session, retry_seconds=0, owner="worker")
    (current,) = claimed(database, Queue.EXPLAIN)
    with database.write() as session:
        assert explanations.start(session, current, "occlusion", key="1")
    with database.write() as session:
        assert not explanations.start(session, stale, "occlusion", key="2")
        assert not explanations.progress(session, stale, "occlusion", done=1, total=2)
        assert not explanations.finish(session, stale, "occlusion", FINISHED)
    method = methods(database, current)["occlusion"]
    assert (method.state, method.done) == (MethodState.RUNNING, 0)


def test_only_a_result_that_succeeded_is_reused(database: Database) -> None:
    first = running(database, methods=("occlusion",))
    second = running(database, methods=("occlusion",))
    with database.write() as session:
        assert explanations.start(session, first, "occlusion", key="same")
        assert explanations.reuse(session, second, "occlusion", key="same") is None
        assert explanations.finish(session, first, "occlusion", FINISHED)
        assert explanations.reuse(session, second, "occlusion", key="other") is None
        assert explanations.reuse(session, second, "occlusion", key="same") is True
    method = methods(database, second)["occlusion"]
    assert (method.state, method.cached, method.quality) == (MethodState.SUCCEEDED, True, {"converged": True})


@pytest.mark.parametrize("owner", [None, "key_1"])
def test_no_owner_is_told_what_another_has_asked(database: Database, owner: str | None) -> None:
    """By an answer that comes at once. Whoever has no key is one owner, too."""
    first, same, other = (
        running(database, methods=("occlusion",), owner=who) for who in (owner, owner, "key_2")
    )
    with database.write() as session:
        assert explanations.start(session, first, "occlusion", key="1")
        assert explanations.finish(session, first, "occlusion", FINISHED)
        assert explanations.reuse(session, other, "occlusion", key="1") is None
        assert explanations.reuse(session, same, "occlusion", key="1") is True
        assert explanations.start(session, other, "occlusion", key="1")


def test_what_succeeded_has_done_all_its_steps_although_it_told_of_none(database: Database) -> None:
    claim = running(database, methods=("occlusion", "grad_cam"))
    with database.write() as session:
        assert explanations.start(session, claim, "occlusion", key="1")
        assert explanations.finish(session, claim, "occlusion", FINISHED)
        assert explanations.start(session, claim, "grad_cam", key="2")
        assert explanations.progress(session, claim, "grad_cam", done=3, total=7)
        assert explanations.finish(session, claim, "grad_cam", FINISHED)
    found = methods(database, claim)
    assert [(found[name].done, found[name].total) for name in ("occlusion", "grad_cam")] == [(1, 1), (7, 7)]


def test_a_map_that_was_being_refined_goes_with_a_cancel(database: Database) -> None:
    claim = running(database, methods=("occlusion", "grad_cam"))
    with database.write() as session:
        assert explanations.start(session, claim, "grad_cam", key="1")
        assert explanations.finish(session, claim, "grad_cam", FINISHED)
        assert explanations.start(session, claim, "occlusion", key="2")
        partial = File(b"half", "image/png")
        assert explanations.progress(session, claim, "occlusion", done=1, total=2, partial=partial)
        results.cancel(session, claim.job_id)
        assert results.acknowledge_cancel(session, claim)
    with database.read() as session:
        kept = session.scalars(select(Artifact.name).where(Artifact.job_id == claim.job_id)).all()
    assert kept == list(FINISHED.files)
