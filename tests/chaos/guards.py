"""Guards of the protocol, each with a way to take it out of a process (``CHAOS_FAULT=no-attempt-fence``).

Each removal is the mistake that a later change could make. ``test_guards.py`` shows that tests notice it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

REMOVALS: dict[str, Callable[[], None]] = {}


def _removal(take_out: Callable[[], None]) -> Callable[[], None]:
    REMOVALS[take_out.__name__.replace("_", "-")] = take_out
    return take_out


def _module(name: str) -> Any:
    """To put another function in the place of one that the module has imported."""
    return import_module(name)


@_removal
def no_attempt_fence() -> None:
    """A claim is known by its job alone: whoever had it once may write for ever."""
    from core.jobs.claims import Claim
    from core.jobs.tables import Job

    Claim.fence = property(lambda claim: (Job.id == claim.job_id,))  # type: ignore[assignment,method-assign]
    _module("core.jobs.results").fence_of = lambda job_id, _attempt: (Job.id == job_id,)


@_removal
def no_guarded_finish() -> None:
    """A job is moved whatever state it is in by now."""
    from sqlalchemy import update

    from core.jobs.tables import Job

    transitions = _module("core.jobs.transitions")

    class Unguarded:
        def __init__(self, table: Any) -> None:
            self.statement = update(table)

        def where(self, state: Any, *others: Any) -> Any:
            return self.statement.where(*others)

    transitions.update = lambda table: Unguarded(table) if table is Job else update(table)


@_removal
def no_unique_delivery() -> None:
    """Telling of an event again writes another delivery of it."""
    from sqlalchemy import insert

    from core.jobs.tables import WebhookDelivery

    def write_all(session: Any, table: Any, rows: Any) -> None:
        if table is WebhookDelivery.__table__:
            rows = [row | {"target": f"{row['target']}#{row['id']}"} for row in rows]  # past the constraint
        session.execute(insert(table), rows)

    _module("core.jobs.webhooks").insert_new = write_all


@_removal
def publish_before_commit() -> None:
    """Workers are told of work that is not yet there."""
    writing = _module("worker.writing")

    def write_outcome(settings: Any, database: Any, work: Any) -> Any:
        def eager(session: Any) -> Any:
            result = work(session)
            if writing.webhooks.written(session):
                writing.publish(settings, writing.Queue.IO)
            return result

        return database.write_until(eager, give_up_after=settings.lease_seconds)

    writing.write_outcome = write_outcome


@_removal
def hint_before_commit() -> None:
    """The API tells the workers of a job before it is committed."""
    from api.acceptance import Acceptance
    from core.jobs.states import Queue

    hints, accept = _module("api.hints"), Acceptance._accept

    def hint_first(acceptance: Any, session: Any, group: Any) -> Any:
        answers = accept(acceptance, session, group)
        hints.publish(None, Queue.PREDICT, 1)
        return answers

    hints.HintPublisher.note = lambda *_: None
    Acceptance._accept = hint_first  # type: ignore[assignment,method-assign]


@_removal
def process_clock() -> None:
    """Leases and deadlines are reckoned by the clock of whichever process writes them."""
    from datetime import UTC

    from sqlalchemy.ext.compiler import compiles

    database = _module("core.database")

    def now(element: Any, compiler: Any, **kw: Any) -> str:
        seconds = compiler.process(element.clauses, **kw)
        moment = database.datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        if compiler.dialect.name == "sqlite":
            return f"strftime('%Y-%m-%d %H:%M:%f000', '{moment}', printf('%+.3f seconds', {seconds}))"
        return f"(TIMESTAMPTZ '{moment}+00' + make_interval(secs => {seconds}))"

    database.db_now.inherit_cache = False  # or a statement would keep the moment of its first use
    for dialect in ("sqlite", "postgresql"):
        compiles(database.db_now, dialect)(now)
