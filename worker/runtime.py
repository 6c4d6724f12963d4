"""What one worker process holds: database, engine, leases. Made once, when the process starts."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence

from core.database import Database
from core.jobs.states import Queue
from core.settings import Settings
from worker.leases import LeaseKeeper

logger = logging.getLogger(__name__)


class Runtime:
    """One worker process and the queues that it serves."""

    def __init__(self, settings: Settings, queues: Sequence[Queue], worker_id: str) -> None:
        self.stopping = threading.Event()
        self._database = Database(settings.database)
        self._keeper = LeaseKeeper(
            self._database,
            worker_id=worker_id,
            queues=queues,
            lease_seconds=settings.lease_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        # Each imports only what its queues need: an HTTP client here, the network there.
        self._drain_io: Callable[[str], bool] | None = None
        self._drain_model: Callable[[Queue, str], bool] | None = None
        io_seconds = math.inf  # for a task; a worker of io alone keeps no other queue waiting
        if set(queues) - {Queue.IO}:
            from worker import engines  # noqa: PLC0415
            from worker.runner import DRAIN_SECONDS, Runner  # noqa: PLC0415

            io_seconds = DRAIN_SECONDS
            engine, explainer = engines.load(settings, explains=Queue.EXPLAIN in queues)
            self._keeper.report = engine.report
            runner = Runner(settings, self._database, engine, self._keeper, self.stopping, explainer)
            self._drain_model = runner.drain
        if Queue.IO in queues:
            self._drain_io = self._io(settings, io_seconds)
        self._keeper.start()
        logger.info("worker ready", extra={"worker": worker_id, **self._keeper.report})

    def drain(self, queue: Queue, owner: str) -> bool:
        """Do what is ready; True when there may be more."""
        if queue is Queue.IO:
            assert self._drain_io is not None
            return self._drain_io(owner)
        assert self._drain_model is not None
        return self._drain_model(queue, owner)

    def _io(self, settings: Settings, seconds: float) -> Callable[[str], bool]:
        from worker.downloads import Downloader  # noqa: PLC0415
        from worker.webhook_sender import WebhookSender  # noqa: PLC0415

        downloader = Downloader(settings, self._database, self._keeper, self.stopping)
        sender = WebhookSender(settings, self._database, self.stopping)

        def drain(owner: str) -> bool:
            # Half of the time each, so that neither keeps the other waiting for longer.
            more_to_send = sender.drain(seconds / 2)
            return downloader.drain(owner, seconds / 2) or more_to_send

        return drain

    def stop(self) -> None:
        self._keeper.stop()
        self._database.dispose()
