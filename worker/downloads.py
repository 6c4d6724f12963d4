"""Downloading the pictures of jobs that were posted with a URL. Runs on ``io`` workers, without torch."""

from __future__ import annotations

import logging
import math
import threading
import time
from functools import partial

from core.broker import BrokerUnavailable, publish
from core.database import Database
from core.errors import PawlensError, ServiceUnavailable, StorageFull
from core.jobs import claims, results
from core.jobs.blobs import Picture
from core.jobs.claims import Claim, LeaseLost
from core.logs import log_context
from core.settings import Settings
from core.vision import images
from worker.draining import drain
from worker.fetcher import fetch
from worker.leases import LeaseKeeper
from worker.origins import Closed, Origins
from worker.writing import write_outcome

logger = logging.getLogger(__name__)


class Downloader:
    """Downloads for jobs in the state ``fetching``, a few at a time whatever the number of hints."""

    def __init__(
        self, settings: Settings, database: Database, keeper: LeaseKeeper, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._database = database
        self._keeper = keeper
        self._stopping = stopping
        self._places = threading.BoundedSemaphore(settings.fetch_concurrency)
        self._origins = Origins(settings.fetch_concurrency, slow_seconds=settings.fetch_timeout_seconds / 2)

    def drain(self, owner: str, seconds: float = math.inf) -> bool:
        """Download one after the other until none is left or the time is up; True when there may be more.

        Returns at once when enough threads do so.
        """
        fetch_one = partial(self._download_one, owner)
        return drain(fetch_one, places=self._places, stopping=self._stopping, seconds=seconds)

    def _download_one(self, owner: str) -> bool:
        claim = self._origins.take(partial(self._claim, owner), lambda claim: claim.source_url or "")
        if claim is None:
            return False
        with (
            self._keeper.holding([claim]),
            log_context(job=claim.job_id, correlation=claim.correlation_id),
        ):
            self._download(claim)
        return True

    def _claim(self, owner: str, closed: Closed) -> Claim | None:
        if closed:  # what waits for those is walked through, and not under the write lock if in vain
            with self._database.read() as session:
                if not claims.can_fetch(session, except_origins=closed.origins):
                    return None
        with self._database.write() as session:
            lease, origins = self._settings.lease_seconds, closed.origins
            found = claims.claim_fetches(
                session, owner=owner, limit=1, lease_seconds=lease, except_origins=origins
            )
        return found[0] if found else None

    def _download(self, claim: Claim) -> None:
        try:
            picture = self._fetched(claim.source_url or "")
        except PawlensError as error:
            self._record_failure(claim, error)
            return
        except Exception:
            logger.exception("download failed for a reason of our own")
            self._record_failure(
                claim, ServiceUnavailable("The worker met an error of its own while downloading.")
            )
            return
        try:
            queue = self._database.write_until(
                lambda session: results.fetched(session, claim, picture),
                give_up_after=self._settings.lease_seconds,
            )
        except LeaseLost:
            logger.warning("download dropped: the job is no longer this attempt's")
            return
        except StorageFull as error:  # a failure is smaller than a picture, and may find room
            self._record_failure(claim, error)
            return
        logger.info("downloaded", extra={"bytes": len(picture.data)})
        try:
            publish(self._settings, queue)
        except BrokerUnavailable:
            logger.warning("no broker: the dispatcher will hint later")

    def _fetched(self, url: str) -> Picture:
        started = time.monotonic()
        try:
            return self._fetch(url)
        finally:
            self._origins.leave(url, time.monotonic() - started)

    def _fetch(self, url: str) -> Picture:
        settings = self._settings
        download = fetch(
            url,
            max_bytes=settings.max_image_bytes,
            timeout_seconds=settings.fetch_timeout_seconds,
            max_redirects=settings.fetch_max_redirects,
            allow_private=settings.allow_private_network,
        )
        info = images.inspect(download.data, max_pixels=settings.max_pixels)
        return Picture(download.data, info.width, info.height, info.media_type)

    def _record_failure(self, claim: Claim, error: PawlensError) -> None:
        logger.warning(
            "download failed: %s", error.detail, extra={"code": error.code, "attempt": claim.attempt}
        )
        retry = self._settings.retry_seconds
        write_outcome(
            self._settings,
            self._database,
            lambda session: results.fail(session, claim, error, retry_seconds=retry),
        )
