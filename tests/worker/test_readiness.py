from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from worker.readiness import address_of, alive_workers, complaint, readiness

REPORT = {
    "status": "degraded",
    "checks": {
        "database": {"status": "ok"},
        "redis": {"status": "down", "detail": "refused"},
        "workers": {"status": "missing", "alive": {"predict": 2}},
    },
}


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield address_of("0.0.0.0", listening.server_port)
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [200, 503])
def test_a_report_is_read_whatever_its_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the discard port: nobody listens
    with server(status, json.dumps(REPORT).encode()) as address:
        report = readiness(address)
    assert report == REPORT
    assert alive_workers(report) == {"predict": 2}
    assert complaint(report) == "/readyz says degraded: redis is down (refused), workers is missing."


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"status": "ok"}', b'{"checks": {}}'])
def test_what_reads_otherwise_is_no_report(body: bytes) -> None:
    with server(200, body) as address:
        assert readiness(address) is None


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # It accepts, as the supervisor's own socket does before the API runs, and says nothing.
        assert readiness(address_of("127.0.0.1", port), timeout=0.05) is None
    assert readiness(address_of("127.0.0.1", port)) is None
    assert complaint(None) == "The API does not answer."


def test_what_answers_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(1024)
                accepted.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        assert readiness(address_of("127.0.0.1", listener.getsockname()[1])) is None
        thread.join()


def test_addresses() -> None:
    assert address_of("::", 8000) == "http://[::1]:8000"
    assert address_of("example.org", 1) == "http://example.org:1"
