"""What must hold before anything is started; each refusal is one sentence that says what to do."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import InvalidWeights, PawlensError
from core.settings import Settings
from core.vision.manifest import read_manifest

BACKLOG = 2048  # as uvicorn's own default


class Refusal(Exception):
    """The service cannot start; the message is for the person who tried."""


def check_exposure(settings: Settings) -> None:
    """Refuse to be reachable from other machines without an API key, unless that was asked for.

    It may be called before the database is made or migrated: then there is no key.
    """
    if settings.is_loopback or settings.no_auth or _has_a_key(settings):
        return
    raise Refusal(
        f"Refusing to listen on {settings.host}: other machines reach that address, and there is no API key. "
        "Make one with `pawlens keys create NAME`, keep to --host 127.0.0.1, or pass --no-auth to be open to "
        "everyone."
    )


def _has_a_key(settings: Settings) -> bool:
    # Imported here: on loopback the supervisor never needs them.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from core import keys  # noqa: PLC0415
    from core.database import Database  # noqa: PLC0415

    kind, _, file = settings.database.partition(":///")
    if kind.startswith("sqlite") and not Path(file).exists():
        return False  # and looking for one would make the file
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as session:
            return keys.exist(session)
    except (PawlensError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise Refusal(
            f"Refusing to listen on {settings.host}: whether there is an API key cannot be seen, because the "
            f"database cannot be read ({reason})."
        ) from error
    finally:
        database.dispose()


def check_weights(settings: Settings) -> None:
    """Whether the weights are there, and are the file that the manifest describes.

    A worker checks the same when it loads them, but could say so only in its log.
    """
    if settings.engine != "resnet":
        return
    try:
        manifest = read_manifest(settings.weights)
    except InvalidWeights as error:
        raise Refusal(error.detail) from error
    path = settings.weights.with_name(manifest.weights)
    remedy = "Get them back (`git checkout weights`), or name another manifest with PAWLENS_WEIGHTS."
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refusal(f"The weights {path} cannot be read ({error.strerror}). {remedy}") from error
    if digest != manifest.sha256:
        raise Refusal(f"The weights {path} are damaged or another file: their SHA-256 is wrong. {remedy}")


def prepare_data_dir(directory: Path) -> None:
    """Make the data directory, readable by its owner alone, or find that it can be written to."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refusal(
            f"The data directory {directory} cannot be written to ({error.strerror}). "
            "Choose another with --data DIR."
        ) from error


@contextmanager
def sole_owner(directory: Path) -> Iterator[None]:
    """Hold the data directory for this process. The kernel lets go of it however the process ends."""
    path = directory / "up.lock"
    file = _locked(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(file, 20).decode().strip() or "unknown"
            os.close(file)
            raise Refusal(
                f"Another `pawlens up` (pid {pid}) already runs on {path.parent}. Stop it, or choose another "
                "data directory with --data DIR."
            ) from error
        # Its holder removes the file at the end: what we have locked may be a file that nobody can see.
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)


def listen(host: str, port: int) -> socket.socket:
    """The API's listening socket; port 0 means any free one.

    The supervisor opens it and the API inherits it. So a taken port is known before anything runs, nobody
    can take a chosen port in between, and connections made while the API restarts wait instead of failing.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Refusal(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use by another program. Choose another with --port {port + 1} "
            f"(or PAWLENS_PORT={port + 1}), or --port 0 for any free one."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs privileges (below 1024). Choose another with --port 8000."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            f"{host} is not an address of this machine. Keep to --host 127.0.0.1, or choose one of its own."
        )
    return f"Cannot listen on {host} port {port}: {error.strerror}."
