"""Clients that post without end while something is restarted, and take nothing but clear answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from tests.api.conftest import assert_problem
from tests.chaos.load import picture
from tests.processes import Service, eventually

CLIENTS = 8
PATIENCE_SECONDS = 60
PAUSE_SECONDS = 0.2
"""Before a request is sent again. Shorter than ``Retry-After`` asks, to be there when the service is back."""


@dataclass
class Seen:
    """What the clients were told: jobs accepted, results read, and why requests had to be sent again."""

    accepted: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)
    stopping: threading.Event = field(default_factory=threading.Event)

    def goes_on(self) -> None:
        """Wait until each client may have had two more results: of what it waits for, and of a new job."""
        before = len(self.results)
        eventually(lambda: len(self.results) >= before + 2 * CLIENTS, what="results for the clients")


@contextmanager
def insisting(service: Service, *, may_break: bool = False) -> Iterator[Seen]:
    """For the block, each of eight clients posts a picture, waits for its result, and posts the next one.

    A request that is refused is sent again, with the same idempotency key. When the block ends, each client
    still gets its last job accepted.

    Raises:
        AssertionError: an answer was neither success nor a 503 whose problem document says when to come
            again; or a connection broke although it ``may_break`` not; or patience was at its end.
    """
    seen = Seen()
    with ThreadPoolExecutor(CLIENTS) as pool:
        runs = [pool.submit(_post_until_told, service, seen, number, may_break) for number in range(CLIENTS)]
        try:
            yield seen
        finally:
            seen.stopping.set()
    for run in runs:
        run.result()


def _post_until_told(service: Service, seen: Seen, client: int, may_break: bool) -> None:
    address = str(service.http.base_url)
    with httpx.Client(base_url=address, timeout=30) as http:
        for number in count():
            key = {"Idempotency-Key": f"client-{client}-{number}"}
            upload = {"file": picture(client << 16 | number)}
            job = _insist(http, seen, may_break, "POST", "/v1/jobs", files=upload, headers=key)
            seen.accepted.append(job["id"])
            while not seen.stopping.is_set() and job["status"] != "succeeded":
                job = _insist(http, seen, may_break, "GET", f"/v1/jobs/{job['id']}", params={"wait": 1})
            if seen.stopping.is_set():
                return
            seen.results.append(job["id"])


def _insist(
    http: httpx.Client, seen: Seen, may_break: bool, method: str, path: str, **request: Any
) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = http.request(method, path, **request)
        except httpx.TransportError as error:
            if not may_break:
                raise AssertionError("the API itself was never away") from error
            seen.again[type(error).__name__] += 1
        else:
            if answer.status_code in (200, 202):
                return dict(answer.json())
            assert_problem(answer, 503, "service_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            seen.again["503"] += 1
        time.sleep(PAUSE_SECONDS)
    raise AssertionError(f"{method} {path} was refused for {PATIENCE_SECONDS} s: {seen.again}")
