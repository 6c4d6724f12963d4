from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from core.database import Database
from core.errors import ServiceUnavailable
from core.jobs.tables import Table
from migrations import configuration, current, downgrade, head, upgrade
from tests.databases import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes databases without tables, all of the one kind."""
    if request.param == "sqlite":
        numbers = itertools.count()
        yield lambda: f"sqlite:///{tmp_path / f'empty-{next(numbers)}.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    names: list[str] = []

    def new() -> str:
        names.append(server.create_empty())
        return server.url(names[-1])

    yield new
    for name in names:
        server.drop(name)


@pytest.fixture
def empty_url(new_url: Callable[[], str]) -> str:
    return new_url()


def schema(url: str) -> dict[str, str]:
    """Every table, index and constraint as the database itself describes it.

    Alembic's comparison sees neither CHECK constraints nor the conditions and directions of indexes.
    """
    database = Database(url)
    with database.read() as session:
        if database.is_sqlite:
            rows = session.execute(
                text(
                    "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'alembic_version'"
                )
            ).all()
            found = {name: _sorted_lines(sql) for name, sql in rows}
        else:
            rows = session.execute(
                text(
                    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
                    "UNION ALL SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) "
                    "FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
                    "UNION ALL SELECT table_name || '.' || column_name, concat_ws(' ', data_type, "
                    "character_maximum_length, is_nullable, column_default) "
                    "FROM information_schema.columns WHERE table_schema = 'public'"
                )
            ).all()
            found = {name: definition for name, definition in rows if "alembic_version" not in name}
    database.dispose()
    return found


def _sorted_lines(sql: str) -> str:
    """SQLite keeps the text of the statement; the order of its lines means nothing. A column that was added
    later stands in the line of the last one.
    """
    sql = re.sub(r", (?=\w+ [A-Z])", ",\n", sql)
    return "\n".join(sorted(line.strip().rstrip(",") for line in sql.splitlines() if line.strip()))


def test_the_migrated_schema_is_that_of_the_models(new_url: Callable[[], str]) -> None:
    by_migrations, by_models = new_url(), new_url()
    upgrade(by_migrations)
    database = Database(by_models)
    with database.write() as session:
        Table.metadata.create_all(session.connection())
    database.dispose()
    migrated, modelled = schema(by_migrations), schema(by_models)
    assert migrated.keys() == modelled.keys()
    assert migrated == modelled
    everything = re.sub(r"[()]|::\w+", "", " ".join(migrated.values()))
    for detail in ("attempt = 0", "priority DESC", "finished_at IS NOT NULL", "lease_owner IS NULL ="):
        assert detail in everything


def test_alembic_finds_nothing_to_migrate(database: Database) -> None:
    with database.read() as session, quiet():
        command.check(configuration(session.connection()))


@contextmanager
def quiet() -> Iterator[None]:
    """Alembic says that it cannot compare indexes with a direction; ``schema`` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
        yield


def test_upgrading_twice_is_upgrading_once(empty_url: str) -> None:
    assert current(empty_url) is None
    upgrade(empty_url)
    first = schema(empty_url)
    upgrade(empty_url)
    assert schema(empty_url) == first
    assert current(empty_url) == head()


def test_down_and_up_again(empty_url: str) -> None:
    upgrade(empty_url)
    before = schema(empty_url)
    downgrade(empty_url, "base")
    assert current(empty_url) is None
    database = Database(empty_url)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.dispose()
    upgrade(empty_url)
    assert schema(empty_url) == before


UPGRADE = "import sys; from migrations import upgrade; sys.stdin.read(); upgrade(sys.argv[1])"


def test_several_processes_may_start_at_once(empty_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, empty_url], stdin=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert current(empty_url) == head()


def test_a_migration_that_fails_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        real(*_, **__)  # type: ignore[arg-type]
        raise RuntimeError("the power is gone")

    real = command.upgrade
    monkeypatch.setattr(command, "upgrade", fails)
    with pytest.raises(RuntimeError, match="the power is gone"):
        upgrade(empty_url)
    assert current(empty_url) is None


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable):
        upgrade(f"sqlite:///{tmp_path / 'missing' / 'pawlens.db'}", give_up_after=0)


def test_new_migrations_are_written_with_plain_types(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    versions = tmp_path / "versions"
    versions.mkdir()
    with database.read() as session, quiet():
        config = configuration(session.connection())
        config.set_main_option("version_locations", str(versions))
        command.revision(config, message="all of it", rev_id="0001", autogenerate=True)
    database.dispose()
    (file,) = versions.glob("*.py")
    written = file.read_text()
    assert "sa.DateTime(timezone=True)" in written
    assert "sa.String(16)" in written
    assert "core." not in written
    compile(written, str(file), "exec")
