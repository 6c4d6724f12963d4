"""Clients that post pictures, from a process of their own: as fast as they are answered, or at a given rate.

As fast as they are answered is a closed loop: each client posts its next picture when it has its answer. So
the number of clients bounds what is under way, and a slow server is asked less often; rates and latencies
belong together. At a given rate each request has its time, and its latency is counted from then, also where
its client still waits for an answer: a server that stands still cannot hide what it has kept waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvloop

from tests.processes import PHOTOS

WARM_SECONDS = 2.0
LEAD_SECONDS = 0.2
"""In which all connections are opened."""
NEW_BYTES = 12


@dataclass
class Load:
    """What came of it: seconds of each request that was answered in the window, and the last answer of each
    photo."""

    window: float
    began: float = 0.0  # of the time.monotonic() of this machine
    seconds: list[float] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.window

    def percentile(self, percent: int) -> float:
        """In milliseconds; the largest where there are too few to tell."""
        if len(self.seconds) < 2:
            return 1000 * max(self.seconds, default=float("nan"))
        return 1000 * statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


def drive(
    port: int,
    path: str,
    clients: int,
    seconds: float,
    *,
    headers: Mapping[str, str] | None = None,
    photos: Sequence[int] | None = None,
    ok: int = 200,
    per_second: float | None = None,
) -> Load:
    """Post photos (all of tests/examples, or those with these numbers) for so long, after a while to warm up;
    ``per_second`` of all clients together, or as fast as they are answered.

    Every picture is new to the server: bytes behind the end of the JPEG make it different from all others.

    Raises AssertionError if anything but ``ok`` is answered.
    """
    chosen = tuple(range(len(PHOTOS)) if photos is None else photos)
    visit = _Visit(port, path, clients, seconds, dict(headers or {}), chosen, ok, per_second, WARM_SECONDS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_drive, (visit,))


@dataclass(frozen=True)
class _Visit:
    """What :func:`drive` was asked for."""

    port: int
    path: str
    clients: int
    seconds: float
    headers: dict[str, str]
    photos: tuple[int, ...]
    ok: int
    per_second: float | None
    warm_seconds: float

    async def turn(self, begin: float, client: int, request: int) -> float:
        """Wait until it is the client's turn for this request of its own. From when its latency counts.

        The turns of all clients follow one another evenly.
        """
        if self.per_second is None:
            return time.monotonic()
        due = begin + (request * self.clients + client) / self.per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        return due


def _drive(visit: _Visit) -> Load:
    return uvloop.run(_all_clients(visit))


async def _all_clients(visit: _Visit) -> Load:
    load = Load(visit.seconds, began=time.monotonic() + LEAD_SECONDS)
    await asyncio.gather(*(_client(number, visit, load) for number in range(visit.clients)))
    return load


async def _client(number: int, visit: _Visit, load: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", visit.port)
    # Not all post the same photo at the same time.
    first = number % len(visit.photos)
    photos = [PHOTOS[index] for index in (*visit.photos[first:], *visit.photos[:first])]
    requests = {photo.stem: _requests(photo.read_bytes(), visit) for photo in photos}
    bodies: dict[str, bytes] = {}
    opened = load.began + visit.warm_seconds
    closed = opened + load.window
    await asyncio.sleep(load.began - time.monotonic())
    for request, name in enumerate(itertools.cycle(requests)):
        started = await visit.turn(load.began, number, request)
        if time.monotonic() >= closed:
            break
        writer.write(next(requests[name]))
        status, body = await _answer(reader)
        ended = time.monotonic()
        assert status == visit.ok, f"{status} {body[:300]!r}"
        if opened <= ended < closed:
            load.seconds.append(ended - started)
        bodies[name] = body
    writer.close()
    load.answers |= {name: json.loads(body) for name, body in bodies.items()}


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body. Written out, for a comfortable client would cost as much as the server does."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, length, rest = head.partition(b"\r\ncontent-length:")
    assert length, f"an answer of unknown length: {head!r}"
    body = await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    return int(head.split(b" ", 2)[1]), body


def _requests(data: bytes, visit: _Visit) -> Iterator[bytes]:
    """Whole requests with this photo, each with other bytes behind it."""
    head, tail, kind = _form(data)
    length = len(head) + NEW_BYTES + len(tail)
    headers = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": length, **visit.headers}
    lines = [f"POST {visit.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines).encode() + head
    while True:
        yield head + os.urandom(NEW_BYTES) + tail


def _form(data: bytes) -> tuple[bytes, bytes, str]:
    """A form with one file, cut where the file ends."""
    request = httpx.Request("POST", "http://127.0.0.1/", files={"file": ("photo.jpg", data, "image/jpeg")})
    body = request.read()
    end = body.index(data) + len(data)
    return body[:end], body[end:], request.headers["content-type"]
