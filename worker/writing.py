"""Writing what came of a job, and telling the ``io`` workers when that is to be sent to somebody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from core.broker import BrokerUnavailable, publish
from core.database import Database
from core.jobs import completion, webhooks
from core.jobs.states import Queue
from core.settings import Settings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def write_outcome(settings: Settings, database: Database, work: Callable[[Session], Result]) -> Result:
    """Run ``work`` in a transaction that outlasts a short outage; hint if it wrote webhook deliveries."""

    def watched(session: Session) -> tuple[Result, bool]:
        done = work(session)
        completion.look_now(session)  # with a job its batch may end, and that is a delivery as well
        return done, webhooks.written(session)

    result, has_deliveries = database.write_until(watched, give_up_after=settings.lease_seconds)
    if has_deliveries:
        try:
            publish(settings, Queue.IO)
        except BrokerUnavailable:
            logger.warning("no broker: the dispatcher will hint later")
    return result
