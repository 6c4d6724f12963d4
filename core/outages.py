"""What the errors of database drivers mean: full, away, or a fault of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.errors import PawlensError, ServiceUnavailable, StorageFull


@contextmanager
def translated(*more_states: str) -> Iterator[None]:
    """Turn the driver's ways of saying "full" and "away" into errors that know their status."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).lower()
        if "disk is full" in reason or getattr(error.orig, "sqlstate", None) == "53100":
            raise StorageFull("The database's disk is full. Free space or shorten the retention.") from error
        if error.connection_invalidated or _is_outage(error, _OUTAGE_STATES + more_states):
            raise _away() from error
        raise
    except PoolTimeout as error:  # every connection of the pool is in use
        raise _away() from error


# PostgreSQL classes: connection exceptions, too many connections, shutting down, serialisation and deadlock.
_OUTAGE_STATES = ("08", "53300", "57P0", "40001", "40P01")
NO_LONGER_FIRST = "25006"  # a read-only transaction where none was asked for: another server took over
_OUTAGE_WORDS = ("locked", "busy", "unable to open", "disk i/o")  # SQLite's


def _is_outage(error: DBAPIError, states: tuple[str, ...]) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(states)
    if not isinstance(error, OperationalError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return any(word in str(error.orig).lower() for word in _OUTAGE_WORDS)
    return True  # the server has not spoken: no route, no such name, refused, timed out, hung up


def _away() -> PawlensError:
    return ServiceUnavailable(
        "The database cannot be reached now. Try again in a few seconds; a request with an Idempotency-Key "
        "is done once, however often it is sent.",
        headers={"Retry-After": "5"},
    )
