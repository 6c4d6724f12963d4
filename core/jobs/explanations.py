"""The methods of a running job: each starts, progresses and ends on its own, visible at once.

Every function is fenced by the claim like those of :mod:`core.jobs.results`; the answer says whether it
wrote, and False means that the job is no longer this attempt's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, insert, select, update
from sqlalchemy.orm import Session

from core.database import db_now
from core.errors import PawlensError
from core.jobs import events
from core.jobs.blobs import store_blob
from core.jobs.claims import Claim
from core.jobs.states import MethodState
from core.jobs.tables import Artifact, Job, Method
from core.jobs.transitions import PARTIAL


@dataclass(frozen=True)
class File:
    """An artifact to be kept."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class Finished:
    """What a method has made. ``quality`` and ``provenance`` are JSON-able."""

    files: Mapping[str, File]
    quality: dict[str, Any]
    provenance: dict[str, Any]
    seconds: float


def cache_key(*, picture: str, network: str, generation: int, method: str, options: dict[str, Any]) -> str:
    """Equal keys mean equal results: a digest of the picture's and the network's digests, of the code's
    generation, method and options."""
    parts = [picture, network, generation, method, options]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pending(session: Session, claim: Claim) -> list[str]:
    """The job's methods that have not ended, in the order asked for. What an earlier attempt ended stays."""
    unended = (MethodState.QUEUED, MethodState.RUNNING)
    query = select(Method.name).where(Method.job_id == claim.job_id, Method.state.in_(unended))
    return list(session.scalars(query.order_by(Method.position)))


def any_failed(session: Session, claim: Claim) -> bool:
    query = select(Method.name).where(Method.job_id == claim.job_id, Method.state == MethodState.FAILED)
    return session.scalars(query.limit(1)).first() is not None


def start(session: Session, claim: Claim, method: str, *, key: str) -> bool:
    if not _note(session, claim, "method.started", method):
        return False
    _set(
        session,
        claim,
        method,
        state=MethodState.RUNNING,
        started_at=db_now(),
        done=0,
        total=0,
        cache_key=_of_owner(session, claim, key),
    )
    return True


def progress(
    session: Session, claim: Claim, method: str, *, done: int, total: int, partial: File | None = None
) -> bool:
    """Steps done of all; ``partial`` replaces the method's newest partial map, for people who watch."""
    data = {"done": done, "total": total}
    if partial is not None:
        data["partial"] = PARTIAL  # type: ignore[assignment]
    if not _note(session, claim, "method.progress", method, **data):
        return False
    if partial is not None:
        _replace_artifacts(session, claim, method, {PARTIAL: partial})
    _set(session, claim, method, done=done, total=total)
    return True


def finish(session: Session, claim: Claim, method: str, finished: Finished) -> bool:
    """Keep the method's artifacts and show it as succeeded."""
    if not _note(session, claim, "method.succeeded", method, seconds=round(finished.seconds, 3)):
        return False
    _replace_artifacts(session, claim, method, finished.files)
    _end(
        session,
        claim,
        method,
        MethodState.SUCCEEDED,
        quality=finished.quality,
        provenance=finished.provenance,
        seconds=finished.seconds,
        done=_steps,
        total=_steps,
    )
    return True


# A method that was too fast to tell of its steps has done its one.
_steps = case((Method.total > 0, Method.total), else_=1)


def fail(session: Session, claim: Claim, method: str, error: PawlensError, *, seconds: float) -> bool:
    """Show the method as failed; the job's other methods go on."""
    shown = error.as_job_error()
    if not _note(session, claim, "method.failed", method, error=shown):
        return False
    _replace_artifacts(session, claim, method, {})
    _end(session, claim, method, MethodState.FAILED, error=shown, seconds=seconds)
    return True


def reuse(session: Session, claim: Claim, method: str, *, key: str) -> bool | None:
    """Give the method the result of an equal one of the same owner, if there is one: its artifacts are the
    same blobs.

    None when there is no such result, False when the fence is down.
    """
    key = _of_owner(session, claim, key)
    found = session.scalars(
        select(Method)
        .where(Method.cache_key == key, Method.state == MethodState.SUCCEEDED, Method.name == method)
        .limit(1)
        # Its job is not deleted, nor its blobs, before this job refers to them as well (core.jobs.retention).
        .with_for_update(read=True, key_share=True)
    ).first()
    if found is None:
        return None
    if not _note(session, claim, "method.succeeded", method, cached=True, seconds=0.0):
        return False
    artifacts = session.scalars(
        select(Artifact).where(Artifact.job_id == found.job_id, Artifact.method == method)
    ).all()
    _insert_artifacts(
        session,
        claim,
        method,
        [(a.name, a.media_type, a.blob_sha256, a.size) for a in artifacts],
    )
    _end(
        session,
        claim,
        method,
        MethodState.SUCCEEDED,
        quality=found.quality,
        provenance=found.provenance,
        seconds=0.0,
        cached=True,
        cache_key=key,
        done=max(found.total, 1),
        total=max(found.total, 1),
    )
    return True


def _of_owner(session: Session, claim: Claim, key: str) -> str:
    """The key as the job's owner has it: an answer that is there at once would tell of another's picture.

    In the key and not beside it, so that the index finds one row however many owners have asked the same.
    """
    owner = session.scalar(select(Job.owner).where(Job.id == claim.job_id))
    return hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()


def _note(session: Session, claim: Claim, event: str, method: str, **data: Any) -> bool:
    return events.note(session, claim.job_id, claim.attempt, event, {"method": method, **data})


def _set(session: Session, claim: Claim, method: str, **values: Any) -> None:
    session.execute(
        update(Method)
        .where(Method.job_id == claim.job_id, Method.name == method)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _end(session: Session, claim: Claim, method: str, state: MethodState, **values: Any) -> None:
    _set(session, claim, method, state=state, finished_at=db_now(), **values)


def _replace_artifacts(session: Session, claim: Claim, method: str, files: Mapping[str, File]) -> None:
    session.execute(
        delete(Artifact)
        .where(Artifact.job_id == claim.job_id, Artifact.method == method)
        .execution_options(synchronize_session=False)
    )
    rows = [
        (name, file.media_type, store_blob(session, file.data), len(file.data))
        for name, file in files.items()
    ]
    _insert_artifacts(session, claim, method, rows)


def _insert_artifacts(
    session: Session, claim: Claim, method: str, rows: Sequence[tuple[str, str, str, int]]
) -> None:
    if rows:
        columns = ("name", "media_type", "blob_sha256", "size")
        base = {"job_id": claim.job_id, "method": method}
        session.execute(insert(Artifact), [base | dict(zip(columns, row, strict=True)) for row in rows])
