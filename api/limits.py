"""How much one caller, and how many jobs the service, may have: 429 and 503, with times that are honest.

Rates are limited by a token bucket for each key, or for each client's address where the service is open. The
buckets live in this process: two API processes let twice as much through.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import Caller
from api.problems import problem_response
from core.database import Database, db_now
from core.errors import PawlensError
from core.jobs import places, queries
from core.jobs.states import Queue
from core.settings import Settings

MAX_BUCKETS = 10_000
"""The ones used longest ago are forgotten first: most of them are full again, which is how a new one is."""

UNKNOWN_THROUGHPUT_SECONDS = 60
"""Retry-After of a full queue from which nothing has gone lately."""
MAX_RETRY_AFTER_SECONDS = 3600


class RateLimited(PawlensError):
    status, code, title = 429, "rate_limited", "Too many requests"


class QueueFull(PawlensError):
    status, code, title = 503, "queue_full", "Queue full"
    retryable = True


@dataclass(frozen=True)
class Allowance:
    """What a bucket says to one request. Times in whole seconds, rounded up."""

    is_allowed: bool
    remaining: int
    full_in: int
    retry_after: int


class TokenBuckets:
    """For each name a bucket of ``burst`` tokens, refilled at the caller's rate; a request takes one."""

    def __init__(self, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def take(self, name: str, per_second: float) -> Allowance:
        now = self._clock()
        tokens, at = self._buckets.pop(name, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - at) * per_second)
        is_allowed = tokens >= 1
        tokens -= is_allowed
        self._buckets[name] = tokens, now
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return Allowance(
            is_allowed=is_allowed,
            remaining=int(tokens),
            full_in=math.ceil((self.burst - tokens) / per_second),
            retry_after=max(1, math.ceil((1 - tokens) / per_second)),
        )


class Limited:
    """Refuses what is over a caller's rate, and tells everyone what is left.

    ``RateLimit`` and ``RateLimit-Policy`` are those of draft-ietf-httpapi-ratelimit-headers-10: ``q``
    requests at once, refilled in ``w`` seconds; ``r`` are left, and all of them again in ``t`` seconds.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._rate = settings.rate_per_second
        self._buckets = TokenBuckets(settings.rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        rate = (caller.rate_per_second or self._rate) if caller else None
        if caller is None or rate is None:
            await self._app(scope, receive, send)
            return
        burst, allowance = self._buckets.burst, self._buckets.take(caller.client, rate)
        headers = {
            "RateLimit-Policy": f'"default";q={burst};w={math.ceil(burst / rate)}',
            "RateLimit": f'"default";r={allowance.remaining};t={allowance.full_in}',
        }
        if not allowance.is_allowed:
            refusal = RateLimited(
                f"More than {rate:g} requests a second, or {burst} at once. Wait for Retry-After; to follow "
                "a job, ask with ?wait=60 instead of often.",
                headers=headers | {"Retry-After": str(allowance.retry_after)},
            )
            await problem_response(refusal, scope["path"])(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Throughput:
    """How deep the queues are and how fast they move, read once a second at most; less often when it is slow.

    From it: when a waiting job starts, and whether another may be put behind it.
    """

    KEEP_SECONDS = 1.0
    SHARE = 0.05
    """Of the time, at most, goes into reading: counting takes the longer, the deeper a queue is."""

    def __init__(self, database: Database, max_queue: int) -> None:
        self._database = database
        self._max_queue = max_queue
        self._one_reads = threading.Lock()
        self._one_counts = threading.Lock()
        self._read_again_at = float("-inf")
        self._now: datetime | None = None
        self._depths: dict[Queue, queries.QueueDepth] = {}
        self._accepted: Counter[Queue] = Counter()  # since the depths were read

    def start_of(self, queue: Queue, position: int) -> datetime | None:
        """The position over the jobs that finished in the last minute; None while either is unknown.

        From what was read last: an event loop may ask.
        """
        depth = self._depths.get(queue)
        if position >= places.LAST_POSITION or not depth or not depth.finished_last_minute:
            return None
        assert self._now is not None
        return self._now + timedelta(seconds=position * 60 / depth.finished_last_minute)

    def accept(self, queue: Queue, count: int = 1) -> None:
        """Make room for so many new jobs. Other API processes are seen with a second's delay.

        Raises:
            QueueFull: they would wait behind more than ``max_queue`` others. Retry-After says when, at the
                measured pace, there will be room.
        """
        self.refresh()
        with self._one_counts:
            depth = self._depths[queue]
            waiting = depth.waiting + self._accepted[queue]
            excess = waiting + count - self._max_queue
            if excess <= 0:
                self._accepted[queue] += count
                return
        seconds = UNKNOWN_THROUGHPUT_SECONDS
        if depth.finished_last_minute:
            seconds = math.ceil(excess * 60 / depth.finished_last_minute)
        raise QueueFull(
            f"{waiting:,} jobs wait in the queue {queue}, and {self._max_queue:,} may. Nothing was "
            "accepted; try again after Retry-After.",
            headers={"Retry-After": str(min(seconds, MAX_RETRY_AFTER_SECONDS))},
            queue=queue,
            waiting=waiting,
        )

    def refresh(self) -> None:
        """Read again what is too old; call it in a thread."""
        if time.monotonic() <= self._read_again_at:
            return
        # Only the first ones ever must wait; later, while one reads, the others take what is known.
        if not self._one_reads.acquire(blocking=not self._depths):
            return
        try:
            if (began := time.monotonic()) > self._read_again_at:
                with self._database.read() as session:
                    now, depths = session.scalar(select(db_now())), queries.queue_depths(session)
                with self._one_counts:
                    self._now, self._depths = now, depths
                    self._accepted.clear()
                ended = time.monotonic()
                self._read_again_at = ended + max(self.KEEP_SECONDS, (ended - began) / self.SHARE)
        finally:
            self._one_reads.release()
