"""The end of an API process, as its clients see it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.api.conftest import serving, settings_for


def test_an_open_stream_does_not_hold_up_the_end(tmp_path: Path, sqlite_url: str) -> None:
    """It ends as streams do, and whole: cut after the time for stopping, reading it would raise an error."""
    begun = threading.Event()

    def read(url: str) -> str:
        text = ""
        with httpx.stream("GET", url, timeout=120, trust_env=False) as answer:
            for piece in answer.iter_text():
                text += piece
                if "id: 1" in text:
                    begun.set()
        return text

    with ThreadPoolExecutor(1) as pool:
        with serving(settings_for(sqlite_url, tmp_path), stop_seconds=60) as api:
            job = api.post()
            stream = pool.submit(read, f"{api.http.base_url}{job['links']['events']}")
            assert begun.wait(30)
        assert stream.result().endswith("\n\n")
