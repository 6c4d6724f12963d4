"""Waking the requests that wait for a job or a batch, with one small query for all of them.

Only while somebody waits, one task reads the newest event number of all that is watched. A thousand waiting
clients cost what one costs. It looks every 20 ms at first, and less often the longer there is no news, so
that nobody waits for more than a twentieth longer than they had to: a prediction is noticed within 20 ms, and
while a batch runs for a minute the database is asked four times a second.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from starlette.concurrency import run_in_threadpool

from core.database import Database
from core.errors import PawlensError
from core.jobs import queries

logger = logging.getLogger(__name__)

LEAST_PAUSE, MOST_PAUSE = 0.02, 0.25
"""Seconds between two looks."""
SHARE = 0.05
"""Of the time since the last news, or since the newest began to wait, for a pause in between."""


class Watcher:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen: dict[str, tuple[int, bool]] = {}
        self._newcomer = asyncio.Event()
        self._quiet_since = (
            0.0  # the event loop's time of the last news, or of the newest's beginning to wait
        )
        self._task: asyncio.Task[None] | None = None
        self.is_released = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watcher")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def release(self) -> None:
        """The process is about to end: nobody waits from now on, but those who must have an answer."""
        self.is_released = True
        for changed in itertools.chain.from_iterable(self._waiting.values()):
            changed.set()

    async def wait(
        self, subject_id: str, seconds: float, *, after: int | None = None, even_when_released: bool = False
    ) -> bool:
        """True once the job or batch has ended, is gone, or has an event above ``after``; False in time.

        False at once when the watcher is released, unless the caller waits on even then.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        with self._watching(subject_id) as changed:
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                if self.is_released and not even_when_released:
                    return False
                try:
                    async with asyncio.timeout(left):
                        await changed.wait()
                except TimeoutError:
                    return False
                changed.clear()
                if subject_id not in self._seen:  # woken by the release
                    continue
                seq, final = self._seen[subject_id]
                if final or (after is not None and seq > after):
                    return True
        return False

    @contextmanager
    def _watching(self, subject_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        if subject_id in self._seen:
            changed.set()  # look at once at what is known
        else:
            self._quiet_since = asyncio.get_running_loop().time()
            self._newcomer.set()
        self._waiting[subject_id].add(changed)
        try:
            yield changed
        finally:
            self._waiting[subject_id].discard(changed)
            if not self._waiting[subject_id]:
                del self._waiting[subject_id]
                self._seen.pop(subject_id, None)

    async def _pause(self) -> None:
        """Until the next look is due, which a newcomer does not wait for."""
        await asyncio.sleep(LEAST_PAUSE)
        quiet = asyncio.get_running_loop().time() - self._quiet_since
        more = min(SHARE * quiet, MOST_PAUSE) - LEAST_PAUSE
        if more > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(more):
                    await self._newcomer.wait()

    async def _run(self) -> None:
        while True:
            self._newcomer.clear()
            if not self._waiting:
                await self._newcomer.wait()
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
            for subject_id, now in seen.items():
                if subject_id in self._waiting and self._seen.get(subject_id) != now:
                    self._seen[subject_id] = now
                    self._quiet_since = asyncio.get_running_loop().time()
                    for changed in self._waiting[subject_id]:
                        changed.set()
            await self._pause()

    def _read(self, subject_ids: set[str]) -> dict[str, tuple[int, bool]]:
        with self._database.read() as session:
            found = queries.event_seqs(session, subject_ids)
        # What is gone has nothing more to wait for.
        return {subject_id: found.get(subject_id, (0, True)) for subject_id in subject_ids}
