"""Waking the requests that wait for a job, with one small query for all of them.

Every 50 ms at most, and only while somebody waits, one task reads the newest event number of all watched
jobs. A thousand waiting clients cost what one costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool

from core.database import Database
from core.errors import PawlensError
from core.jobs import queries

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class Watcher:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen: dict[str, tuple[int, bool]] = {}
        self._someone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watcher")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self, job_id: str, seconds: float, *, after: int | None = None) -> bool:
        """True once the job has ended, is gone, or has an event above ``after``; False if the time is up."""
        deadline = asyncio.get_running_loop().time() + seconds
        with self._watching(job_id) as changed:
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await changed.wait()
                except TimeoutError:
                    return False
                changed.clear()
                seq, final = self._seen.get(job_id, (0, True))
                if final or (after is not None and seq > after):
                    return True
        return False

    @contextmanager
    def _watching(self, job_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        if job_id in self._seen:
            changed.set()  # look at once at what is known
        self._waiting[job_id].add(changed)
        self._someone.set()
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
                self._seen.pop(job_id, None)

    async def _run(self) -> None:
        while True:
            await self._someone.wait()
            if not self._waiting:
                self._someone.clear()
                continue
            try:
                seen = await run_in_threadpool(self._read, set(self._waiting))
            except PawlensError as error:
                logger.warning("cannot look for events now: %s", error.detail)
                await asyncio.sleep(1)
                continue
            except Exception:
                # This task serves every waiting request, now and later: it must outlive whatever happens.
                logger.exception("looking for events failed")
                await asyncio.sleep(1)
                continue
            for job_id, now in seen.items():
                if job_id in self._waiting and self._seen.get(job_id) != now:
                    self._seen[job_id] = now
                    for changed in self._waiting[job_id]:
                        changed.set()
            await asyncio.sleep(POLL_SECONDS)

    def _read(self, job_ids: set[str]) -> dict[str, tuple[int, bool]]:
        with self._database.read() as session:
            found = queries.event_seqs(session, job_ids)
        # A job that is gone has nothing more to wait for.
        return {job_id: found.get(job_id, (0, True)) for job_id in job_ids}
