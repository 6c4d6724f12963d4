"""The database itself refuses rows that contradict themselves, whoever writes them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.jobs.tables import Batch, Event, Job, WebhookDelivery

BASE: dict[str, Any] = {
    "id": "job_1",
    "state": "queued",
    "queue": "predict",
    "max_attempts": 3,
    "source_url": "u",
}
CONTRADICTIONS: dict[str, list[dict[str, Any]]] = {
    "finished_at_iff_final": [{"state": "succeeded"}, {"finished_at": db_now()}],
    "lease_whole": [{"state": "running", "lease_owner": "w"}, {"state": "running", "lease_until": db_now()}],
    "lease_in_use": [{"lease_owner": "w", "lease_until": db_now()}],
    "has_source": [{"source_url": None}],
    "priority_range": [{"priority": -1}, {"priority": 10}],
}


def rejected(database: Database, statement: Any, *, by: str) -> None:
    with pytest.raises(IntegrityError, match=by), database.write() as session:
        session.execute(statement)


@pytest.mark.parametrize(
    ("constraint", "columns"), [(name, columns) for name, many in CONTRADICTIONS.items() for columns in many]
)
def test_a_job_that_contradicts_itself(database: Database, constraint: str, columns: dict[str, Any]) -> None:
    rejected(database, insert(Job).values(BASE | columns), by=f"ck_jobs_{constraint}")
    with database.write() as session:
        session.execute(insert(Job).values(BASE))  # which is right without these columns


def test_a_batch_that_contradicts_itself(database: Database) -> None:
    row = {"id": "batch_1", "finished_at": db_now()}
    rejected(database, insert(Batch).values(row), by="ck_batches_finished_at_iff_final")
    rejected(database, insert(Batch).values(row | {"state": "canceled"}), by="ck_batches_canceled_was_asked")


def test_an_index_of_a_batch_is_used_once(database: Database) -> None:
    row = BASE | {"batch_id": "batch_1", "batch_index": 0}
    with database.write() as session:
        session.execute(insert(Batch).values(id="batch_1"))
        session.execute(insert(Job).values(row))
    rejected(database, insert(Job).values(row | {"id": "job_2"}), by=r"(?i)unique")


def test_a_refused_item_has_no_source(database: Database) -> None:
    with database.write() as session:
        session.execute(
            insert(Job).values(BASE | {"source_url": None, "state": "failed", "finished_at": db_now()})
        )


def test_a_reference_to_nothing(database: Database) -> None:
    rejected(database, insert(Job).values(BASE | {"image_sha256": "0" * 64}), by=r"(?i)foreign key")


def test_an_event_number_is_used_once(database: Database) -> None:
    row = {"subject_id": "job_1", "seq": 1, "type": "job.created"}
    with database.write() as session:
        session.execute(insert(Event).values(row))
    rejected(database, insert(Event).values(row), by=r"(?i)unique")


def test_an_event_is_delivered_once_to_each_target(database: Database) -> None:
    row = {"target": "t", "subject_id": "job_1", "event_seq": 1, "event_type": "x", "payload": "{}"}
    with database.write() as session:
        session.execute(insert(WebhookDelivery).values(row | {"id": "msg_1"}))
    rejected(database, insert(WebhookDelivery).values(row | {"id": "msg_2"}), by=r"(?i)unique")


def test_a_state_that_does_not_exist(database: Database) -> None:
    def write(session: Session) -> None:
        session.execute(insert(Job).values(BASE | {"state": "sleeping"}))

    with pytest.raises(StatementError, match="'sleeping' is not a valid JobState"):
        database.write_until(write, give_up_after=0)


def test_absent_json_is_null(database: Database) -> None:
    with database.write() as session:
        session.execute(insert(Job).values(BASE | {"prediction": None}))
        assert session.scalars(select(Job.id).where(Job.prediction.is_(None))).all() == ["job_1"]
