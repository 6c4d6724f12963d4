"""One database, SQLite or PostgreSQL, used synchronously by every process.

All times in it come from the database's own clock (:class:`db_now`), so that a machine whose clock is
off neither claims early nor loses a lease. Functions elsewhere take a ``Session`` and never commit;
:meth:`Database.read` and :meth:`Database.write` are the only scopes that do.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import (
    CTE,
    JSON,
    Connection,
    CursorResult,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Float,
    Table,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    literal,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from core.errors import ServiceUnavailable, StorageFull
from core.outages import NO_LONGER_FIRST, translated

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

BUSY_TIMEOUT_MS = 15_000

# A server whose machine is gone answers nothing, and by the kernel's own defaults that is noticed after a
# quarter of an hour. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_POSTGRES_TIMEOUTS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps it as text with microseconds, which sorts as time does."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time in the database must be aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, plus some seconds: ``db_now(60)`` is a minute from now.

    The same instant throughout one statement, so that an index on the compared column can be used.
    """

    type = UtcTime()
    inherit_cache = True
    name = "db_now"

    def __init__(self, seconds: Any = 0.0) -> None:
        super().__init__(literal(seconds, Float) if isinstance(seconds, int | float) else seconds)


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    # %f has milliseconds; the zeros make the text as long as SQLAlchemy's, which has microseconds.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: Any, **kw: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


class json_elements(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function it is
    """The elements of a JSON array, each a row with the one column ``value``."""

    inherit_cache = True
    name = "json_elements"


@compiles(json_elements, "sqlite")
def _sqlite_elements(element: json_elements, compiler: Any, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(json_elements, "postgresql")
def _postgresql_elements(element: json_elements, compiler: Any, **kw: Any) -> str:
    return f"json_array_elements({compiler.process(element.clauses, **kw)})"


class _Rows(TypeDecorator[Any]):
    """A list of rows as JSON. None is left out, and so is NULL in every column."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> Any:
        return [{name: field for name, field in row.items() if field is not None} for row in value]


def given_rows(parameter: str, **columns: TypeEngine[Any]) -> CTE:
    """A table in a statement that writes many rows, each with values of its own: those of this parameter.

    The parameter is a list of dictionaries with these columns. It travels as JSON: the statement is the same
    text however many there are, so that it is compiled once by SQLAlchemy and planned once by PostgreSQL. (An
    UPDATE for each of 64 jobs took ten times as long and more.) All values must be JSON already, and a column
    of the type JSON takes whatever it finds; None is NULL in every column.
    """
    elements = json_elements(bindparam(parameter, type_=_Rows())).table_valued(column("value", JSON))
    fields = [
        cast(elements.c.value.op("->>")(text(f"'{name}'")), kind).label(name)
        if not isinstance(kind, JSON)
        else elements.c.value.op("->", return_type=kind)(text(f"'{name}'")).label(name)
        for name, kind in columns.items()
    ]
    # Materialized, because SQLite would otherwise read the JSON again for every row of what it is joined to.
    return select(*fields).cte("given").prefix_with("MATERIALIZED")


def insert_new(session: Session, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows whose key is not there yet; leave the others as they are."""
    if rows:
        connection = session.connection()
        connection.execute(_inserting_new(table, connection.dialect.name), rows)


@cache
def _inserting_new(table: Table, dialect: str) -> Executable:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def rows_changed(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return result.rowcount


class Database:
    """The engine and its two kinds of transaction.

    On SQLite a writing transaction starts with ``BEGIN IMMEDIATE``: it takes the write lock at once and
    waits for it up to 15 s. A deferred one would read first and fail with "database is locked" when
    another process has written in between (measured with 4 processes claiming 2,000 rows: 194,743 such
    errors against 3).
    """

    def __init__(self, url: str, *, pool_size: int = 10, pool_timeout: float = 10.0) -> None:
        arguments: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": pool_size,
            "pool_timeout": pool_timeout,
        }
        if url.startswith("sqlite"):
            arguments["connect_args"] = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
        else:
            arguments |= {"pool_pre_ping": True, "connect_args": _POSTGRES_TIMEOUTS}
        self.engine: Engine = create_engine(url, **arguments)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writing = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        # PostgreSQL's default would show each statement another state. SQLite's readers always see one.
        self._reading = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        )

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the database and changes nothing."""
        with translated(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, or rolls back when the block raises."""
        with (
            translated(NO_LONGER_FIRST),
            Session(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def write_until(self, work: Callable[[Session], Result], *, give_up_after: float) -> Result:
        """Run ``work`` in a writing transaction; when the database is away or full, try again for so many
        seconds.

        For what must not be lost to a short outage: a finished result, a released lease.
        """
        deadline, pause = time.monotonic() + give_up_after, 0.05
        while True:
            try:
                with self.write() as session:
                    return work(session)
            except (ServiceUnavailable, StorageFull) as error:
                if time.monotonic() + pause > deadline:
                    raise
                logger.warning("database away or full, trying again: %s", error.__cause__ or error)
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, 2.0)

    def ping(self) -> None:
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def dispose(self) -> None:
        self.engine.dispose()


def _configure_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # an accepted job survives a power cut; costs 0.2 ms a commit on an SSD
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "temp_store = MEMORY",
        # Pages until what was logged goes into the file itself, 32 MiB: with SQLite's own 1,000, a batch of
        # photos waits for the disk at nearly every commit (storing them took half as long again).
        "wal_autocheckpoint = 8000",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
