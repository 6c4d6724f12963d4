"""Many pictures at once through the client: post all of them, then wait for all of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client import ApiError, NoServer, PawlensClient
from api.connection import encodable

CONCURRENCY = 8
"""Pictures on their way to the server at once, and long polls held open at once."""


@dataclass(frozen=True)
class Outcome:
    """What came of one picture: the job as it ended, or why there is none."""

    source: str
    job: dict[str, Any] | None = None
    error: dict[str, str] | None = None

    @property
    def is_good(self) -> bool:
        return self.job is not None and self.job["status"] in ("succeeded", "partial")

    @property
    def reason(self) -> str:
        """Why it is not good, in one line."""
        error = self.error or (self.job or {}).get("error")
        if error:
            return f"{error['title']}: {error['detail']}" if error["detail"] else str(error["title"])
        return str((self.job or {}).get("status", "unknown"))

    def as_json(self) -> str:
        return json.dumps({"source": self.source, **(self.job or {"error": self.error})}, ensure_ascii=False)


def predict_all(
    client: PawlensClient,
    pictures: Sequence[Path | str],
    *,
    on_sent: Callable[[], object],
    on_done: Callable[[], object],
) -> list[Outcome]:
    """One outcome for each picture, in order. The two callbacks come from other threads.

    All are posted before any is waited for in earnest, so that the worker has full batches to work on. The
    queue is first come, first served: waiting in the order of posting keeps nobody waiting.
    """
    attempt = _Attempt(client)
    submitting, waiting = ThreadPoolExecutor(CONCURRENCY), ThreadPoolExecutor(CONCURRENCY)
    try:
        posted = [submitting.submit(attempt.submit, picture) for picture in pictures]
        ended = [waiting.submit(attempt.wait, future) for future in posted]
        for future in posted:
            future.add_done_callback(lambda _: on_sent())
        for future in ended:
            future.add_done_callback(lambda _: on_done())
        return [future.result() for future in ended]
    finally:
        submitting.shutdown(wait=False, cancel_futures=True)
        waiting.shutdown(wait=False, cancel_futures=True)


class _Attempt:
    """Turns every failure into an outcome."""

    def __init__(self, client: PawlensClient) -> None:
        self._client = client
        self._gone = threading.Event()  # do not try in vain for each of ten thousand pictures

    def submit(self, picture: Path | str) -> Outcome:
        return self._guarded(encodable(str(picture)), lambda: self._client.submit(picture))

    def wait(self, posted: Future[Outcome]) -> Outcome:
        sent = posted.result()
        if sent.job is None:
            return sent
        job_id = str(sent.job["id"])
        return self._guarded(sent.source, lambda: self._client.wait(job_id))

    def _guarded(self, source: str, ask: Callable[[], dict[str, Any]]) -> Outcome:
        if self._gone.is_set():
            return Outcome(source, error=_error("no_server", "The server is gone"))
        try:
            return Outcome(source, job=ask())
        except ApiError as error:
            return Outcome(source, error=_error(error.code, error.title, error.detail))
        except NoServer as error:
            self._gone.set()
            return Outcome(source, error=_error("no_server", "The server is gone", str(error)))
        except OSError as error:
            return Outcome(source, error=_error("unreadable", "Cannot read the file", error.strerror or ""))


def _error(code: str, title: str, detail: str = "") -> dict[str, str]:
    return {"code": code, "title": title, "detail": detail}
