"""What strangers may send before the application hears of it, on raw connections; and a process's end."""

from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import httpx
import pytest

from api import server
from tests.api.conftest import Api, serving, settings_for
from tests.api.test_bodies import read_answer
from tests.core.vision.pictures import PNG_SIGNATURE, png_chunk
from tests.processes import eventually

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = 64 << 20  # more than any sane server keeps


def hung_up(connection: socket.socket, beginning: bytes, piece: bytes) -> bool:
    """Send the piece again and again, and see whether the server takes it all."""
    connection.sendall(beginning)
    try:
        for more in repeat(piece * (65_536 // len(piece)), ENDLESS >> 16):
            connection.sendall(more)
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"GET /", b"x"),
        (GET + b"X: ", b"x"),
        (GET, b"X: y\r\n"),
        (GET, b"x"),
    ],
    ids=["line", "header", "headers", "header's name"],
)
def test_a_head_without_end(sqlite_api: Api, beginning: bytes, piece: bytes) -> None:
    with sqlite_api.connect() as connection:
        assert hung_up(connection, beginning, piece)
        status, headers, body = read_answer(connection)
    assert (status, headers["content-type"]) == (431, "application/problem+json")
    problem = json.loads(body)
    assert problem["code"] == "head_too_large"
    assert problem["correlation_id"] == headers["x-correlation-id"]
    assert sqlite_api.line(correlation_id=headers["x-correlation-id"])["status"] == 431
    assert "65,536 bytes" in problem["detail"]
    assert sqlite_api.http.get("/livez").status_code == 200


@pytest.mark.parametrize(("size", "expected"), [(65_000, 200), (66_000, 431), (200_000, 431)])
def test_a_head_that_comes_at_once_has_the_same_limit(sqlite_api: Api, size: int, expected: int) -> None:
    """The server reads up to a quarter of a mebibyte at a time."""
    for _ in range(3):
        with sqlite_api.connect() as connection:
            connection.sendall(GET + b"X: " + b"x" * size + b"\r\n\r\n")
            status, headers, _ = read_answer(connection)
            assert (status, "x-correlation-id" in headers) == (expected, True)


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"x"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
        (CHUNKED, b"f"),
    ],
    ids=["chunk's extension", "trailer", "trailers", "chunk's length"],
)
def test_what_stands_around_a_body_without_end(sqlite_api: Api, beginning: bytes, piece: bytes) -> None:
    """The application waits for the rest of the body and is told that it never comes."""
    with sqlite_api.connect() as connection:
        assert hung_up(connection, beginning, piece)
    assert sqlite_api.count_jobs() == 0
    assert sqlite_api.line(message="request", path="/v1/jobs")["status"] == 400


def test_a_head_of_many_kilobytes_and_a_large_body_are_taken(sqlite_api: Api) -> None:
    headers = {f"X-{i}": "x" * 4000 for i in range(12)}
    assert sqlite_api.http.get("/livez", headers=headers).status_code == 200
    body = b'{"image": {"url": "https://example.com/1.jpg"}' + b" " * (1 << 20) + b"}"
    kind = {"Content-Type": "application/json"}
    for content in (body, iter([body[i : i + 100] for i in range(0, 200_000, 100)] + [body[200_000:]])):
        assert sqlite_api.http.post("/v1/jobs", content=content, headers=kind).status_code == 202


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET, GET + b"\r\n", GET + b"X: "], ids=repr)
def test_a_head_that_never_ends_is_not_waited_for(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Nor is a next request, on a connection that the client keeps open by an empty line."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with sqlite_api.connect() as connection:
        connection.sendall(sent)
        if sent.endswith(b"\r\n\r\n"):
            assert read_answer(connection)[0] == 200
            connection.sendall(b"\r\n")
        assert connection.recv(1) == b""


def test_an_answer_that_takes_long_is_no_late_head(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    job = sqlite_api.post_url()["id"]
    with sqlite_api.connect() as connection:
        connection.sendall(GET.replace(b"/livez", f"/v1/jobs/{job}?wait=1".encode()) + b"\r\n")
        assert read_answer(connection)[0] == 200


@pytest.fixture
def large_picture(sqlite_url: str, tmp_path: Path) -> Iterator[tuple[Api, bytes, int]]:
    """A service, the request for a picture of more bytes than a connection's buffers hold, and how many."""
    rows = zlib.compress(bytes((1 + 3 * 1800) * 1800), level=0)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1800, 1800, 8, 2, 0, 0, 0))
    picture = PNG_SIGNATURE + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    with serving(settings_for(sqlite_url, tmp_path)) as api:
        path = api.post(picture)["links"]["image"].encode()
        yield api, GET.replace(b"/livez", path) + b"Connection: close\r\n\r\n", len(picture)


