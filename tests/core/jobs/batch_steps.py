"""Short names for what the tests of batches do, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count as count_from
from typing import Any

from sqlalchemy import func, select

from core.database import Database
from core.jobs import (
    batch_changes,
    batch_queries,
    batches,
    events,
    results,
    retention,
)
from core.jobs.batch_queries import BatchRecord
from core.jobs.batches import Item, Wishes
from core.jobs.blobs import Picture, store_pictures
from core.jobs.claims import Claim
from core.jobs.ids import new_id
from core.jobs.states import BatchState
from core.jobs.submit import Idempotency
from core.jobs.tables import Table
from tests.core.jobs.steps import RESULT, Lasting, claimed


def remove_batch(database: Database, batch_id: str, *, limit: int = 1) -> int:
    """A batch that has ended goes, so many jobs at a time; the number of transactions."""
    for number in count_from(1):
        with database.write() as session:
            if retention.delete_batch(session, batch_id, limit=limit):
                return number
    raise AssertionError


ERROR = {"code": "invalid_image", "title": "Invalid image", "detail": "no picture"}


def pictures(count: int) -> list[Picture]:
    return [Picture(b"picture %d" % i, 640, 480, "image/png") for i in range(count)]


def items(count: int, *, bad: Sequence[int] = ()) -> list[Item]:
    return [
        Item(i, f"{i}.png", str(i), error=ERROR) if i in bad else Item(i, f"{i}.png", str(i), picture.sha256)
        for i, picture in enumerate(pictures(count))
    ]


def made(
    database: Database,
    count: int = 3,
    *,
    bad: Sequence[int] = (),
    owner: str | None = None,
    once: Idempotency | None = None,
    **wishes: Any,
) -> str:
    with database.write() as session:
        store_pictures(session, pictures(count))
    with database.write() as session:
        return batches.create_once(
            session,
            new_id("batch"),
            once,
            owner,
            items=items(count, bad=bad),
            wishes=Wishes(**wishes),
            max_attempts=3,
        )


def record(database: Database, batch_id: str) -> BatchRecord:
    with database.read() as session:
        return batch_queries.get_batch(session, batch_id)


def state(database: Database, batch_id: str) -> BatchState:
    return record(database, batch_id).batch.state


def nonzero(database: Database, batch_id: str) -> dict[str, int]:
    return {str(state): count for state, count in record(database, batch_id).counts.items() if count}


def batch_log(database: Database, batch_id: str) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as session:
        found = events.after(session, batch_id, 0)
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    assert len(found) == record(database, batch_id).batch.event_seq
    return [(event.type, event.data) for event in found]


def types(database: Database, batch_id: str) -> list[str]:
    return [type_ for type_, _ in batch_log(database, batch_id)]


def succeed(database: Database, *claims: Claim) -> None:
    with database.write() as session:
        for claim in claims:
            assert results.succeed(session, claim, **RESULT)


def fail(database: Database, claim: Claim) -> None:
    with database.write() as session:
        assert results.fail(session, claim, Lasting("no"), retry_seconds=0)


def finish(database: Database) -> None:
    while claims := claimed(database, limit=16):
        succeed(database, *claims)


def cancel(database: Database, batch_id: str) -> None:
    with database.write() as session:
        batch_changes.cancel(session, batch_id)


def retry(database: Database, batch_id: str) -> str:
    new = new_id("batch")
    with database.write() as session:
        wishes, again = batch_changes.to_retry(session, batch_id)
        batches.create(session, new, items=again, wishes=wishes, max_attempts=3, retry_of=batch_id)
    return new


def count(database: Database, table: type[Table]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
