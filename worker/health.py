"""Whether this machine's part of the service works: ``python -m worker.health predict|explain|io|beat``.

Made for a container's health check. The exit status is 0 or 1, one sentence says why. A worker is well while
its heartbeat is; beat, while nothing that it should have taken back lies about. Where the database is away
nothing can be told, and starting this process again would not help: that counts as well.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs import workers
from core.jobs.states import Queue
from core.jobs.tables import Job
from core.settings import Settings

BEAT = "beat"
OVERDUE_SECONDS = 60.0
"""Beat looks every ``rescue_seconds``; a lease that ended so much longer ago shows that it does not."""


def worker_trouble(
    session: Session, queue: Queue, *, silent_seconds: float, hostname: str | None = None
) -> str | None:
    """What is wrong with the worker of ``queue`` on this host, or None.

    A container has a host name of its own, so that in one this is the worker beside it and no other.
    """
    hostname = hostname or socket.gethostname()
    alive = workers.alive(session, silent_seconds=silent_seconds)
    if any(worker.queue is queue and worker.hostname == hostname for worker in alive):
        return None
    return f"no {queue} worker on {hostname} was heard of within {silent_seconds:g} s"


def beat_trouble(session: Session, *, overdue_seconds: float = OVERDUE_SECONDS) -> str | None:
    """What beat has left undone, or None."""
    overdue = Job.lease_until < db_now(-overdue_seconds)
    lost = session.scalar(select(func.count()).select_from(Job).where(overdue)) or 0
    if not lost:
        return None
    return f"{lost} jobs of lost workers have waited for more than {overdue_seconds:g} s to be taken back"


def check(settings: Settings, role: str) -> tuple[bool, str]:
    """Whether ``role``, a queue or ``beat``, works here, and a sentence about it."""
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as session:
            if role == BEAT:
                trouble = beat_trouble(session, overdue_seconds=OVERDUE_SECONDS + settings.rescue_seconds)
            else:
                trouble = worker_trouble(session, Queue(role), silent_seconds=settings.silent_seconds)
    except ServiceUnavailable as error:
        return True, f"nothing can be told: {error.detail}"
    finally:
        database.dispose()
    return trouble is None, trouble or f"{role} works"


def main(arguments: Sequence[str]) -> int:
    roles = [*Queue, BEAT]
    if len(arguments) != 1 or arguments[0] not in roles:
        print(f"usage: python -m worker.health {'|'.join(roles)}", file=sys.stderr)
        return 2
    works, sentence = check(Settings(), arguments[0])
    print(sentence)
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
