"""Log lines that can be followed: one JSON object a line, each with the correlation id and the job id.

Both ids are context variables, so that code deep inside need not pass them along.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


@contextmanager
def log_context(*, job: str | None = None, correlation: str | None = None) -> Iterator[None]:
    """Put these ids on every line that is logged inside; an id that is not given stays as it is."""
    job_token = job_id.set(job or job_id.get())
    correlation_token = correlation_id.set(correlation or correlation_id.get())
    try:
        yield
    finally:
        job_id.reset(job_token)
        correlation_id.reset(correlation_token)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    ids = {"job_id": job_id.get(), "correlation_id": correlation_id.get()}
    extra = {name: value for name, value in vars(record).items() if name not in _PLAIN and name != "data"}
    return {name: value for name, value in (ids | extra).items() if value is not None}


class JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s " + service + " %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        return _on_one_line(f"{super().formatMessage(record)}{'  ' + fields if fields else ''}")


def _on_one_line(text: str) -> str:
    """Paths and names come from strangers, who must not write lines of their own (CWE-117), nor colours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure_logging(service: str, *, level: str = "INFO", form: Literal["json", "text"] = "json") -> None:
    """Send every logger's lines to standard error in the one form. Calling it again replaces the handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if form == "json" else TextFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task"):
        logger = logging.getLogger(chatty)
        logger.handlers.clear()
        logger.propagate = True
    # The access line is written by our own middleware, with the ids; httpx logs URLs, which may hold secrets.
    for noisy in ("uvicorn.access", "httpx", "httpcore", "celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(noisy).setLevel("WARNING")
