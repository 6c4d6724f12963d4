"""The client's event streams against the real API, also through a proxy that cuts every connection."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from starlette.responses import Response

from api import connection
from api.client import ApiError, NoServer, PawlensClient
from tests.api.conftest import Api
from tests.api.scripted_server import problem, serve
from worker.preflight import listen


@contextmanager
def cutting(target: tuple[str, int], seed: int) -> Iterator[str]:
    """A proxy that ends each connection after a few hundred bytes of the answer, or when it idles."""
    chance = random.Random(seed)
    with listen("127.0.0.1", 0) as listener:
        stopping = threading.Event()

        def run() -> None:
            while True:
                client, _ = listener.accept()
                if stopping.is_set():
                    client.close()
                    return
                with client, socket.create_connection(target) as server, suppress(OSError):
                    server.settimeout(0.3)
                    server.sendall(client.recv(65536))
                    left = chance.randint(150, 900)
                    while left > 0 and (data := server.recv(min(left, 65536))):
                        client.sendall(data)
                        left -= len(data)
                    client.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=run)
        thread.start()
        host, port = listener.getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            stopping.set()
            socket.create_connection((host, port)).close()
            thread.join()


def test_every_event_of_a_job_until_it_has_ended(api: Api) -> None:
    job = api.post()
    with PawlensClient(str(api.http.base_url)) as client, api.working():
        events = list(client.events(job["id"]))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("job.created", "job.succeeded")
    assert events[-1]["prediction"]["label"] in ("cat", "dog")


def test_only_what_is_new(sqlite_api: Api) -> None:
    job = sqlite_api.post()
    sqlite_api.work()
    with PawlensClient(str(sqlite_api.http.base_url)) as client:
        newest = client.job(job["id"])["event_seq"]
        assert [event["seq"] for event in client.events(job["id"], after=newest - 1)] == [newest]
        assert list(client.events(job["id"], after=newest)) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_is_cut_again_and_again_brings_each_event_once(sqlite_api: Api, seed: int) -> None:
    job = sqlite_api.post(methods="grad_cam")
    sqlite_api.http.post(f"/v1/jobs/{job['id']}/cancel")
    with cutting(sqlite_api.address, seed) as address, PawlensClient(address) as client:
        events = list(client.events(job["id"]))
    assert [event["type"] for event in events] == ["job.created", "job.canceled"]


def stream_of(text: str) -> Response:
    return Response(text, media_type="text/event-stream")


@pytest.mark.parametrize(
    ("text", "least"), [("retry: 700\n\n", 0.7), ("retry: 0\n\n", 0.1), (": no news\n\n", 1.0)]
)
def test_a_stream_that_ends_without_an_event_is_asked_for_again_after_a_pause(
    text: str, least: float
) -> None:
    path = "GET /v1/jobs/job_1/events"
    script = {path: [stream_of(text), Response(status_code=204)]}
    with serve(script) as server, PawlensClient(server.address) as client:
        began = time.monotonic()
        assert list(client.events("job_1")) == []
        assert least <= time.monotonic() - began
        assert server.count(path) == 2


def test_a_stream_that_ends_with_an_event_is_asked_for_again_at_once() -> None:
    path = "GET /v1/jobs/job_1/events"
    one = stream_of('retry: 5000\n\nid: 1\ndata: {"seq": 1}\n\n')
    with serve({path: [one, Response(status_code=204)]}) as server, PawlensClient(server.address) as client:
        began = time.monotonic()
        assert list(client.events("job_1")) == [{"seq": 1}]
        assert time.monotonic() - began < 4
        assert server.last(path).headers["last-event-id"] == "1"


@pytest.mark.parametrize(
    "text",
    ['data: {"seq": 1}\n\n', 'id: x\ndata: {"seq": 1}\n\n', "id: 1\ndata: {\n\n", "id: 1\ndata: 1\n\n"],
)
def test_what_is_no_event_is_told(text: str) -> None:
    script = {"GET /v1/jobs/job_1/events": [stream_of(text)]}
    with (
        serve(script) as server,
        PawlensClient(server.address) as client,
        pytest.raises(NoServer, match="no Pawlens"),
    ):
        list(client.events("job_1"))


def test_a_refusal_is_told_and_a_busy_server_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_ATTEMPTS", 3)
    busy = problem(503, "unavailable", "Unavailable", "Later.")
    path = "GET /v1/jobs/job_1/events"
    with serve({path: [busy, Response(status_code=204)]}) as server, PawlensClient(server.address) as client:
        assert list(client.events("job_1")) == []
        assert server.count(path) == 2
    with serve({path: [busy]}) as server, PawlensClient(server.address) as client:
        with pytest.raises(ApiError, match="Later"):
            list(client.events("job_1"))
        assert server.count(path) == 3
    with serve({}) as server, PawlensClient(server.address) as client:
        with pytest.raises(ApiError, match="no /v1/jobs/job_1/events"):
            list(client.events("job_1"))
        assert server.count(path) == 1
    with PawlensClient(server.address) as client, pytest.raises(NoServer):
        list(client.events("job_1"))
