"""A small synchronous client of Pawlens' HTTP API.

::

    with PawlensClient("http://127.0.0.1:8000") as client:
        job = client.submit(Path("cat.jpg"), methods=["grad_cam"])
        for event in client.events(job["id"]):
            print(event["type"], event.get("status"))
        print(client.job(job["id"])["prediction"]["label"])

        batch = client.batches.submit(archive=Path("photos.zip"))
        batch = client.batches.wait(batch["id"])
        for row in client.batches.results(batch["id"]):
            print(row["name"], row["prediction"])

One client may be used by many threads at once.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from api.client_batches import Batches
from api.client_events import stream_events
from api.connection import (
    FINAL_STATUSES,
    LONG_POLL_SECONDS,
    ApiError,
    Connection,
    NoServer,
    encodable,
    segment,
)

__all__ = ["FINAL_STATUSES", "LONG_POLL_SECONDS", "ApiError", "Job", "NoServer", "PawlensClient"]

Job = dict[str, Any]
"""A job as the API gives it: ``id kind status prediction{label scores margin} methods[] error links ...``."""


class PawlensClient(Connection):
    """Talks to one server; :class:`api.connection.Connection` says what is tried again.

    timeout: seconds for connecting, for sending, and for waiting for a part of the answer.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0) -> None:
        super().__init__(base_url, api_key, timeout=timeout)
        self.batches = Batches(self)

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
            parts["url"] = (None, encodable(image).encode())
        elif isinstance(image, Path):
            parts["file"] = (encodable(image.name), image.read_bytes())
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
        return self.json("POST", "/v1/jobs", files=parts, headers=once)

    def job(self, job_id: str, *, wait: float = 0, after: int | None = None) -> Job:
        """The job as it is, or after up to ``wait`` seconds (at most 60) as soon as it is final.

        With ``after``, the wait ends as soon as the job has an event numbered higher than that.
        """
        query: dict[str, float | int] = {"wait": wait} if wait else {}
        if after is not None:
            query["after"] = after
        return self.json("GET", f"/v1/jobs/{segment(job_id)}", params=query, timeout=self.timeout + wait)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is final, however it ended.

        Raises:
            TimeoutError: it was not final after ``timeout`` seconds; it goes on all the same.
        """
        return self.until_final(lambda wait: self.job(job_id, wait=wait), timeout)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Each event as it happens, ``{"seq", "type", "created_at", ...}``, until the job has ended.

        ``after`` is the number of the last event that is known already. Lost connections are resumed.
        """
        return stream_events(self, f"/v1/jobs/{segment(job_id)}/events", after)

    def jobs(self, **filters: str | int | Sequence[str] | None) -> dict[str, Any]:
        """``{"jobs": [...], "next_cursor"}``, newest first.

        filters: ``status`` (one or several), ``kind``, ``batch_id``, ``custom_id``, ``limit`` (at most 100),
            and ``cursor``, the ``next_cursor`` of the page before.
        """
        query = {name: value for name, value in filters.items() if value is not None}
        return self.json("GET", "/v1/jobs", params=query)

    def image(self, job_id: str) -> bytes:
        return self.request("GET", f"/v1/jobs/{segment(job_id)}/image").content

    def download(self, url: str) -> bytes:
        """The bytes behind an artifact's ``url``, as a job gives it: a path on this server."""
        return self.request("GET", httpx.URL(url).raw_path.decode()).content

    def cancel(self, job_id: str) -> Job:
        return self.json("POST", f"/v1/jobs/{segment(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with all that came of it."""
        self.request("DELETE", f"/v1/jobs/{segment(job_id)}")

    def model(self) -> dict[str, Any]:
        return self.json("GET", "/v1/model")

    def queue(self) -> dict[str, Any]:
        return self.json("GET", "/v1/queue")

    def ping(self) -> None:
        """Whether a Pawlens answers; asks once, without patience.

        Raises:
            NoServer: nothing answers, or something else does.
        """
        try:
            response = self.http.get("/livez")
        except httpx.RequestError as error:
            raise NoServer.of(self.base_url, error) from error
        if not response.is_success:
            raise NoServer(f"{self.base_url}: /livez answers {response.status_code}")
