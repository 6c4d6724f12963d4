"""Downloads from real servers on loopback, well-behaved and not."""

from __future__ import annotations

import contextlib
import gzip
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import FetchFailed, FetchUnavailable, PawlensError, UrlBlocked
from core.network import urls
from worker.fetcher import Downloaded, fetch

PUBLIC = "93.184.215.14"
CERTIFICATE = Path(__file__).parents[1] / "core" / "network" / "pictures.example.pem"
PICTURE = bytes(range(256)) * 1000

Answer = Callable[["Server", socket.socket], None]


class Server(socketserver.ThreadingTCPServer):
    """Answers each path with exactly the bytes of its script, and keeps the heads of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.port = self.server_address[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = self.request.recv(65536)
            if not received:
                return
            head += received
        self.server.requests.append(head.decode("ascii"))
        with contextlib.suppress(ConnectionError):  # a client that has seen enough hangs up
            self.server.answers[self.server.paths()[-1]](self.server, self.request)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def raw(content: bytes) -> Answer:
    return lambda _server, connection: connection.sendall(content)


def ok(body: bytes, *headers: str) -> Answer:
    lines = "".join(f"{line}\r\n" for line in headers)
    return raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)


def status(code: int, *headers: str) -> Answer:
    lines = "".join(f"{line}\r\n" for line in headers)
    return raw(f"HTTP/1.1 {code} \r\nContent-Length: 7\r\n{lines}\r\nsecrets".encode())


def redirect(location: str, *headers: str) -> Answer:
    return status(302, f"Location: {location}", *headers)


def forever(beginning: bytes, piece: bytes) -> Answer:
    """Sends ``piece`` 50 times a second: no read waits long, and the end never comes."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(beginning)
        while not server.closing.wait(0.02):
            connection.sendall(piece)

    return answer


def flood(beginning: bytes, piece: bytes) -> Answer:
    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(beginning)
        while not server.closing.is_set():
            connection.sendall(piece)

    return answer


def reset(beginning: bytes) -> Answer:
    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(beginning)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # with this linger: RST instead of FIN

    return answer


def hang(server: Server, connection: socket.socket) -> None:
    server.closing.wait()


def download(url: str, *, max_bytes: int = 1_000_000, timeout_seconds: float = 20) -> Downloaded:
    return fetch(url, max_bytes=max_bytes, timeout_seconds=timeout_seconds, allow_private=True)


def test_a_picture_comes_as_it_was_sent(server: Server) -> None:
    server.answers["/cat.jpg?size=2"] = ok(PICTURE, "Content-Type: Image/JPEG; charset=binary")
    url = server.url("/cat.jpg?size=2")
    assert download(url) == Downloaded(PICTURE, url, "image/jpeg", redirects=0)

    request = server.requests[0].lower()
    assert "\r\naccept: image/*\r\n" in request
    assert "\r\naccept-encoding: identity\r\n" in request
    assert "\r\nuser-agent: pawlens/" in request


def test_a_body_may_be_chunked_or_end_with_the_connection(server: Server) -> None:
    server.answers["/chunked"] = raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nme \r\n2\r\now\r\n0\r\n\r\n"
    )
    server.answers["/until-close"] = raw(b"HTTP/1.0 200 OK\r\n\r\nme ow")
    for path in ("/chunked", "/until-close"):
        assert download(server.url(path)) == Downloaded(b"me ow", server.url(path), None, redirects=0)


def test_redirects_are_followed_to_the_final_url_without_cookies(server: Server) -> None:
    server.answers["/a"] = redirect("/b", "Set-Cookie: seen=yes")
    server.answers["/b"] = redirect("c/d?x=1#fragment")
    server.answers["/c/d?x=1"] = redirect(f"//127.0.0.1:{server.port}/e")
    server.answers["/e"] = ok(PICTURE)
    assert download(server.url("/a")) == Downloaded(PICTURE, server.url("/e"), None, redirects=3)
    assert server.paths() == ["/a", "/b", "/c/d?x=1", "/e"]
    assert not any("cookie" in request.lower() for request in server.requests)
    assert not any("fragment" in request for request in server.requests)


def test_a_redirect_loop_ends(server: Server) -> None:
    server.answers["/loop"] = redirect("/loop")
    with pytest.raises(FetchFailed, match="redirects more than 3 times") as failed:
        download(server.url("/loop"))
    assert not failed.value.retryable
    assert server.paths() == ["/loop"] * 4


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://127.0.0.1/", "http:// or https://"),
        ("javascript:alert(1)", "http:// or https://"),
        ("http://user:secret@127.0.0.1/", "user name"),
        ("http://127.1/", "four decimal numbers"),
        ("http://[::1/", "redirects"),
        ("http://127.0.0.1:99999/", "65535"),
        ("http://xn--\u00e9/", "redirects"),
        ("/" + "a" * 3000, "2048 characters"),
    ],
)
def test_a_redirect_to_what_is_not_allowed_is_blocked(server: Server, location: str, says: str) -> None:
    server.answers["/"] = redirect(location)
    with pytest.raises(UrlBlocked, match="redirects to") as blocked:
        download(server.url("/"))
    assert says in blocked.value.detail
    assert server.paths() == ["/"]


def test_a_redirect_without_location_fails(server: Server) -> None:
    server.answers["/"] = status(302)
    with pytest.raises(FetchFailed, match="no Location"):
        download(server.url("/"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "private.example", "[::ffff:7f00:1]"])
