"""What must hold of the database whatever happened: read after every fault, straight from the tables.

Each check yields a sentence for every row that breaks it. :func:`check` is for a service at rest, where every
job has ended; :func:`violations` with ``at_rest=False`` also fits one that is at work.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import Database
from core.jobs.states import FINAL, LEASED, MOVES, BatchState, DeliveryState, JobState, MethodState
from core.jobs.tables import (
    Artifact,
    Batch,
    Blob,
    Event,
    Image,
    Job,
    Method,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

ENDS = {f"job.{state}" for state in FINAL}
BATCH_ENDS = {f"batch.{state}" for state in BatchState if state is not BatchState.RUNNING}
ENDED_METHODS = set(MethodState) - {MethodState.QUEUED, MethodState.RUNNING}


def check(database: Database, accepted: Collection[str] = (), *, at_rest: bool = True) -> None:
    """Fail with all violations. ``accepted`` are ids of jobs that some client was told of."""
    found = violations(database, accepted, at_rest=at_rest)
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:20])


def violations(database: Database, accepted: Collection[str] = (), *, at_rest: bool = True) -> list[str]:
    with database.read() as session:
        logs = _logs(session)
        jobs = session.scalars(select(Job)).all()
        found = [f"{job_id} was accepted and is gone" for job_id in set(accepted) - {job.id for job in jobs}]
        for job in jobs:
            log = logs.pop(job.id, [])
            found += [f"{job.id} ({job.state}): {what}" for what in _of_job(job, log, at_rest=at_rest)]
        found += _of_batches(session, jobs, logs, at_rest=at_rest)
        found += [f"events of {subject}, which is gone" for subject in logs]
        found += _of_methods(session, jobs)
        found += _of_deliveries(session, jobs)
        found += _of_blobs(session)
    return found


def _logs(session: Session) -> dict[str, list[Any]]:
    logs: dict[str, list[Any]] = defaultdict(list)
    columns = (Event.subject_id, Event.seq, Event.type, Event.data)
    for event in session.execute(select(*columns).order_by(Event.subject_id, Event.seq)):
        logs[event.subject_id].append(event)
    return dict(logs)


def _of_job(job: Job, log: list[Any], *, at_rest: bool) -> Iterator[str]:
    if at_rest and not job.state.is_final:
        yield "it has not ended"
    if job.state.is_final != (job.finished_at is not None):
        yield "finished_at belongs to final states alone"
    if job.lease_until is not None and job.state not in LEASED:
        yield "it has a lease that nobody can hold"
    if job.attempt > job.max_attempts:
        yield f"attempt {job.attempt} of {job.max_attempts}"
    if [event.seq for event in log] != list(range(1, job.event_seq + 1)):
        yield f"events {[event.seq for event in log]} are not 1 to {job.event_seq}"
    yield from _of_history(job, log)
    yield from _of_result(job, log)


def _of_history(job: Job, log: list[Any]) -> Iterator[str]:
    """The states in the log are a path through the state machine, which ends where the job stands."""
    states = [JobState(event.data["status"]) for event in log if "status" in event.data]
    for before, after in pairwise(states):
        if after not in MOVES.get(before, frozenset()):
            yield f"it went from {before} to {after}"
    if not states or states[-1] is not job.state:
        yield f"its log ends in {states[-1] if states else 'nothing'}"
    starts = [event.data["attempt"] for event in log if event.type == "job.started"]
    if starts != list(range(1, len(starts) + 1)):
        yield f"its attempts were {starts}"
    if starts and starts[-1] != job.attempt:
        yield f"attempt is {job.attempt}, and it was started {len(starts)} times"


def _of_result(job: Job, log: list[Any]) -> Iterator[str]:
    ends = [event for event in log if event.type in ENDS]
    if len(ends) != job.state.is_final:
        yield f"it has ended {len(ends)} times"
    if ends and ends[-1] is not log[-1]:
        yield f"{log[-1].type} after its end"
    if job.state in (JobState.SUCCEEDED, JobState.PARTIAL):
        if job.prediction is None or job.error is not None:
            yield "a result is a prediction and no error"
        if ends and ends[-1].data.get("prediction") != job.prediction:
            yield "its log tells of another result"
    if job.state in (JobState.FAILED, JobState.EXPIRED) and job.error is None:
        yield "it does not say why"


def _of_batches(
    session: Session, jobs: Collection[Job], logs: dict[str, list[Any]], *, at_rest: bool
) -> Iterator[str]:
    theirs: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.batch_id is not None:
            theirs[job.batch_id].append(job)
    for batch in session.scalars(select(Batch)):
        for what in _of_batch(batch, theirs[batch.id], logs.pop(batch.id, []), at_rest=at_rest):
            yield f"{batch.id} ({batch.state}): {what}"


def _of_batch(batch: Batch, jobs: list[Job], log: list[Any], *, at_rest: bool) -> Iterator[str]:
    if [event.seq for event in log] != list(range(1, batch.event_seq + 1)):
        yield f"events {[event.seq for event in log]} are not 1 to {batch.event_seq}"
    ended = batch.state is not BatchState.RUNNING
    if at_rest and not ended:
        yield "it has not ended"
    if ended != (batch.finished_at is not None):
        yield "finished_at belongs to final states alone"
    if ended != all(job.state.is_final for job in jobs):
        yield "it ends with the last of its jobs"
    if [event.type for event in log if event.type in BATCH_ENDS] != [f"batch.{batch.state}"] * ended:
        yield f"its log tells of the ends {[event.type for event in log if event.type in BATCH_ENDS]}"
    totals = {sum(event.data["counts"].values()) for event in log if "counts" in event.data}
    if len(totals) != 1 or max(totals) < len(jobs) or (not ended and totals != {len(jobs)}):
        yield f"its counts add up to {totals}, and it has {len(jobs)} jobs"
    told = log[-1].data["counts"] if log else {}
    there = Counter(str(job.state) for job in jobs)
    # Of a batch that has ended, single jobs may have been deleted since.
    if ended and any(there[state] > told.get(state, 0) for state in there):
        yield f"it was told to have {told}, and has {dict(there)}"
    refused = sum(job.image_sha256 is None and job.source_url is None for job in jobs)
    if refused > batch.rejected or (totals == {len(jobs)} and refused != batch.rejected):
        yield f"{refused} of its jobs were refused, not {batch.rejected}"


def _of_methods(session: Session, jobs: Collection[Job]) -> Iterator[str]:
    final = {job.id for job in jobs if job.state.is_final}
    states: dict[tuple[str, str], MethodState] = {}
    for method in session.execute(select(Method.job_id, Method.name, Method.state)):
        states[method.job_id, method.name] = method.state
        if method.job_id in final and method.state not in ENDED_METHODS:
            yield f"{method.job_id} has ended and its {method.name} has not"
    for made in session.execute(select(Artifact.job_id, Artifact.method).distinct()):
        state = states.get((made.job_id, made.method))
        if state in (None, MethodState.FAILED, MethodState.SKIPPED):
            yield f"{made.job_id} has artifacts of its {made.method}, which is {state}"


def _of_deliveries(session: Session, jobs: Collection[Job]) -> Iterator[str]:
    """Whoever wants to hear of an end has one delivery of it, and of nothing that has not happened."""
    written: Counter[tuple[str, str, int]] = Counter()
    subjects = {job.id: job for job in jobs}
    for delivery in session.scalars(select(WebhookDelivery)):
        written[delivery.target, delivery.subject_id, delivery.event_seq] += 1
        job = subjects.get(delivery.subject_id)
        if job is not None and (delivery.event_seq, delivery.event_type) != (
            job.event_seq,
            f"job.{job.state}",
        ):
            yield f"{delivery.id} tells of {delivery.event_type}, and {job.id} is {job.state}"
        if delivery.state is not DeliveryState.PENDING and delivery.lease_until is not None:
            yield f"{delivery.id} is {delivery.state} and under a lease"
    yield from (f"{key} is delivered {count} times" for key, count in written.items() if count > 1)
    everyones = session.scalars(
        select(WebhookEndpoint).where(WebhookEndpoint.disabled_at.is_(None), WebhookEndpoint.url != "")
    ).all()
    last_made = max((endpoint.created_at for endpoint in everyones), default=None)
    for job in (job for job in jobs if job.state.is_final):
        targets = [job.webhook_url] if job.webhook_url and _wants(job.webhook_events, job) else []
        if last_made is not None and job.finished_at is not None and job.finished_at > last_made:
            targets += [
                endpoint.id
                for endpoint in everyones
                if endpoint.owner == job.owner
                and (_wants(endpoint.events, job) if endpoint.events else job.batch_id is None)
            ]
        for target in targets:
            if (target, job.id, job.event_seq) not in written:
                yield f"{target} is not told that {job.id} is {job.state}"
    delivered = select(WebhookDelivery.id).where(WebhookDelivery.state == DeliveryState.DELIVERED)
    proven = select(WebhookAttempt.delivery_id).where(WebhookAttempt.status_code.between(200, 299))
    for unproven in session.scalars(delivered.where(WebhookDelivery.id.not_in(proven))):
        yield f"{unproven} is delivered and nobody has answered"


def _wants(events: list[str] | None, job: Job) -> bool:
    return events is None or f"job.{job.state}" in events


def _of_blobs(session: Session) -> Iterator[str]:
    """What is stored is what its digest says, and what is referred to is stored."""
    for table, column in ((Image, Image.sha256), (Artifact, Artifact.blob_sha256)):
        missing = select(column).where(column.not_in(select(Blob.sha256))).distinct()
        yield from (f"{table.__tablename__}: {digest} is not stored" for digest in session.scalars(missing))
    lost = select(Job.id).where(Job.image_sha256.is_not(None), Job.image_sha256.not_in(select(Image.sha256)))
    yield from (f"{job_id}: its picture is not stored" for job_id in session.scalars(lost))
    for blob in session.scalars(select(Blob).execution_options(yield_per=50)):
        if hashlib.sha256(blob.data).hexdigest() != blob.sha256 or len(blob.data) != blob.size:
            yield f"the bytes of {blob.sha256} are others"


def counts(database: Database) -> Counter[JobState]:
    """How many jobs are in each state."""
    with database.read() as session:
        return Counter(session.scalars(select(Job.state)))
