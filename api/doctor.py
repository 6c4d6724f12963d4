"""``pawlens doctor``: what is wrong with this installation, and what to do about it.

Every check looks and changes nothing. What needs torch runs in a process of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

import migrations
from api.doctor_machine import disk, environment, packages, port, python
from api.findings import Check, Finding, run_python
from core.database import Database, db_now
from core.errors import PawlensError
from core.settings import Settings
from core.vision.manifest import read_manifest
from worker.preflight import Refusal, check_weights

LAST_SQLITE_WITH_WAL_RACE = (3, 51, 2)
CLOCK_TOLERANCE_SECONDS = 2.0


def diagnose(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order in which one would repair them."""
    for check in CHECKS:
        try:
            yield from check(settings)
        except Exception as error:
            yield Finding(
                "broken", check.__name__, f"the check itself failed: {type(error).__name__}: {error}"
            )


def report(settings: Settings) -> int:
    """Print the findings. The exit status is 1 if something is broken."""
    broken = 0
    for finding in diagnose(settings):
        print(f"{finding.level:<8} {finding.subject:<12} {finding.text}", flush=True)
        broken += finding.level == "broken"
    print(f"\n{broken} broken." if broken else "\nNothing is broken.")
    return 1 if broken else 0


def database(settings: Settings) -> Iterator[Finding]:
    is_sqlite = settings.database.startswith("sqlite")
    if is_sqlite and sqlite3.sqlite_version_info <= LAST_SQLITE_WITH_WAL_RACE:
        text = (
            f"version {sqlite3.sqlite_version}; up to 3.51.2 a rare race can damage a database that several "
            "processes write: fine to try things out, take PostgreSQL (PAWLENS_DATABASE_URL) for the rest"
        )
        yield Finding("warning", "sqlite", text)
    if is_sqlite and not Path(settings.database.partition(":///")[2]).exists():
        yield Finding("ok", "database", "not made yet: `pawlens up` or `pawlens migrate` makes it")
        return
    try:
        current, newest = migrations.current(settings.database), migrations.head()
    except (PawlensError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        yield Finding("broken", "database", f"cannot be reached ({reason}): check PAWLENS_DATABASE_URL")
        return
    if current != newest:
        text = f"its tables are at revision {current}, the code needs {newest}: run `pawlens migrate`"
        yield Finding("broken", "database", text)
    else:
        yield Finding("ok", "database", f"{settings.database.partition(':')[0]}, at revision {current}")
    yield from _clock(settings)


def _clock(settings: Settings) -> Iterator[Finding]:
    opened = Database(settings.database, pool_size=1)
    try:
        with opened.read() as session:
            session.execute(select(1))  # the connection is there before the clock is read
            before = datetime.now(UTC)
            theirs = session.scalars(select(db_now())).one()
            after = datetime.now(UTC)
    finally:
        opened.dispose()
    ahead = (before + (after - before) / 2 - theirs).total_seconds()
    text = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's"
    if abs(ahead) > CLOCK_TOLERANCE_SECONDS:
        yield Finding("warning", "clock", f"{text}: jobs do not mind, but logs will not line up; use NTP")
    else:
        yield Finding("ok", "clock", text)


def broker(settings: Settings) -> Iterator[Finding]:
    at_once = Retry(NoBackoff(), retries=0)
    client = redis.Redis.from_url(settings.redis, socket_timeout=3, socket_connect_timeout=3, retry=at_once)
    with client:
        try:
            client.ping()
        except redis.RedisError as error:
            if settings.redis_url:
                yield Finding("broken", "redis", f"does not answer ({error}): check PAWLENS_REDIS_URL")
            else:
                yield Finding("ok", "redis", "the embedded Valkey is not running: `pawlens up` starts it")
            return
        try:
            policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
        except redis.RedisError as error:
            yield Finding("warning", "redis", f"answers, but does not tell its maxmemory-policy ({error})")
            return
    if policy == "noeviction":
        yield Finding("ok", "redis", "answers; maxmemory-policy is noeviction")
    else:
        text = f"its maxmemory-policy is {policy}, which may drop keys of the queue: set noeviction"
        yield Finding("warning", "redis", text)


def weights(settings: Settings) -> Iterator[Finding]:
    if settings.engine != "resnet":
        yield Finding(
            "warning", "weights", f"PAWLENS_ENGINE={settings.engine}: answers are made up, for tests"
        )
        return
    try:
        check_weights(settings)
    except Refusal as refusal:
        yield Finding("broken", "weights", str(refusal))
        return
    manifest = read_manifest(settings.weights)
    yield Finding("ok", "weights", f"{manifest.name} {manifest.version}, SHA-256 as in the manifest")
    yield from _engine(settings)


def _engine(settings: Settings) -> Iterator[Finding]:
    """Load the network as a worker does, and say what was chosen for it."""
    code = (
        "import json\n"
        "from core.settings import Settings\n"
        "from worker import engines\n"
        "print(json.dumps(engines.load(Settings(), explains=False)[0].report))"
    )
    done = run_python(code, environment=settings.as_environment())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield Finding("broken", "device", f"the network cannot be loaded: {last}")
        return
    chosen = json.loads(done.stdout.splitlines()[-1])
    text = (
        f"{chosen['device']} in {chosen['precision']}, batches of up to {chosen['max_batch']}, loads in "
        f"{chosen['load_seconds']:.1f} s ({chosen['why']})"
    )
    yield Finding("ok", "device", text)


CHECKS: tuple[Check, ...] = (python, packages, environment, disk, database, broker, weights, port)
