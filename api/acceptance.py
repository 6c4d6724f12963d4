"""New jobs are made durable together: what is posted while one commit runs is written by the next.

Making a commit durable takes the disk about as long for many jobs as for one, and a statement that writes
many rows little longer than one that writes a single row. So one thread takes whatever waits, writes all of
it in one transaction and answers each when it is committed: group commit, as databases do it in their log.
A job that is posted alone waits for nobody.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from core.database import Database
from core.errors import PawlensError, ServiceUnavailable
from core.jobs import queries
from core.jobs.ids import new_id
from core.jobs.submit import Idempotency, IdempotencyKeyReused, Naming, Submission, name_requests, submit_all

logger = logging.getLogger(__name__)

MAX_JOBS = 100
MAX_BYTES = 8 << 20
"""Of the pictures in one transaction, unless a single one is larger: others wait to write meanwhile."""


@dataclass(frozen=True)
class Accepted:
    """A new job, or, when this very request came before, the id of what it made then."""

    job_id: str
    record: queries.JobRecord | None

    @property
    def is_replayed(self) -> bool:
        return self.record is None


@dataclass(frozen=True)
class _Posted:
    submission: Submission
    once: Idempotency | None
    answer: Future[Accepted]
    job_id: str = field(default_factory=lambda: new_id("job"))

    @property
    def size(self) -> int:
        return len(self.submission.picture.data) if self.submission.picture else 0


class Acceptance:
    """The one writer of this process's new jobs."""

    def __init__(self, database: Database, *, max_attempts: int) -> None:
        self._database = database
        self._max_attempts = max_attempts
        self._posted: deque[_Posted] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="acceptance", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what was posted, and no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def post(
        self,
        submission: Submission,
        once: Idempotency | None = None,
        answer: Future[Accepted] | None = None,
    ) -> Future[Accepted]:
        """The future, ``answer`` or a new one, is done when the job is committed, or refused.

        Raises:
            ServiceUnavailable: this process is ending.
        """
        posted = _Posted(submission, once, answer or Future())
        with self._changed:
            if self._stopping:
                raise ServiceUnavailable("The service is stopping. Send the request again in a few seconds.")
            self._posted.append(posted)
            self._changed.notify()
        return posted.answer

    def _run(self) -> None:
        while self._posted or not self._stopping:
            self._write_next()

    def _write_next(self) -> None:
        # A frame of its own: the pictures that were written are not kept until more are posted.
        if group := self._take():
            self._write(group)

    def _take(self) -> list[_Posted]:
        """What waits, up to the limits."""
        group: list[_Posted] = []
        room = MAX_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self._posted or self._stopping)
            while self._posted and len(group) < MAX_JOBS and (not group or self._posted[0].size <= room):
                posted = self._posted.popleft()
                if posted.answer.set_running_or_notify_cancel():  # else its client has gone away
                    group.append(posted)
                    room -= posted.size
        return group

    def _write(self, group: Sequence[_Posted]) -> None:
        try:
            with self._database.write() as session:
                answers = self._accept(session, group)
        except Exception as error:
            if len(group) > 1 and not isinstance(error, PawlensError):
                # One row that the database will not have must not take the others with it.
                logger.warning("writing %d jobs together failed, each alone now", len(group), exc_info=True)
                for posted in group:
                    self._write([posted])
                return
            answers = [error] * len(group)
        for posted, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                posted.answer.set_exception(answer)
            else:
                posted.answer.set_result(answer)

    def _accept(self, session: Session, group: Sequence[_Posted]) -> list[Accepted | Exception]:
        named = [Naming(p.job_id, p.once, p.submission.owner) for p in group if p.once is not None]
        made: dict[str, str | IdempotencyKeyReused] = {posted.job_id: posted.job_id for posted in group}
        made |= zip((naming.subject_id for naming in named), name_requests(session, named), strict=True)
        new = {p.job_id: p.submission for p in group if made[p.job_id] == p.job_id}
        jobs = submit_all(session, new, max_attempts=self._max_attempts)
        pictures = {wish.picture.sha256: wish.picture for wish in new.values() if wish.picture}
        found = queries.records_of_new(session, list(jobs.values()), pictures)
        records = {record.job.id: record for record in found}
        return [
            what if isinstance(what, Exception) else Accepted(what, records.get(job_id))
            for job_id, what in made.items()
        ]
