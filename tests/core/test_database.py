from __future__ import annotations

import socket
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Float, String, event, func, insert, null, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from core.database import Database, db_now, given_rows, insert_new
from core.errors import ServiceUnavailable, StorageFull
from core.jobs.tables import Blob, Worker


def add(session: Session, name: str) -> None:
    session.execute(insert(Worker).values(id=name, queue="predict", hostname="h", pid=1))


def names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Worker.id).order_by(Worker.id)))


def statements(database: Database) -> list[str]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        seen.append(sql)

    event.listen(database.engine, "before_cursor_execute", note)
    return seen


def test_a_write_is_committed_or_leaves_nothing(database: Database) -> None:
    def fails() -> None:
        with database.write() as session:
            add(session, "lost")
            raise RuntimeError("changed my mind")

    with database.write() as session:
        add(session, "kept")
    with pytest.raises(RuntimeError, match="changed my mind"):
        fails()
    assert names(database) == ["kept"]


def test_a_read_keeps_nothing(database: Database) -> None:
    if database.is_sqlite:
        with database.read() as session:
            add(session, "lost")
    else:
        with pytest.raises(Exception, match="read-only transaction"), database.read() as session:
            add(session, "lost")
    assert names(database) == []


def test_a_read_sees_one_state_of_the_database(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Worker)) == 0
        with database.write() as other:
            add(other, "newcomer")
        assert session.scalar(select(func.count()).select_from(Worker)) == 0
    assert names(database) == ["newcomer"]


def test_only_writing_transactions_take_sqlites_lock_at_once(sqlite_database: Database) -> None:
    seen = statements(sqlite_database)
    sqlite_database.ping()
    with sqlite_database.write() as session:
        add(session, "a")
    begins = [sql for sql in seen if sql.startswith("BEGIN")]
    assert begins == ["BEGIN", "BEGIN IMMEDIATE"]


def test_sqlite_is_set_up_for_many_processes_and_power_cuts(sqlite_database: Database) -> None:
    with sqlite_database.read() as session:
        found = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15_000}


def test_the_databases_clock(database: Database) -> None:
    with database.read() as session:
        now, later = session.execute(select(db_now(), db_now(90.5))).one()
    assert now.tzinfo is UTC
    assert later - now == timedelta(seconds=90.5)


def test_times_are_aware_and_kept_as_utc(database: Database) -> None:
    time_ = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-7)))
    with database.write() as session:
        add(session, "a")
        session.get_one(Worker, "a").seen_at = time_
    with database.read() as session:
        found = session.get_one(Worker, "a").seen_at
    assert (found, found.tzinfo) == (time_, UTC)
    with pytest.raises(StatementError, match="must be aware"), database.write() as session:
        session.get_one(Worker, "a").seen_at = datetime(2026, 1, 2)


def test_insert_new_leaves_what_is_there(database: Database) -> None:
    row = {"sha256": "a" * 64, "size": 1, "data": b"x"}
    with database.write() as session:
        insert_new(session, Blob.__table__, [])  # type: ignore[arg-type]
        insert_new(session, Blob.__table__, [row])  # type: ignore[arg-type]
        insert_new(session, Blob.__table__, [row | {"size": 2}, row | {"sha256": "b" * 64}])  # type: ignore[arg-type]
    with database.read() as session:
        sizes = {digest: size for digest, size in session.execute(select(Blob.sha256, Blob.size))}  # noqa: C416
    assert sizes == {"a" * 64: 1, "b" * 64: 1}


def test_write_until_waits_for_a_stranger_to_let_go(
    sqlite_database: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event.listen(sqlite_database.engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout = 1"))
    stranger = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), check_same_thread=False)
    stranger.isolation_level = None
    stranger.execute("BEGIN EXCLUSIVE")
    pauses: list[float] = []

    def work(session: Session) -> None:
        add(session, "a")

    with pytest.raises(ServiceUnavailable) as refusal:
        sqlite_database.write_until(work, give_up_after=0)
    assert refusal.value.headers["Retry-After"]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            stranger.execute("ROLLBACK")

    monkeypatch.setattr(time, "sleep", sleep)
    sqlite_database.write_until(work, give_up_after=60)
    assert len(pauses) == 3
    assert 0 < pauses[0] < pauses[2]
    stranger.close()
    assert names(sqlite_database) == ["a"]


