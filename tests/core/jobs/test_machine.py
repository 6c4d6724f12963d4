"""The protocol against a model of it, by random histories: see ``machine.py``."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import event

from core.database import Database
from core.errors import PawlensError
from core.jobs import claims, results
from core.jobs.claims import LeaseLost
from tests.core.jobs.machine import OUTCOMES, Protocol
from tests.core.jobs.steps import PICTURE, Lasting, Passing, fetching, types


def play(database: Database, examples: int) -> Counter[str]:
    """What the histories have met."""
    met: Counter[str] = Counter()

    class OnThis(Protocol):
        def __init__(self) -> None:
            super().__init__(database, met)

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
    return met


def test_on_sqlite(sqlite_database: Database) -> None:
    @event.listens_for(sqlite_database.engine, "connect")
    def hasten(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    met = play(sqlite_database, 80)
    assert not (missed := OUTCOMES - set(+met)), f"no history has come to {sorted(missed)}"


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
