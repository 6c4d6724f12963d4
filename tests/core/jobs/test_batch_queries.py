"""Reading batches and their results."""

from __future__ import annotations

from typing import Any

import pytest

from core.database import Database
from core.jobs import (
    batch_queries,
)
from core.jobs.states import BatchState
from tests.core.jobs.batch_steps import ERROR, cancel, made, record, succeed
from tests.core.jobs.steps import RESULT, claimed


class TestReading:
    def test_the_list_is_newest_first_and_goes_on(self, database: Database) -> None:
        ids = [made(database, 1, owner=owner) for owner in ("key_1", "key_2", "key_1", "key_1")]
        cancel(database, ids[2])

        def listed(**filters: Any) -> list[str]:
            with database.read() as session:
                return [one.batch.id for one in batch_queries.list_batches(session, **filters)]

        assert listed() == ids[::-1]
        assert listed(owner="key_1", limit=2) == [ids[3], ids[2]]
        assert listed(owner="key_1", before=ids[2]) == [ids[0]]
        assert listed(states=[BatchState.CANCELED]) == [ids[2]]

    def test_refused_items_are_shown_in_order_up_to_a_limit(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch_queries, "MAX_ERRORS", 2)
        batch_id = made(database, 6, bad=[5, 1, 3])
        found = record(database, batch_id)
        assert [(one.index, one.custom_id, one.error) for one in found.rejected] == [
            (1, "1", ERROR),
            (3, "3", ERROR),
        ]
        assert found.batch.rejected == 3

    def test_results_page_by_page(self, database: Database) -> None:
        batch_id = made(database, 7, bad=[2])
        made(database, 2)
        succeed(database, *claimed(database, limit=3))
        seen: list[batch_queries.Result] = []
        while True:
            last = seen[-1].index if seen else -1
            with database.read() as session:
                page = batch_queries.results(session, batch_id, after=last, limit=3)
            if not page:
                break
            seen += page
        assert [row.index for row in seen] == list(range(7))
        assert [row.status for row in seen] == ["succeeded"] * 2 + ["failed", "succeeded"] + ["queued"] * 3
        assert (seen[0].prediction, seen[2].error) == (RESULT["prediction"], ERROR)
        assert len({row.job_id for row in seen}) == 7
