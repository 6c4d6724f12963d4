"""Clients that post pictures, from processes of their own: as fast as they are answered, or at a given rate.

As fast as they are answered is a closed loop: each client posts its next picture when it has its answer. So
the number of clients bounds what is under way, and a slow server is asked less often; rates and latencies
belong together. At a given rate each request has its time, and its latency is counted from then, also where
its client still waits for an answer: a server that stands still cannot hide what it has kept waiting.
"""

from __future__ import annotations

import http.client
import itertools
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from tests.processes import PHOTOS

WARM_SECONDS = 2.0
PROCESSES = 2
"""One process of Python clients would be slower than the servers that it measures."""


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
    """Post photos (all of tests/examples, or those with these numbers) for so long, and a second to warm up;
    ``per_second`` of all clients together, or as fast as they are answered.

    Every picture is new to the server: bytes behind the end of the JPEG make it different from all others.

    Raises AssertionError if anything but ``ok`` is answered.
    """
    chosen = tuple(range(len(PHOTOS)) if photos is None else photos)
    processes = min(PROCESSES, clients)
    shares = [range(number, clients, processes) for number in range(processes)]
    pace = Pace(per_second, clients)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_ready, range(processes))  # Python has started and imported in each
        begin = time.monotonic() + 0.2
        wishes = [
            (port, path, share, begin, seconds, dict(headers or {}), chosen, ok, pace) for share in shares
        ]
        parts = pool.starmap(_clients, wishes, chunksize=1)
    whole = Load(seconds, begin)
    for part in parts:
        whole.seconds += part.seconds
        whole.answers |= part.answers
    return whole


@dataclass(frozen=True)
class Pace:
    """When each client posts: their turns follow one another evenly."""

    per_second: float | None
    clients: int

    def wait(self, begin: float, client: int, request: int) -> float:
        """Until it is the client's turn for this request of its own. From when its latency counts."""
        if self.per_second is None:
            return time.monotonic()
        due = begin + (request * self.clients + client) / self.per_second
        time.sleep(max(0.0, due - time.monotonic()))
        return due


def _ready(_number: int) -> None:
    time.sleep(0.1)  # so that no process takes the part of another


def _clients(
    port: int,
    path: str,
    clients: range,
    begin: float,
    seconds: float,
    headers: dict[str, str],
    photos: Sequence[int],
    ok: int,
    pace: Pace,
) -> Load:
    load, errors = Load(seconds), []

    def client(number: int) -> None:
        try:
            first = number % len(photos)  # so that not all post the same photo at the same time
            turns = partial(pace.wait, begin, number)
            _client(load, port, path, begin, headers, [*photos[first:], *photos[:first]], ok, turns)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return load


def _client(
    load: Load,
    port: int,
    path: str,
    begin: float,
    headers: dict[str, str],
    photos: Sequence[int],
    ok: int,
    turn: Callable[[int], float],
) -> None:
    # Prepared once and sent by the plainest client: a comfortable one would cost as much as the server does.
    forms = {PHOTOS[number].stem: _form(PHOTOS[number].read_bytes()) for number in photos}
    bodies: dict[str, bytes] = {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    time.sleep(max(0.0, begin - time.monotonic()))
    opened, closed = begin + WARM_SECONDS, begin + WARM_SECONDS + load.window
    for request, name in enumerate(itertools.cycle(forms)):
        head, tail, kind = forms[name]
        started = turn(request)
        if time.monotonic() >= closed:
            break
        connection.request("POST", path, head + os.urandom(12) + tail, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        body = answer.read()
        ended = time.monotonic()
        assert answer.status == ok, f"{answer.status} {body[:300]!r}"
        if opened <= ended < closed:
            load.seconds.append(ended - started)
        bodies[name] = body
    connection.close()
    load.answers |= {name: json.loads(body) for name, body in bodies.items()}


def _form(data: bytes) -> tuple[bytes, bytes, str]:
    """A form with one file, cut where the file ends."""
    request = httpx.Request("POST", "http://127.0.0.1/", files={"file": ("photo.jpg", data, "image/jpeg")})
    body = request.read()
    end = body.index(data) + len(data)
    return body[:end], body[end:], request.headers["content-type"]
