"""The database's schema, step by step. Alembic runs in this process; there is no ``alembic.ini``.

Migration files name plain SQL types only: a file written today must still do the same when the project's
own types have changed. One migration or many, all run in one transaction under one lock, so that several
processes may start at once: the first upgrades, the others wait and find nothing left to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from core.database import Database

FOLDER = Path(__file__).parent

# Any number that nothing else on the PostgreSQL server uses as an advisory lock: "pawlens" in ASCII.
_LOCK_KEY = int.from_bytes(b"pawlens", "big")


def upgrade(url: str, revision: str = "head", *, give_up_after: float = 60.0) -> None:
    """Bring the database at the SQLAlchemy URL ``url`` to ``revision``; do nothing when it is there already.

    Waits up to ``give_up_after`` seconds for a database that does not answer yet.

    Raises:
        ServiceUnavailable: it still does not answer.
        StorageFull: the disk is full; nothing was changed.
    """
    _migrate(url, lambda config: command.upgrade(config, revision), give_up_after)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision``; ``base`` removes every table and all that is in them."""
    _migrate(url, lambda config: command.downgrade(config, revision), give_up_after=0.0)


def current(url: str) -> str | None:
    """The revision at which the database is, or None when it was never migrated."""
    database = Database(url)
    try:
        with database.read() as session:
            return MigrationContext.configure(session.connection()).get_current_revision()
    finally:
        database.dispose()


def head() -> str:
    """The newest revision that this code knows, and the one that it needs."""
    newest = ScriptDirectory.from_config(configuration()).get_current_head()
    assert newest is not None
    return newest


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration; ``env.py`` works on ``connection``."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrate(url: str, run: Any, give_up_after: float) -> None:
    def work(session: Session) -> None:
        connection = session.connection()
        if not database.is_sqlite:  # there BEGIN IMMEDIATE is the lock
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        run(configuration(connection))
        if database.is_sqlite:
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
            assert not broken, f"the migration broke references: {broken[:5]}"

    database = Database(url, pool_size=1)
    if database.is_sqlite:
        event.listen(database.engine, "connect", _without_foreign_keys)
    try:
        database.write_until(work, give_up_after=give_up_after)
    finally:
        database.dispose()


def _without_foreign_keys(connection: Any, _entry: Any) -> None:
    # SQLite alters a table by copying it and dropping the old one, and a DROP deletes what refers to it.
    # The pragma does nothing inside a transaction, hence here; references are checked before the commit.
    connection.execute("PRAGMA foreign_keys = OFF")
