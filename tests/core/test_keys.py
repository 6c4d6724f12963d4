"""Keys in the database: what is stored of them, and which are in force."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from core import keys
from core.database import Database, db_now
from core.errors import Conflict, InvalidRequest, NotFound


def created(database: Database, name: str, *, rate: float | None = None) -> tuple[str, str]:
    """A new key's id and secret."""
    with database.write() as session:
        key, secret = keys.create(session, name, rate_per_second=rate)
        return key.id, secret


def revoked(database: Database, name_or_id: str) -> str:
    with database.write() as session:
        return keys.revoke(session, name_or_id).id


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_is_a_positive_number(database: Database, rate: float) -> None:
    with pytest.raises(InvalidRequest, match="positive number"):
        created(database, "me", rate=rate)


def test_only_a_digest_of_the_secret_is_stored(database: Database) -> None:
    key_id, secret = created(database, "me", rate=2.5)
    assert re.fullmatch(r"pk_[\w-]{43}", secret)  # 32 bytes in base64
    assert re.fullmatch(r"key_[0-9a-f]{32}", key_id)
    with database.read() as session:
        row = session.execute(text("SELECT * FROM api_keys")).one()
        (key,) = keys.active(session)
    assert secret.removeprefix("pk_") not in str(row)
    expected = hashlib.sha256(secret.encode()).hexdigest()
    assert key == keys.Key(key_id, "me", expected, 2.5)


def test_no_two_secrets_are_equal(sqlite_database: Database) -> None:
    assert len({created(sqlite_database, f"{i}")[1] for i in range(50)}) == 50


@pytest.mark.parametrize("by", [lambda key_id: key_id, lambda _: "me"])
def test_a_revoked_key_is_not_in_force_but_remembered(database: Database, by: Callable[[str], str]) -> None:
    key_id, _ = created(database, "me")
    other_id, _ = created(database, "other")
    assert revoked(database, by(key_id)) == key_id
    with database.read() as session:
        assert [key.id for key in keys.active(session)] == [other_id]
        assert [(key.id, key.revoked_at is None) for key in keys.listed(session)] == [
            (key_id, False),
            (other_id, True),
        ]
    with pytest.raises(NotFound, match="keys list"):
        revoked(database, key_id)


def test_names_are_unique_among_the_keys_in_force(database: Database) -> None:
    first, _ = created(database, "me")
    with pytest.raises(Conflict, match="'me'"):
        created(database, "me")
    revoked(database, "me")
    second, _ = created(database, "me")
    assert revoked(database, "me") == second != first


def test_two_keys_of_one_name_made_at_the_same_instant(database: Database) -> None:
    def attempt(_: int) -> bool:
        try:
            created(database, "me")
        except (Conflict, IntegrityError):
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(4))) == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 65, "key_1", "\ud800"])
def test_names_that_are_none(sqlite_database: Database, name: str) -> None:
    with pytest.raises(InvalidRequest):
        created(sqlite_database, name)


def test_whether_any_key_is_in_force(database: Database, tmp_path: Path) -> None:
    def exist(one: Database) -> bool:
        with one.read() as session:
            return keys.exist(session)

    assert not exist(database)
    created(database, "me")
    assert exist(database)
    revoked(database, "me")
    assert not exist(database)
    without_tables = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert not exist(without_tables)
    without_tables.dispose()


def test_the_last_use_is_noted(database: Database) -> None:
    used, _ = created(database, "used")
    created(database, "unused")
    with database.write() as session:
        keys.note_use(session, {used: 30.0})
    with database.write() as session:
        keys.note_use(session, {used: 3600.0})  # known to another process, and earlier
    with database.read() as session:
        (age,) = [
            (session.scalar(select(db_now())) - key.last_used_at).total_seconds()
            for key in keys.listed(session)
            if key.last_used_at
        ]
        assert 29 < age < 300
        assert {key.name: key.last_used_at is not None for key in keys.listed(session)} == {
            "used": True,
            "unused": False,
        }


@pytest.mark.parametrize("secret", ["", "pk_", "ä", "\udcff", "x" * 100_000])
def test_a_digest_of_whatever_was_sent(secret: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", keys.digest(secret))
