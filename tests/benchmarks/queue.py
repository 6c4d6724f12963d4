"""What a running service has done, and whether it is done."""

from __future__ import annotations

from sqlalchemy import func, select

from core.jobs.tables import Job
from tests.chaos.rest import database_of
from tests.processes import Service, eventually


def wait_until_empty(service: Service) -> None:
    def waiting() -> int:
        queues = service.http.get("/v1/queue").json()["queues"]
        return sum(queue["waiting"] + queue["running"] for queue in queues)

    eventually(lambda: waiting() == 0, seconds=600, what="an empty queue")


def jobs(service: Service) -> int:
    """How many there have been."""
    with database_of(service) as database, database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0
