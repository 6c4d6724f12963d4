"""Which jobs are ready for a worker: the conditions by which work is claimed, counted and put in order.

States and zeros stand in the SQL as literals. A planner sees that ``state = 'queued'`` is what a partial
index was built for; of ``state = ?`` it cannot know that.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, literal, or_

from core.database import db_now
from core.jobs.states import JobState
from core.jobs.tables import Job


def _in(state: JobState) -> ColumnElement[bool]:
    return Job.state == literal(state, Job.state.type, literal_execute=True)


_ZERO = literal(0, Job.attempt.type, literal_execute=True)

FRESH = (_in(JobState.QUEUED), Job.attempt == _ZERO)
"""Waiting for a model worker, never tried (``ix_jobs_ready``)."""

RETRIED = (_in(JobState.QUEUED), Job.attempt > _ZERO)
"""Waiting for a model worker again (``ix_jobs_retries``)."""

UNFETCHED = (_in(JobState.FETCHING), Job.lease_until.is_(None))
"""Waiting for its URL to be downloaded (``ix_jobs_fetching``)."""

BY_PRIORITY_THEN_AGE = (Job.priority.desc(), Job.created_at, Job.id)


def due() -> tuple[ColumnElement[bool], ...]:
    """Its time has come and its deadline has not passed."""
    return Job.run_after <= db_now(), or_(Job.deadline_at.is_(None), Job.deadline_at > db_now())