def test_a_public_server_cannot_redirect_to_a_private_one(
    server: Server, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public server is played by ours: a connection to its address is led to loopback."""
    monkeypatch.setattr(urls, "ALLOWED_PORTS", {server.port})
    really_dial = socket.create_connection
    dialled = []

    def dial(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        dialled.append(address[0])
        return really_dial(("127.0.0.1", server.port), *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", dial)
    server.answers["/cat.jpg"] = redirect(f"http://{host}:{server.port}/private")
    server.answers["/private"] = ok(b"secrets")
    with pytest.raises(UrlBlocked):
        fetch(
            f"http://public.example:{server.port}/cat.jpg",
            max_bytes=1000,
            timeout_seconds=20,
            resolve={"public.example": [PUBLIC], "private.example": ["127.0.0.1"]}.__getitem__,
        )
    assert dialled == [PUBLIC]
    assert server.paths() == ["/cat.jpg"]


def test_a_private_url_is_blocked_before_anything_is_sent(server: Server) -> None:
    with pytest.raises(UrlBlocked):
        fetch(server.url("/"), max_bytes=1000, timeout_seconds=20)
    assert server.requests == []


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (201, False),
        (204, False),
        (206, False),
        (300, False),
        (304, False),
        (401, False),
        (404, False),
        (410, False),
        (408, True),
        (425, True),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_a_status_decides_on_another_attempt(server: Server, code: int, retryable: bool) -> None:
    server.answers["/"] = status(code)
    with pytest.raises(FetchFailed, match=f"status {code}") as failed:
        download(server.url("/"))
    assert failed.value.retryable is retryable
    assert "secrets" not in failed.value.detail


def test_a_body_of_exactly_the_limit_is_accepted(server: Server) -> None:
    server.answers["/"] = ok(PICTURE)
    assert download(server.url("/"), max_bytes=len(PICTURE)).data == PICTURE


@pytest.mark.parametrize(
    "answer",
    [
        ok(PICTURE),
        forever(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", b""),
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096),
    ],
    ids=["complete", "declared", "chunked", "undeclared"],
)
def test_a_body_over_the_limit_is_refused(server: Server, answer: Answer) -> None:
    server.answers["/"] = answer
    with pytest.raises(FetchFailed, match="larger than 255999 bytes") as failed:
        download(server.url("/"), max_bytes=len(PICTURE) - 1)
    assert not failed.value.retryable


def test_a_compressed_body_is_never_inflated(server: Server) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    server.answers["/declared"] = ok(bomb, "Content-Encoding: gzip")
    server.answers["/hidden"] = ok(bomb)
    with pytest.raises(FetchFailed, match="compressed"):
        download(server.url("/declared"))
    assert download(server.url("/hidden")).data == bomb


def test_an_empty_body_is_no_picture(server: Server) -> None:
    server.answers["/"] = ok(b"")
    with pytest.raises(FetchFailed, match="empty"):
        download(server.url("/"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "answer",
    [
        hang,
        forever(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        forever(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "header", "early hints", "body", "chunks"],
)
def test_one_deadline_holds_for_all(server: Server, answer: Answer) -> None:
    server.answers["/"] = answer
    with pytest.raises(FetchUnavailable, match=r"within 0\.3 seconds"):
        download(server.url("/"), timeout_seconds=0.3)


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
        reset(b""),
        reset(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"),
    ],
    ids=[
        "nothing",
        "ssh",
        "short",
        "short chunks",
        "bad chunk",
        "bad length",
        "long head",
        "rst",
        "late rst",
    ],
)
def test_a_broken_answer_is_worth_a_retry(server: Server, answer: Answer) -> None:
    server.answers["/"] = answer
    with pytest.raises(FetchUnavailable, match="failed or broke"):
        download(server.url("/"))


def test_a_refused_connection_is_worth_a_retry_and_names_no_address(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchUnavailable) as failed:
        fetch(
            f"http://pictures.example:{port}/",
            max_bytes=1000,
            timeout_seconds=20,
            allow_private=True,
            resolve=lambda _: ["127.0.0.1"],
        )
    assert "127.0.0.1" not in failed.value.detail


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), FetchFailed),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), FetchUnavailable),
    ],
)
def test_a_name_without_an_answer(dns: Exception, expected: type[PawlensError]) -> None:
    def resolve(host: str) -> list[str]:
        raise dns

    with pytest.raises(FetchFailed) as failed:
        fetch("https://pictures.example/", max_bytes=1000, timeout_seconds=20, resolve=resolve)
    assert type(failed.value) is expected


def serve_tls(server: Server) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes


def test_a_certificate_that_nobody_vouches_for_is_final(server: Server) -> None:
    serve_tls(server)
    with pytest.raises(FetchFailed, match="certificate could not be verified") as failed:
        download(f"https://127.0.0.1:{server.port}/")
    assert not failed.value.retryable
    assert server.requests == []


def test_a_redirect_from_https_to_http_is_not_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_tls(server)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    monkeypatch.setattr("core.network.guard._default_tls", lambda: trusting)
    server.answers["/"] = redirect("http://pictures.example/cat.jpg")
    with pytest.raises(UrlBlocked, match="from https to http"):
        fetch(
            f"https://pictures.example:{server.port}/",
            max_bytes=1000,
            timeout_seconds=20,
            allow_private=True,
            resolve=lambda _: ["127.0.0.1"],
        )
    assert server.paths() == ["/"]


def test_plain_text_where_tls_is_due_is_worth_a_retry(server: Server) -> None:
    """An ssl.SSLError that has nothing to do with a certificate."""

    def speak_first(request: socket.socket, _address: object) -> bool:
        request.sendall(b"220 mail.example ESMTP\r\n")
        return False

    server.verify_request = speak_first  # type: ignore[method-assign,assignment]
    with pytest.raises(FetchUnavailable, match="failed or broke"):
        download(f"https://127.0.0.1:{server.port}/")