def test_write_until_outlives_cut_connections(postgres_database: Database, postgres_url: str) -> None:
    killer = Database(postgres_url)
    cuts: list[Any] = []

    def work(session: Session) -> int:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        if len(cuts) < 2:
            with killer.write() as other:
                cuts.append(other.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid}))
        add(session, f"try {len(cuts)}")
        return len(cuts)

    assert postgres_database.write_until(work, give_up_after=60) == 2
    assert names(postgres_database) == ["try 2"]
    killer.dispose()


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "no-such-host.invalid"])
def test_a_server_that_is_away(where: str) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        database = Database(f"postgresql+psycopg://u@{where.format(port=placeholder.getsockname()[1])}/d")
        with pytest.raises(ServiceUnavailable):
            database.ping()
        database.dispose()


def test_a_server_that_is_not_the_first_one_any_more(postgres_database: Database) -> None:
    """Another has taken over, and this one takes no writes until the name leads to the other."""
    with postgres_database.write() as session:
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    postgres_database.dispose()  # the setting is that of new connections
    with pytest.raises(ServiceUnavailable), postgres_database.write() as session:
        add(session, "a")
    assert names(postgres_database) == []


def test_a_machine_that_is_gone_is_given_up_in_seconds(postgres_database: Database) -> None:
    with postgres_database.read() as session:
        connection = session.connection().connection.driver_connection
        assert connection is not None
        given = connection.info.get_parameters()
    assert int(given["tcp_user_timeout"]) <= 20_000
    idle, count, interval = (int(given[f"keepalives_{name}"]) for name in ("idle", "count", "interval"))
    assert idle + count * interval < 60


def test_errors_that_waiting_does_not_cure_are_not_hidden(database: Database) -> None:
    tries: list[None] = []

    def work(session: Session) -> None:
        tries.append(None)
        add(session, "a")
        add(session, "a")

    with pytest.raises(IntegrityError):
        database.write_until(work, give_up_after=60)
    assert len(tries) == 1


def test_a_full_disk_says_so_and_changes_nothing(sqlite_database: Database) -> None:
    def limit(connection: sqlite3.Connection, _entry: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")

    event.listen(sqlite_database.engine, "connect", limit)

    tries: list[None] = []

    def work(session: Session) -> None:
        tries.append(None)
        add(session, "a")
        insert_new(session, Blob.__table__, [{"sha256": "a" * 64, "size": 1, "data": bytes(1 << 20)}])  # type: ignore[arg-type]

    with pytest.raises(StorageFull) as refusal:
        sqlite_database.write_until(work, give_up_after=1)
    assert refusal.value.status == 507
    assert len(tries) > 1, "somebody may free space meanwhile"
    assert names(sqlite_database) == []


def test_a_pool_in_use_is_not_waited_for_without_end(database_url: str) -> None:
    database = Database(database_url, pool_size=1, pool_timeout=0.05)
    with database.read() as first, database.read() as second:
        for session in (first, second):
            session.execute(text("SELECT 1"))
        with pytest.raises(ServiceUnavailable):
            database.ping()
    database.ping()
    database.dispose()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'missing' / 'pawlens.db'}")
    with pytest.raises(ServiceUnavailable):
        database.ping()
    database.dispose()


def test_writers_on_sqlite_wait_for_each_other(sqlite_database: Database) -> None:
    inside = threading.Event()

    def slow() -> None:
        with sqlite_database.write() as session:
            add(session, "slow")
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=slow)
    thread.start()
    assert inside.wait(10)
    with sqlite_database.write() as session:
        found = session.scalars(select(Worker.id)).all()  # only once the other has committed
        add(session, "next")
    thread.join()
    assert list(found) == ["slow"]


def test_given_rows_are_what_was_given(database: Database) -> None:
    rows: list[dict[str, Any]] = [
        {"name": 'Käthe\'s "ä" \\ 🐈', "count": 2**40, "share": 0.1, "data": {"a": [1, None, "é"], "b": {}}},
        {"name": None, "count": -1, "share": 1e-17, "data": None},
        {"name": "", "count": 0, "share": 3.0, "data": []},
    ]
    given = given_rows("rows", name=String(), count=BigInteger(), share=Float(), data=JSON(none_as_null=True))
    with database.read() as session:
        found = [dict(row._mapping) for row in session.execute(select(given), {"rows": rows})]
        nulls = session.scalar(select(func.count()).where(given.c.data.is_(null())), {"rows": rows})
    assert found == rows
    assert nulls == 1
