"""The guard against real sockets. A canary listens on loopback and must never hear anything."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from core.errors import UrlBlocked
from core.network import GuardedTransport, HostNotFound, Resolve, system_resolver, urls

PUBLIC = "93.184.215.14"
CERTIFICATE = Path(__file__).parent / "pictures.example.pem"  # for that name alone, valid until 2125


def guarded_client(
    *, timeout: float, allow_private: bool = False, resolve: Resolve = system_resolver
) -> httpx.Client:
    transport = GuardedTransport(timeout=timeout, allow_private=allow_private, resolve=resolve)
    return httpx.Client(transport=transport, timeout=timeout)


class Server(http.server.ThreadingHTTPServer):
    """Answers "meow", and keeps the Host headers of all it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.connections = 0
        self.hosts: list[str | None] = []
        self.server_names: list[str | None] = []
        self.port = self.server_address[1]

    def verify_request(self, *_: object) -> bool:
        self.connections += 1
        return True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # offers to keep the connection

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"meow")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def canary(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as something private, on an allowed port: only its address protects it."""
    monkeypatch.setattr(urls, "ALLOWED_PORTS", {server.port})
    return server


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that connections were tried to. Public ones refuse; loopback is really dialled."""
    tried: list[str] = []
    really_dial = socket.create_connection

    def dial(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        tried.append(address[0])
        if address[0] == PUBLIC:
            raise ConnectionRefusedError
        return really_dial(address, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", dial)
    return tried


def test_the_canary_can_be_reached_when_the_guard_is_off(canary: Server, dialled: list[str]) -> None:
    """Without this, the tests below could pass because nothing works at all."""
    with guarded_client(timeout=5, allow_private=True, resolve=lambda _: ["127.0.0.1"]) as client:
        response = client.get(f"http://pictures.example:{canary.port}/")
    assert response.text == "meow"
    assert canary.hosts == [f"pictures.example:{canary.port}"]
    assert dialled == ["127.0.0.1"]


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
    ],
)
def test_one_private_answer_blocks_the_name(canary: Server, dialled: list[str], answers: list[str]) -> None:
    with (
        guarded_client(timeout=5, resolve=lambda _: answers) as client,
        pytest.raises(UrlBlocked, match="has an address that is not on the public internet") as blocked,
    ):
        client.get(f"http://pictures.example:{canary.port}/")
    assert dialled == []
    assert canary.connections == 0
    assert not any(answer in blocked.value.detail for answer in answers)


def test_a_name_that_rebinds_is_resolved_once_for_each_connection(canary: Server, dialled: list[str]) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    with guarded_client(timeout=5, resolve=lambda _: next(answers)) as client:
        # The check sees the public address, and that one is dialled, although DNS says loopback by now.
        with pytest.raises(httpx.ConnectError):
            client.get(f"http://rebinding.example:{canary.port}/")
        # The next request asks again, and meets the guard again.
        with pytest.raises(UrlBlocked):
            client.get(f"http://rebinding.example:{canary.port}/")
    assert dialled == [PUBLIC]
    assert canary.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_the_client_checks_the_text_of_the_url_too(canary: Server, dialled: list[str], host: str) -> None:
    with guarded_client(timeout=5) as client, pytest.raises(UrlBlocked):
        client.get(f"http://{host}:{canary.port}/")
    with guarded_client(timeout=5, resolve=lambda _: [PUBLIC]) as client, pytest.raises(UrlBlocked):
        client.get("http://pictures.example:22/")
    assert dialled == []


def test_the_environment_cannot_add_a_proxy(
    canary: Server, dialled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    with (
        guarded_client(
            timeout=5, resolve=lambda host: [PUBLIC] if host == "pictures.example" else [host]
        ) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("http://pictures.example/")
    assert dialled == [PUBLIC]


def test_the_checked_addresses_are_tried_in_order(server: Server, dialled: list[str]) -> None:
    answers = [PUBLIC, PUBLIC, "127.0.0.1"]
    with guarded_client(timeout=5, allow_private=True, resolve=lambda _: answers) as client:
        assert client.get(f"http://pictures.example:{server.port}/").text == "meow"
    assert dialled == [PUBLIC, "127.0.0.1"]


def test_no_connection_is_used_again(server: Server) -> None:
    with guarded_client(timeout=5, allow_private=True) as client:
        for _ in range(2):
            client.get(f"http://127.0.0.1:{server.port}/")
    assert server.connections == 2


@pytest.mark.parametrize("name", ["pictures.example", "other.example"])
def test_tls_asks_for_and_verifies_the_name_not_the_address(server: Server, name: str) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(CERTIFICATE)
    serving.sni_callback = lambda _socket, server_name, _context: server.server_names.append(server_name)
    # The handshake runs in the handler's thread, so that a refused certificate does not end the server.
    server.socket = serving.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    transport = GuardedTransport(
        timeout=5,
        allow_private=True,
        resolve=lambda _: ["127.0.0.1"],
        tls=ssl.create_default_context(cafile=CERTIFICATE),
    )
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the refused handshake
    with httpx.Client(transport=transport) as client:
        if name == "pictures.example":
            assert client.get(f"https://{name}:{server.port}/").text == "meow"
            assert server.hosts == [f"{name}:{server.port}"]
        else:
            with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
                client.get(f"https://{name}:{server.port}/")
            assert server.hosts == []
    assert server.server_names == [name]


def raising(error: Exception) -> Callable[[str], list[str]]:
    def resolve(host: str) -> list[str]:
        raise error

    return resolve


@pytest.mark.parametrize(
    ("resolve", "expected"),
    [
        (raising(socket.gaierror(socket.EAI_NONAME, "")), HostNotFound),
        (raising(socket.gaierror(socket.EAI_NODATA, "")), HostNotFound),
        (raising(UnicodeEncodeError("idna", "", 0, 1, "label too long")), HostNotFound),
        (lambda _: [], HostNotFound),
        (raising(socket.gaierror(socket.EAI_AGAIN, "")), httpx.ConnectError),
        (raising(socket.gaierror(socket.EAI_FAIL, "")), httpx.ConnectError),
    ],
)
def test_dns_errors_tell_what_passes_from_what_does_not(
    resolve: Callable[[str], list[str]], expected: type[Exception]
) -> None:
    with guarded_client(timeout=5, resolve=resolve) as client, pytest.raises(httpx.ConnectError) as raised:
        client.get("http://pictures.example/")
    assert type(raised.value) is expected


@pytest.mark.timeout(30)
def test_dns_that_never_answers_is_given_up() -> None:
    never = threading.Event()

    def resolve(host: str) -> list[str]:
        never.wait()
        return [PUBLIC]

    try:
        with guarded_client(timeout=0.1, resolve=resolve) as client, pytest.raises(httpx.ConnectTimeout):
            client.get("http://pictures.example/")
    finally:
        never.set()


def test_the_deadline_is_the_clients_and_not_the_requests(server: Server) -> None:
    expired = GuardedTransport(timeout=0, allow_private=True, resolve=lambda _: ["127.0.0.1"])
    with httpx.Client(transport=expired, timeout=60) as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"http://pictures.example:{server.port}/")
    assert server.connections == 0


def test_a_connection_that_took_all_the_time_is_closed_before_tls(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def dial_slowly(address: tuple[str, int], *_args: object, **_kwargs: object) -> socket.socket:
        connection = socket.socket()
        connection.connect(address)
        opened.append(connection)
        time.sleep(0.2)
        return connection

    monkeypatch.setattr(socket, "create_connection", dial_slowly)
    with guarded_client(timeout=0.1, allow_private=True) as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"https://127.0.0.1:{server.port}/")
    assert [connection.fileno() for connection in opened] == [-1]
