"""Which tests share a process, and databases for every test that asks.

==================  ==============================================================================
``database``        an open :class:`core.database.Database`, migrated and empty; the test runs on both kinds
``database_url``    the same as a URL, to hand to other processes; both kinds
``sqlite_url``      SQLite alone
``postgres_url``    PostgreSQL alone
==================  ==============================================================================
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if _processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Before torch is imported, which a folder's conftest.py does ahead of every hook. Threads that wait at
    # every step for one whose processor another test has taken made two processes on two cores six times
    # slower than one thread in each; and sums are compared, to the last bit, with those of other processes.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(_processes))))

# The services that tests start are hundreds of processes, each of which would compile our modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from core.database import Database
from tests.databases import PostgresServer, TestRun, sqlite_template

_RUN = pytest.StashKey[TestRun]()

EACH_ALONE = ("tests/chaos/", "tests/deploy/", "tests/end_to_end/")
"""Here every test starts what it needs itself, and may run in any of the processes."""
TOGETHER = ("tests/browser", "tests/deploy/test_compose_runs.py", "tests/end_to_end/test_up.py")
"""Here all tests share one service, which takes long to start."""


class Sharing(LoadScopeScheduling):
    """Gives the tests that share a costly fixture to one process: mostly those of one file.

    (pytest-xdist's own ``loadgroup`` loses its groups with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        if shared := next(filter(nodeid.startswith, TOGETHER), None):
            return shared
        return nodeid if nodeid.startswith(EACH_ALONE) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing | None:
    return Sharing(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RUN] = TestRun()


def pytest_unconfigure(config: pytest.Config) -> None:
    if run := config.stash.get(_RUN, None):
        run.end()


@pytest.fixture(scope="session")
def test_run(pytestconfig: pytest.Config) -> TestRun:
    return pytestconfig.stash[_RUN]


@pytest.fixture(scope="session")
def postgres_server(test_run: TestRun) -> Iterator[PostgresServer]:
    server = PostgresServer(test_run)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def migrated_sqlite_file(test_run: TestRun) -> Path:
    return sqlite_template(test_run)


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    file = tmp_path / "pawlens.db"
    shutil.copy(migrated_sqlite_file, file)
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    opened = Database(postgres_url)
    yield opened
    opened.dispose()
