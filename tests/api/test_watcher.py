"""The one task that wakes all waiting requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest
from sqlalchemy.orm import Session

from api import watcher as watcher_module
from api.watcher import Watcher
from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs import queries
from tests.core.jobs.steps import RESULT, claimed, running, submitted


def watching(database: Database, scenario: Callable[[Watcher], Awaitable[None]]) -> None:
    async def run() -> None:
        watcher = Watcher(database)
        watcher.start()
        try:
            async with asyncio.timeout(30):
                await scenario(watcher)
        finally:
            await watcher.stop()

    asyncio.run(run())


def succeed(database: Database, claim: Any) -> None:
    from core.jobs import results

    with database.write() as session:
        assert results.succeed(session, claim, **RESULT)


def test_it_wakes_at_the_end_and_not_before(database: Database) -> None:
    job_id = submitted(database)

    async def scenario(watcher: Watcher) -> None:
        waiting = asyncio.create_task(watcher.wait(job_id, 60))
        await asyncio.sleep(0.2)
        (claim,) = await asyncio.to_thread(claimed, database)
        await asyncio.sleep(0.2)
        assert not waiting.done()  # it was started, which is not its end
        await asyncio.to_thread(succeed, database, claim)
        await waiting

    watching(database, scenario)


def test_it_wakes_at_any_event_above_the_one_named(sqlite_database: Database) -> None:
    job_id = submitted(sqlite_database)

    async def scenario(watcher: Watcher) -> None:
        await watcher.wait(job_id, 60, after=0)
        waiting = asyncio.create_task(watcher.wait(job_id, 60, after=1))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await asyncio.to_thread(claimed, sqlite_database)
        await waiting

    watching(sqlite_database, scenario)


def test_it_returns_when_the_time_is_up(sqlite_database: Database) -> None:
    job_id = submitted(sqlite_database)

    async def scenario(watcher: Watcher) -> None:
        started = time.monotonic()
        await watcher.wait(job_id, 0.3)
        assert time.monotonic() - started >= 0.3

    watching(sqlite_database, scenario)


def test_a_job_that_is_gone_is_not_waited_for(sqlite_database: Database) -> None:
    watching(sqlite_database, lambda watcher: watcher.wait("job_0", 60))


def test_many_wait_by_one_query(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [running(sqlite_database) for _ in range(3)]
    asked: list[set[str]] = []
    read = queries.event_seqs

    def counted(session: Session, job_ids: Collection[str]) -> dict[str, tuple[int, bool]]:
        asked.append(set(job_ids))
        return read(session, job_ids)

    monkeypatch.setattr(queries, "event_seqs", counted)

    async def scenario(watcher: Watcher) -> None:
        waiting = [
            asyncio.create_task(watcher.wait(claim.job_id, 60)) for claim in claims for _ in range(100)
        ]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting)
        for claim in claims:
            await asyncio.to_thread(succeed, sqlite_database, claim)
        await asyncio.gather(*waiting)

    watching(sqlite_database, scenario)
    assert {claim.job_id for claim in claims} in asked
    assert len(asked) < 100  # three hundred waited


def test_the_longer_there_is_no_news_the_less_it_asks_and_a_newcomer_is_looked_after_at_once(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "MOST_PAUSE", 5.0)
    monkeypatch.setattr(watcher_module, "SHARE", 2.0)
    slow, quick = running(sqlite_database), running(sqlite_database)
    asked: list[float] = []
    read = queries.event_seqs

    def counted(session: Session, job_ids: Collection[str]) -> dict[str, tuple[int, bool]]:
        asked.append(time.monotonic())
        return read(session, job_ids)

    monkeypatch.setattr(queries, "event_seqs", counted)

    async def scenario(watcher: Watcher) -> None:
        waiting = asyncio.create_task(watcher.wait(slow.job_id, 60))
        await asyncio.sleep(1.0)
        assert len(asked) <= 8  # fifty times, if every 20 ms; the next pause is about two seconds long
        began = time.monotonic()
        later = asyncio.create_task(watcher.wait(quick.job_id, 60))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(succeed, sqlite_database, quick)
        await later
        assert time.monotonic() - began < 0.9
        assert not waiting.done()
        waiting.cancel()

    watching(sqlite_database, scenario)


def test_while_nobody_waits_nothing_is_asked(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = running(sqlite_database)
    asked: list[object] = []
    read = queries.event_seqs

    def counted(session: Session, job_ids: Collection[str]) -> dict[str, tuple[int, bool]]:
        asked.append(job_ids)
        return read(session, job_ids)

    monkeypatch.setattr(queries, "event_seqs", counted)

    async def scenario(watcher: Watcher) -> None:
        await asyncio.sleep(0.2)
        assert not asked
        await watcher.wait(claim.job_id, 0.2)
        assert asked
        await asyncio.sleep(0.2)
        asked.clear()
        await asyncio.sleep(0.3)
        assert not asked

    watching(sqlite_database, scenario)


def test_released_it_lets_go_of_all_but_who_must_have_the_answer(sqlite_database: Database) -> None:
    claim = running(sqlite_database)

    async def scenario(watcher: Watcher) -> None:
        waiting = asyncio.create_task(watcher.wait(claim.job_id, 60))
        staying = asyncio.create_task(watcher.wait(claim.job_id, 60, even_when_released=True))
        await asyncio.sleep(0)  # both wait, and nothing was read yet
        watcher.release()
        assert not await waiting
        assert not await watcher.wait(claim.job_id, 60)  # nor does anybody later
        assert not staying.done()
        await asyncio.to_thread(succeed, sqlite_database, claim)
        assert await staying

    watching(sqlite_database, scenario)


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), RuntimeError("a fault of ours")])
def test_it_outlives_errors(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Were its task to end, every later request would wait in vain until its time is up."""
    claim = running(sqlite_database)
    read = queries.event_seqs
    failures = [error]

    def failing_once(*given: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(*given)

    monkeypatch.setattr(queries, "event_seqs", failing_once)

    async def scenario(watcher: Watcher) -> None:
        waiting = asyncio.create_task(watcher.wait(claim.job_id, 60))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(succeed, sqlite_database, claim)
        await waiting

    watching(sqlite_database, scenario)
    assert not failures
