"""Streams of events through real processes: cut anywhere, resumed anywhere, from either API process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.database import Database
from core.jobs import events
from tests.api.test_events import parsed
from tests.processes import PHOTOS, Service, _free_port, eventually, running

pytestmark = pytest.mark.service

SeenEvent = tuple[str, str, dict[str, Any]]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # short: it holds a socket


@pytest.fixture
def service(folder: Path, database_url: str) -> Iterator[Service]:
    with running(folder, database_url, "explain") as started:
        yield started


@pytest.fixture
def addresses(service: Service) -> list[str]:
    """Two API processes over the one database."""
    port = _free_port()
    service.start("api-2", "api", "--port", str(port))
    second = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{second}/livez", trust_env=False).is_success
        except httpx.TransportError:
            return False

    eventually(answers, what="the second API process")
    return [str(service.http.base_url), second]


def piece(address: str, path: str, last_id: str | None, length: int) -> list[SeenEvent] | None:
    """Connect, break the connection off after so many bytes, and give the events that had arrived whole.

    None when the server says that there is nothing more to come.
    """
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    text = b""
    with (
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
        client.stream("GET", path, headers=headers) as answer,
    ):
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200
        for chunk in answer.iter_raw():
            text += chunk
            if len(text) >= length:
                break
    whole = text[:length].rpartition(b"\n\n")
    return parsed((whole[0] + whole[1]).decode())


def follow(addresses: list[str], path: str, seed: int) -> list[SeenEvent]:
    """All that a client gets that is cut at random points and comes back to a random process."""
    chance = random.Random(seed)
    seen: list[SeenEvent] = []
    cuts = 0
    while True:
        last_id = seen[-1][0] if seen else None
        got = piece(chance.choice(addresses), path, last_id, chance.randrange(1, 500))
        if got is None:
            assert cuts > 1
            return seen
        seen += got
        cuts += 1


def logged(service: Service, job_id: str) -> list[tuple[str, str]]:
    database = Database(service.environment["PAWLENS_DATABASE_URL"])
    with database.read() as session:
        found = [(str(event.seq), event.type) for event in events.after(session, job_id, 0)]
    database.dispose()
    return found


def test_every_event_exactly_once_and_in_order(service: Service, addresses: list[str]) -> None:
    many_follow(service, addresses)
    an_api_process_is_killed(service, addresses)


def many_follow(service: Service, addresses: list[str]) -> None:
    jobs = [service.post(photo, methods="all") for photo in PHOTOS[:4]]
    with ThreadPoolExecutor(12) as pool:
        readers = {
            (job["id"], seed): pool.submit(follow, addresses, job["links"]["events"], seed)
            for job in jobs
            for seed in range(3)
        }
    for (job_id, seed), reader in readers.items():
        log = logged(service, job_id)
        seen = reader.result()
        assert [(id_, type_) for id_, type_, _ in seen] == log, f"seed {seed}"
        assert [data["seq"] for _, _, data in seen] == list(range(1, len(log) + 1))
        assert len(log) >= 9  # created, started, predicted, an event or two of each method, the end
        assert log[-1][1] == "job.succeeded"


def an_api_process_is_killed(service: Service, addresses: list[str]) -> None:
    """The stream breaks with its process, and goes on from the other one."""
    job = service.post(PHOTOS[4], methods="all")
    path = job["links"]["events"]
    seen: list[SeenEvent] = []
    text = ""
    with (
        httpx.Client(base_url=addresses[1], timeout=60, trust_env=False) as client,
        client.stream("GET", path) as answer,
    ):
        pieces = answer.iter_text()
        while not seen:
            text += next(pieces)
            seen = parsed(text)
        service.kill("api-2")
    rest = service.http.get(path, headers={"Last-Event-ID": seen[-1][0]})
    seen += parsed(rest.text)
    assert [(id_, type_) for id_, type_, _ in seen] == logged(service, job["id"])
    assert service.http.get(path, headers={"Last-Event-ID": seen[-1][0]}).status_code == 204
