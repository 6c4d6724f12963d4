"""Sending webhook deliveries. Runs on ``io`` workers, so that no receiver ever holds up a model worker."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import httpx

from core.database import Database
from core.errors import UrlBlocked
from core.jobs import deliveries, signatures
from core.jobs.deliveries import Claim, Outcome
from core.jobs.states import DeliveryState
from core.logs import log_context
from core.network import GuardedTransport, Resolve, system_resolver
from core.settings import Settings
from worker.draining import drain
from worker.origins import Closed, Origins

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 1024
"""Of the answer's body, which says nothing to us; reading some of it lets the receiver finish in peace."""
LEASE_MARGIN_SECONDS = 30.0
"""Beyond the timeout, for writing down what came of the attempt."""


class WebhookSender:
    """Sends what is due, a few at a time whatever the number of hints, and fewer still to one receiver."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        stopping: threading.Event,
        *,
        resolve: Resolve = system_resolver,
    ) -> None:
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._resolve = resolve
        self._places = threading.BoundedSemaphore(settings.webhook_concurrency)
        self._origins = Origins(
            settings.webhook_concurrency,
            each=settings.webhook_concurrency_per_receiver,
            slow_seconds=settings.webhook_timeout_seconds / 2,
        )

    def drain(self, seconds: float = math.inf) -> bool:
        """Send one after the other until none is left or the time is up; True when there may be more.

        Returns at once when enough threads do so.
        """
        return drain(self._send_one, places=self._places, stopping=self._stopping, seconds=seconds)

    def _send_one(self) -> bool:
        claim = self._origins.take(self._claim, lambda claim: claim.url)
        if claim is None:
            return False
        with log_context(job=claim.subject_id):
            self._deliver(claim)
        return True

    def _claim(self, closed: Closed) -> Claim | None:
        others = {"except_origins": closed.origins, "except_urls": closed.urls}
        # Looking first keeps a hint for a download from taking the write lock (SQLite has only one).
        with self._database.read() as session:
            if not deliveries.ready(session, at_most=1, **others):
                return None
        with self._database.write() as session:
            lease = self._settings.webhook_timeout_seconds + LEASE_MARGIN_SECONDS
            return deliveries.claim(session, lease_seconds=lease, **others)

    def _deliver(self, claim: Claim) -> None:
        outcome = self._send(claim)
        if seconds := deliveries.throttled_for(outcome):
            self._origins.rest(claim.url, seconds)  # so does what ends afterwards: see _throttle
        self._origins.leave(claim.url, outcome.seconds)
        state = self._database.write_until(
            lambda session: deliveries.record(session, claim, outcome),
            give_up_after=LEASE_MARGIN_SECONDS,
        )
        level = logging.INFO if state is DeliveryState.DELIVERED else logging.WARNING
        fields = {
            "delivery": claim.id,
            "event": claim.event_type,
            "endpoint": claim.endpoint_id,
            "attempt": claim.attempt,
            "status": outcome.status_code,
            "error": outcome.error,
            "seconds": round(outcome.seconds, 3),
        }
        logger.log(level, "webhook %s", state or "dropped: it is another sender's", extra=fields)

    def _send(self, claim: Claim) -> Outcome:
        """One POST, redirects not followed, all of it within the timeout."""
        settings, started = self._settings, time.monotonic()
        status: int | None = None
        retry_after: float | None = None
        error: str | None = None
        try:
            # No httpx.Client around the transport: it would parse Location, keep cookies and log whole URLs.
            with (
                GuardedTransport(
                    timeout=settings.webhook_timeout_seconds,
                    allow_private=settings.allow_private_network,
                    resolve=self._resolve,
                ) as transport,
                contextlib.closing(transport.handle_request(_request(claim))) as response,
            ):
                status = response.status_code
                retry_after = _retry_after(response, claim)
                _read_some(response)
        except UrlBlocked as refusal:
            error = refusal.detail
        except httpx.TimeoutException:
            error = f"No complete answer within {settings.webhook_timeout_seconds:g} seconds."
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as trouble:
            error = f"{type(trouble).__name__}: {trouble}"[:500]
        except Exception:  # the delivery must not stay under a lease for a reason of ours
            logger.exception("sending failed for a reason of our own")
            error = "The sender met an error of its own."
        if error is None and status is not None and not 200 <= status < 300:
            redirect = " Redirects are not followed." if 300 <= status < 400 else ""
            error = f"The receiver answered with status {status}, not 2xx.{redirect}"
        return Outcome(status, time.monotonic() - started, error, retry_after)


def _request(claim: Claim) -> httpx.Request:
    body = claim.payload.encode()
    signed = signatures.headers(claim.secrets, claim.id, int(claim.now.timestamp()), body)
    plain = {"Content-Type": "application/json", "User-Agent": f"Pawlens/{version('pawlens')}"}
    return httpx.Request("POST", claim.url, headers=plain | signed, content=body)


def _read_some(response: httpx.Response) -> None:
    left = MAX_ANSWER_BYTES
    try:
        for chunk in response.iter_raw():
            left -= len(chunk)
            if left <= 0:
                return
    except (httpx.HTTPError, httpx.StreamError):
        if not response.is_success:  # else it has said that it has it, however it goes on
            raise


def _retry_after(response: httpx.Response, claim: Claim) -> float | None:
    """Seconds, from either form that the header has (RFC 9110, section 10.2.3); None when it has another."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal() and value.isascii():
        return float(value[:12])
    try:
        return max((parsedate_to_datetime(value) - claim.now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return None
