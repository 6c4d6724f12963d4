"""A small synchronous client of Pawlens' HTTP API.

::

    with PawlensClient("http://127.0.0.1:8000") as client:
        job = client.submit(Path("cat.jpg"))
        job = client.wait(job["id"], timeout=60)
        print(job["prediction"]["label"])

One client may be used by many threads at once.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

Job = dict[str, Any]
"""A job as the API gives it: ``id kind status prediction{label scores margin} methods[] error links ...``."""

FINAL_STATUSES = frozenset({"succeeded", "partial", "failed", "canceled", "expired"})
LONG_POLL_SECONDS = 30.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_ATTEMPTS = 5
MAX_PAUSE_SECONDS = 30.0


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
        return cls(
            response.status_code,
            str(problem.get("code", f"http_{response.status_code}")),
            str(problem.get("title", response.reason_phrase or f"HTTP {response.status_code}")),
            str(problem.get("detail", "")),
            errors=problem.get("errors") or (),
        )


class NoServer(Exception):
    """Nothing answers at the address, or the connection broke."""


class PawlensClient:
    """Talks to one server.

    What surely did nothing is tried again, at most :data:`MAX_ATTEMPTS` times in all: any request that could
    not connect or was answered 429 or 503 (after ``Retry-After``), and a GET whose connection broke. So is a
    POST of a job: it carries an ``Idempotency-Key``, by which the server knows it again. Any other call whose
    connection broke is not: it may have been done.

    timeout: seconds for connecting, for sending, and for waiting for a part of the answer.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        try:
            self._http = httpx.Client(
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
        self._http.close()

    def submit(
        self,
        image: Path | bytes | str,
        *,
        methods: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        priority: int | None = None,
        custom_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline_seconds: float | None = None,
    ) -> Job:
        """Post one picture: a file's path, its bytes, or a URL as a string. Returns the new job.

        Raises:
            OSError: the file cannot be read.
            ApiError: the server refused the picture or a parameter.
            NoServer: no server, or the connection broke time and again. Should the job have been made all
                the same, nobody knows its id but the list of jobs.
        """
        parts: dict[str, tuple[str | None, bytes]] = {}
        if isinstance(image, str):
            parts["url"] = (None, image.encode())
        elif isinstance(image, Path):
            parts["file"] = (image.name, image.read_bytes())
        else:
            parts["file"] = ("image", image)
        fields = {
            "methods": ",".join(methods) or None,
            "options": None if options is None else json.dumps(options),
            "priority": priority,
            "custom_id": custom_id,
            "metadata": None if metadata is None else json.dumps(metadata),
            "deadline_seconds": deadline_seconds,
        }
        # Parts without a file name are plain fields; sent as "files", they make the body multipart always.
        parts |= {name: (None, str(value).encode()) for name, value in fields.items() if value is not None}
        once = {"Idempotency-Key": uuid.uuid4().hex}  # so that it may be sent again when the answer is lost
        return self._json("POST", "/v1/jobs", files=parts, headers=once)

    def job(self, job_id: str, *, wait: float = 0, after: int | None = None) -> Job:
        """The job as it is, or after up to ``wait`` seconds (at most 60) as soon as it is final.

        With ``after``, the wait ends as soon as the job has an event numbered higher than that.
        """
        query: dict[str, float | int] = {"wait": wait} if wait else {}
        if after is not None:
            query["after"] = after
        return self._json("GET", f"/v1/jobs/{job_id}", params=query, timeout=self._timeout + wait)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is final, however it ended.

        Raises:
            TimeoutError: it was not final after ``timeout`` seconds; it goes on all the same.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LONG_POLL_SECONDS if deadline is None else deadline - time.monotonic()
            asked_at = time.monotonic()
            job = self.job(job_id, wait=round(min(max(left, 0), LONG_POLL_SECONDS), 1))
            if job["status"] in FINAL_STATUSES:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {job_id} is {job['status']} after {timeout:g} s")
            if time.monotonic() - asked_at < 0.1:  # a server, or a proxy, that does not hold the request
                time.sleep(0.2)

    def jobs(self, **filters: str | int | Sequence[str] | None) -> dict[str, Any]:
        """``{"jobs": [...], "next_cursor"}``, newest first.

        filters: ``status`` (one or several), ``kind``, ``batch_id``, ``custom_id``, ``limit`` (at most 100),
            and ``cursor``, the ``next_cursor`` of the page before.
        """
        query = {name: value for name, value in filters.items() if value is not None}
        return self._json("GET", "/v1/jobs", params=query)

    def image(self, job_id: str) -> bytes:
        return self._request("GET", f"/v1/jobs/{job_id}/image").content

    def download(self, url: str) -> bytes:
        """The bytes behind an artifact's ``url``, as a job gives it: a path on this server."""
        return self._request("GET", httpx.URL(url).raw_path.decode()).content

    def cancel(self, job_id: str) -> Job:
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with all that came of it."""
        self._request("DELETE", f"/v1/jobs/{job_id}")

    def model(self) -> dict[str, Any]:
        return self._json("GET", "/v1/model")

    def queue(self) -> dict[str, Any]:
        return self._json("GET", "/v1/queue")

    def ping(self) -> None:
        """Whether a Pawlens answers; asks once, without patience.

        Raises:
            NoServer: nothing answers, or something else does.
        """
        try:
            response = self._http.get("/livez")
        except httpx.TransportError as error:
            raise NoServer(f"{self.base_url}: {error or type(error).__name__}") from error
        if not response.is_success:
            raise NoServer(f"{self.base_url}: /livez answers {response.status_code}")

    def _json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._request(method, path, **arguments)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise NoServer(f"{self.base_url} answers, but it is no Pawlens: {response.text[:80]!r}")
        return body

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            last = attempt == MAX_ATTEMPTS
            pause = min(0.1 * 2**attempt, 2.0) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            try:
                response = self._http.request(method, path, **arguments)
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                harmless = method == "GET" or "Idempotency-Key" in arguments.get("headers", ())
                if last or not (never_sent or harmless):
                    raise NoServer(f"{self.base_url}: {error or type(error).__name__}") from error
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


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); 0 without one."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
