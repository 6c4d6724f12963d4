"""Workers on other machines: PostgreSQL and Redis over TLS, with passwords and checked certificates.

The servers' wheels are built without TLS, so a relay in front of each ends it; what is proven is our side:
that the URLs in docs/deploy.md make every process encrypt, and refuse a server that it cannot trust.
"""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.databases import PostgresServer
from tests.processes import PHOTOS, Service, eventually

pytestmark = pytest.mark.service

PASSWORD = "s3cret"


class Relay:
    """Ends TLS on a port of localhost and passes the bytes on to a Unix socket."""

    def __init__(self, certificate: Path, key: Path, target: Path, *, protocol: str | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if protocol:
            self._context.set_alpn_protocols([protocol])
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passed = 0  # bytes that went through
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with (
            closing(connection),
            suppress(OSError),
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server,
        ):
            server.connect(str(self._target))
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)
                    self.passed += len(data)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    certificate, key = folder / "localhost.crt", folder / "localhost.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextmanager
def relayed(folder: Path, postgres: PostgresServer, name: str) -> Iterator[tuple[Service, Relay, Relay]]:
    """A service whose database and broker are reached through TLS alone, with nothing started yet."""
    certificate, key = make_certificate(folder)
    with ExitStack() as stack:
        database = Relay(certificate, key, postgres.data / ".s.PGSQL.5432", protocol="postgresql")
        broker = Relay(certificate, key, folder / "valkey.sock")
        for relay in (database, broker):
            stack.callback(relay.close)
        service = Service(
            folder,
            f"postgresql+psycopg://postgres@localhost:{database.port}/{name}"
            f"?sslmode=verify-full&sslrootcert={certificate}&sslnegotiation=direct",
            redis_url=f"rediss://:{PASSWORD}@localhost:{broker.port}/0"
            f"?ssl_cert_reqs=required&ssl_ca_certs={certificate}",
        )
        stack.callback(service.stop)
        service.valkey.start()
        with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as client:
            client.config_set("requirepass", PASSWORD)
        yield service, database, broker


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t")  # short: it holds a socket


def test_every_process_works_through_tls(folder: Path, postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    try:
        with relayed(folder, postgres_server, name) as (service, database, broker):
            service.start("api")
            service.start("beat")
            service.start_worker("predict")
            eventually(lambda: service.workers().get("predict"), seconds=60, what="the worker")
            assert service.http.get("/readyz").json()["checks"]["redis"]["status"] == "ok"
            job = service.wait(service.post(PHOTOS[0])["id"])
            assert (job["status"], job["attempt"]) == ("succeeded", 1)
            assert "Traceback" not in service.log("predict")
            assert database.passed > PHOTOS[0].stat().st_size  # the picture came that way
            assert broker.passed > 0
    finally:
        postgres_server.drop(name)


def test_a_server_of_unknown_origin_is_refused(folder: Path, postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    try:
        with relayed(folder, postgres_server, name) as (service, _, _):
            other = folder / "other"
            other.mkdir()
            stranger, _ = make_certificate(other)
            trusted = str(folder / "localhost.crt")
            for variable in ("PAWLENS_DATABASE_URL", "PAWLENS_REDIS_URL"):
                service.environment[variable] = service.environment[variable].replace(trusted, str(stranger))
            told = subprocess.run(
                [sys.executable, "-m", "api.cli", "doctor"],
                env=service.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            broken = {line.split()[1]: line for line in told.stdout.splitlines() if line[:6] == "broken"}
            assert told.returncode == 1
            assert {"database", "redis"} <= set(broken), told.stdout
            assert all("certificate" in broken[subject].lower() for subject in ("database", "redis"))
            # Celery goes its own way to Redis.
            code = (
                "from core.broker import publish; from core.jobs.states import Queue; "
                "from core.settings import Settings; publish(Settings(), Queue.PREDICT)"
            )
            command = [sys.executable, "-c", code]
            hint = subprocess.run(
                command, env=service.environment, capture_output=True, text=True, check=False
            )
            assert hint.returncode == 1
            assert "BrokerUnavailable" in hint.stderr
            assert "certificate verify failed" in hint.stderr
    finally:
        postgres_server.drop(name)
