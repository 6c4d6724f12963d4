from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import pytest

from core.logs import configure_logging, log_context


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.access", "httpx", "httpcore")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_carries_the_ids_and_what_was_added(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("worker")
    with log_context(job="job_1", correlation="c-1"):
        logging.getLogger("core.somewhere").warning("took %d ms", 20, extra={"attempt": 2})
    (line,) = lines(capsys)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "WARNING",
        "service": "worker",
        "logger": "core.somewhere",
        "message": "took 20 ms",
        "job_id": "job_1",
        "correlation_id": "c-1",
        "attempt": 2,
    }


def test_the_ids_end_with_their_context(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("worker")
    with log_context(job="job_1"):
        with log_context(job="job_2"):
            logging.getLogger("x").info("inner")
        logging.getLogger("x").info("outer")
    logging.getLogger("x").info("outside")
    assert [line.get("job_id") for line in lines(capsys)] == ["job_2", "job_1", None]


def test_an_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api")
    try:
        int("odd\nbytes")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].count("\n") >= 2
    assert "ValueError: invalid literal" in line["exception"]


def test_what_json_does_not_know_is_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api")
    logging.getLogger("x").info("done", extra={"path": datetime(2026, 1, 2)})
    assert lines(capsys)[0]["path"] == "2026-01-02 00:00:00"


def test_text_lines_have_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api", form="text")
    with log_context(job="job_1"):
        logging.getLogger("x").info("hello", extra={"attempt": 2})
    assert capsys.readouterr().err.endswith(" INFO    api hello  job_id=job_1 attempt=2\n")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_stranger_cannot_write_lines_or_colours(
    capsys: pytest.CaptureFixture[str], form: Literal["json", "text"]
) -> None:
    configure_logging("api", form=form)
    evil = "x\n12:00:00 ERROR   api stolen\r\x1b[31m\u2028\x85\ud800"
    logging.getLogger("x").info("said %s", evil, extra={"path": evil})
    written = capsys.readouterr().err
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert len(written.splitlines()) == 1
    assert written.count("stolen") == 2


def test_configuring_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api")
    configure_logging("api", level="WARNING")
    logging.getLogger("x").info("too quiet")
    logging.getLogger("uvicorn.error").warning("heard")
    logging.getLogger("httpx").info("https://example.com/?token=secret")
    assert [line["message"] for line in lines(capsys)] == ["heard"]
