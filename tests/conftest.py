"""Databases for every test that asks: ``database`` runs the test on SQLite and on PostgreSQL.

==================  ==============================================================================
``database``        an open :class:`core.database.Database`, migrated and empty; both kinds
``database_url``    the same as a URL, to hand to other processes; both kinds
``sqlite_url``      SQLite alone
``postgres_url``    PostgreSQL alone
==================  ==============================================================================
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.database import Database
from tests.databases import PostgresServer, TestRun, sqlite_template

_RUN = pytest.StashKey[TestRun]()


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