def test_an_answer_that_nobody_reads_is_given_up(
    large_picture: tuple[Api, bytes, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_SECONDS", 0.5)
    api, request, size = large_picture
    with api.connect() as connection:
        connection.sendall(request)
        time.sleep(2)
        received = 0
        with suppress(ConnectionResetError):
            while more := connection.recv(1 << 20):
                received += len(more)
    assert 0 < received < size


def test_an_answer_that_is_read_slowly_is_sent_whole(
    large_picture: tuple[Api, bytes, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_SECONDS", 2.0)
    api, request, size = large_picture
    began, received = time.monotonic(), b""
    with api.connect() as connection:
        connection.sendall(request)
        while more := connection.recv(1 << 18, socket.MSG_WAITALL):
            received += more
            time.sleep(0.1)
    assert len(received.partition(b"\r\n\r\n")[2]) == size
    assert time.monotonic() - began > 2.5


SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 4\r\nContent-Length: 51\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: +4\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length : 4\r\n\r\n" + SMUGGLED,
        POST + b"X: y\r\n Content-Length: 4\r\n\r\n" + SMUGGLED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"SSH-2.0-OpenSSH_9.9\r\n",
    ],
    ids=repr,
)
def test_what_a_proxy_might_read_otherwise_is_refused(sqlite_api: Api, request_: bytes) -> None:
    """Request smuggling (CWE-444) needs two readers who disagree about where a request ends."""
    with sqlite_api.connect() as connection:
        connection.sendall(request_)
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (400, "close")
        assert (headers["content-type"], headers["x-content-type-options"]) == (
            "application/problem+json",
            "nosniff",
        )
        assert json.loads(body)["code"] == "bad_request"
        assert json.loads(body)["correlation_id"] == headers["x-correlation-id"]
        assert connection.recv(1) == b""
    assert not sqlite_api.lines(message="request", path="/smuggled")


def test_nothing_is_upgraded(sqlite_api: Api) -> None:
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with sqlite_api.connect() as connection:
        connection.sendall(GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n")
        assert read_answer(connection)[0] == 200


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


def test_a_connection_outlives_its_place_in_a_client_s_pool(sqlite_api: Api) -> None:
    """Closed by both at the same time, it would swallow the next request."""
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    with sqlite_api.connect() as connection:
        for _ in range(2):
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection)[0] == 200
            time.sleep(expiry + 0.5)


def test_one_connection_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "EXCESS_SECONDS", 0.2)
    with serving(settings_for("", tmp_path, max_connections=3)) as api:
        held = [api.connect() for _ in range(3)]
        for connection in held:
            connection.sendall(GET)  # a head without an end
        with api.connect() as late:
            late.sendall(GET + b"\r\n")
            status, headers, body = read_answer(late)
            assert late.recv(1) == b""
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(body)["code"] == "too_many_connections"
        with api.connect() as silent:
            assert silent.recv(1) == b""
        held[0].sendall(b"\r\n")
        assert read_answer(held[0])[0] == 200  # those that were there are served
        held.pop().close()

        def is_served() -> bool:
            with api.connect() as next_one:
                next_one.sendall(GET + b"\r\n")
                return read_answer(next_one)[0] == 200

        eventually(is_served)
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed", "soft_then"),
    [(300, 600, 1000, 600 - 256, 600), (300, 600, 100, 100, 356), (500, 600, 100, 100, 500)],
)
def test_as_many_connections_as_the_process_may_open_files(
    soft: int, hard: int, wanted: int, allowed: int, soft_then: int
) -> None:
    code = (
        "import resource as r; from api.server import allowed_connections\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"print(allowed_connections({wanted}), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(allowed), str(soft_then), str(hard)]
