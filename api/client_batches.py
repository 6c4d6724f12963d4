"""Batches, as a part of the client: ``client.batches``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

from api.client_events import stream_events
from api.connection import Connection, encodable, segment

Batch = dict[str, Any]
"""A batch as the API gives it: ``id status total counts{} progress{done total} rejected errors[] ...``."""

UPLOAD_SECONDS = 600.0
"""For the server to look at all pictures of a large batch."""


class Batches:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(
        self,
        *,
        files: Sequence[Path] = (),
        archive: Path | None = None,
        manifest: Path | None = None,
        methods: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        priority: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline_seconds: float | None = None,
    ) -> Batch:
        """Post exactly one of some files, a zip of pictures, and a CSV or JSONL file of URLs.

        The files are read while they are sent. Returns the new batch; items that could not be accepted are
        counted in ``rejected``, the first hundred of them listed in ``errors``.

        Raises:
            OSError: a file cannot be read.
            ApiError: the server refused all of it.
            NoServer: no server, or the connection broke time and again.
        """
        if (bool(files), archive is not None, manifest is not None).count(True) != 1:
            raise ValueError("a batch has either files, an archive or a manifest")
        fields = {
            "methods": ",".join(methods) or None,
            "options": None if options is None else json.dumps(options),
            "priority": priority,
            "metadata": None if metadata is None else json.dumps(metadata),
            "deadline_seconds": deadline_seconds,
        }
        sent = {name: str(value) for name, value in fields.items() if value is not None}
        named = [("files", path) for path in files]
        named += [(name, path) for name, path in (("archive", archive), ("manifest", manifest)) if path]
        with ExitStack() as opened:
            parts = [
                (name, (encodable(path.name), opened.enter_context(path.open("rb")))) for name, path in named
            ]
            return self._connection.json(
                "POST",
                "/v1/batches",
                files=parts,
                data=sent,
                headers={"Idempotency-Key": uuid.uuid4().hex},
                timeout=UPLOAD_SECONDS,
            )

    def get(self, batch_id: str, *, wait: float = 0, after: int | None = None) -> Batch:
        """The batch as it is, or after up to ``wait`` seconds (at most 60) as soon as it has ended.

        With ``after``, the wait ends as soon as it has an event numbered higher than that.
        """
        query: dict[str, float | int] = {"wait": wait} if wait else {}
        if after is not None:
            query["after"] = after
        timeout = self._connection.timeout + wait
        return self._connection.json("GET", f"/v1/batches/{segment(batch_id)}", params=query, timeout=timeout)

    def wait(self, batch_id: str, timeout: float | None = None) -> Batch:
        """The batch once all its jobs have ended, however they did.

        Raises:
            TimeoutError: it had not ended after ``timeout`` seconds; it goes on all the same.
        """
        return self._connection.until_final(lambda wait: self.get(batch_id, wait=wait), timeout)

    def events(self, batch_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Each event as it happens, ``{"seq", "type", "counts", ...}``, until the batch has ended."""
        return stream_events(self._connection, f"/v1/batches/{segment(batch_id)}/events", after)

    def list(self, **filters: str | int | None) -> dict[str, Any]:
        """``{"batches": [...], "next_cursor"}``, newest first; filters: ``status``, ``limit``, ``cursor``."""
        query = {name: value for name, value in filters.items() if value is not None}
        return self._connection.json("GET", "/v1/batches", params=query)

    def results(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Each item as it is now, in order: ``index name custom_id job_id status prediction error``."""
        rest = b""
        with self._connection.stream(f"/v1/batches/{segment(batch_id)}/results", format="jsonl") as pieces:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(self._connection.parsed, lines)
        if rest:
            yield self._connection.parsed(rest)

    def download(self, batch_id: str, to: Path, form: Literal["jsonl", "csv", "zip"]) -> None:
        """Write the results into a file, which is there only when all of them have come."""
        part = to.with_name(f"{to.name}.part")
        results = self._connection.stream(f"/v1/batches/{segment(batch_id)}/results", format=form)
        try:
            with results as pieces, part.open("wb") as file:
                file.writelines(pieces)
            part.replace(to)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise

    def cancel(self, batch_id: str) -> Batch:
        return self._connection.json("POST", f"/v1/batches/{segment(batch_id)}/cancel")

    def retry(self, batch_id: str) -> Batch:
        """A new batch of those items that failed or expired."""
        once = {"Idempotency-Key": uuid.uuid4().hex}
        return self._connection.json("POST", f"/v1/batches/{segment(batch_id)}/retry", headers=once)

    def delete(self, batch_id: str) -> None:
        """Remove a batch that has ended, with its jobs and all that came of them."""
        self._connection.request("DELETE", f"/v1/batches/{segment(batch_id)}")
