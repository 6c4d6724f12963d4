"""The connection under the client: one server, refusals as exceptions, patience where nothing was done."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_ATTEMPTS = 8
"""With the pauses between them about ten seconds, in which an API process is restarted."""
MAX_PAUSE_SECONDS = 30.0
LONG_POLL_SECONDS = 30.0

FINAL_STATUSES = frozenset({"succeeded", "partial", "failed", "canceled", "expired", "completed"})
"""Of jobs and batches."""

Thing = dict[str, Any]
"""A job or a batch as the API gives it."""


class ApiError(Exception):
    """The server refused: its problem document (RFC 9457). ``errors`` lists single fields, if it does."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, *, errors: Sequence[Any] = ()
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.errors = list(errors)

    @classmethod
    def of(cls, response: httpx.Response) -> ApiError:
        """From any response that is not a success, also one that some proxy has made."""
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"detail": response.text[:200]}
        errors = problem.get("errors")
        return cls(
            response.status_code,
            str(problem.get("code") or f"http_{response.status_code}"),
            str(problem.get("title") or response.reason_phrase or f"HTTP {response.status_code}"),
            str(problem.get("detail") or ""),
            errors=errors if isinstance(errors, list) else (),
        )


class NoServer(Exception):
    """Nothing answers at the address, or something else than a Pawlens, or the connection broke."""

    @classmethod
    def of(cls, base_url: str, error: httpx.RequestError) -> NoServer:
        return cls(f"{base_url}: {error or type(error).__name__}")


class InvalidKey(ValueError):
    """Nothing that a header could carry, and so no key of any Pawlens."""


def encodable(name: str) -> str:
    """A file's name or a URL that can be sent and printed: bytes that are no UTF-8 become %E9 and the like.

    Python reads such a byte as a lone surrogate (PEP 383), which nothing encodes. Two names remain two.
    """
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)


def segment(identifier: str) -> str:
    """An id as one segment of a path, whatever is in it: "../batches/x" leads nowhere else."""
    return quote(identifier, safe="", errors="surrogateescape")


class Connection:
    """Talks to one server.

    What surely did nothing is tried again, at most :data:`MAX_ATTEMPTS` times in all: any request that could
    not connect or was answered 429 or 503 (after ``Retry-After``), and a GET whose connection broke. So is a
    POST with an ``Idempotency-Key``, by which the server knows it again. Any other call whose connection
    broke is not: it may have been done.
    """

    def __init__(self, base_url: str, api_key: str | None, *, timeout: float) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout = timeout
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidKey("An API key is printable ASCII and looks like pk_...; what was given is none.")
        try:
            self.http = httpx.Client(
                base_url=self.base_url,
                timeout=timeout,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                # A proxy that the environment names would look for our loopback on its own machine.
                trust_env=httpx.URL(self.base_url).host not in LOOPBACK,
            )
        except httpx.InvalidURL as error:
            raise NoServer(f"{self.base_url} is no address: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        return self.parsed(self.request(method, path, **arguments).content)

    def parsed(self, answer: bytes | str) -> dict[str, Any]:
        """The JSON object in it.

        Raises:
            NoServer: there is none.
        """
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        shown = answer if isinstance(answer, str) else answer.decode(errors="replace")
        raise NoServer(f"{self.base_url} answers, but it is no Pawlens: {shown[:80]!r}")

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            last = attempt == MAX_ATTEMPTS
            pause = pause_before(attempt)
            try:
                response = self.http.request(method, path, **arguments)
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                harmless = method == "GET" or "Idempotency-Key" in arguments.get("headers", ())
                if last or not (never_sent or harmless):
                    raise NoServer.of(self.base_url, error) from error
            except httpx.DecodingError as error:
                raise NoServer.of(self.base_url, error) from error
            else:
                if response.is_success:
                    return response
                if last or response.status_code not in (429, 503):
                    raise ApiError.of(response)
                pause = max(pause, _retry_after(response))
                if pause > MAX_PAUSE_SECONDS:  # longer than anyone wants to sit in front of
                    raise ApiError.of(response)
            time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def stream(self, path: str, **query: Any) -> Iterator[Iterator[bytes]]:
        """The body of a GET, piece by piece. Not tried again: the caller has seen the beginning of it.

        Raises:
            ApiError: the server refused.
            NoServer: nothing answers, or the connection broke.
        """
        try:
            with self.http.stream("GET", path, params=query) as response:
                if not response.is_success:
                    response.read()
                    raise ApiError.of(response)
                yield response.iter_bytes()
        except httpx.RequestError as error:
            raise NoServer.of(self.base_url, error) from error

    def until_final(self, ask: Callable[[float], Thing], timeout: float | None) -> Thing:
        """What ``ask`` gives once it has ended; ``ask`` may hold for the seconds it is given.

        Raises:
            TimeoutError: it had not ended after ``timeout`` seconds; it goes on all the same.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LONG_POLL_SECONDS if deadline is None else deadline - time.monotonic()
            asked_at = time.monotonic()
            thing = ask(round(min(max(left, 0), LONG_POLL_SECONDS), 1))
            if thing["status"] in FINAL_STATUSES:
                return thing
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{thing['id']} is {thing['status']} after {timeout:g} s")
            if time.monotonic() - asked_at < 0.1:  # a server, or a proxy, that does not hold the request
                time.sleep(0.2)


def pause_before(attempt: int) -> float:
    return float(min(0.1 * 2**attempt, 4.0) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); 0 without one."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return 0.0
