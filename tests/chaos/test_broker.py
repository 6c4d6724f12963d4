"""Valkey goes away, forgets, stops, stutters. It is away for a minute in the long soak."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path

import pytest

from core.broker import KEY_PREFIX
from core.jobs.states import JobState, Queue
from tests.chaos.clients import insisting
from tests.chaos.rest import at_rest, broker
from tests.end_to_end.test_jobs import post_many
from tests.processes import eventually, running

pytestmark = pytest.mark.service


def test_valkey_away_emptied_and_frozen_while_clients_post(folder: Path, sqlite_url: str) -> None:
    """They are refused nothing, and their results come as soon as it is back."""
    with running(folder, sqlite_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        with insisting(service) as seen:
            seen.goes_on()
            service.valkey.terminate()  # SIGKILL, and nothing of it was on disk
            time.sleep(3)
            assert service.http.get("/readyz").json()["status"] == "degraded"
            service.valkey.start()
            seen.goes_on()
            with broker(service) as client:
                client.flushall()
                server = int(client.info("server")["process_id"])
            os.kill(server, signal.SIGSTOP)  # connections stay open, and nobody answers
            time.sleep(6)  # longer than any socket waits
            os.kill(server, signal.SIGCONT)
            seen.goes_on()
        assert not seen.again
        assert at_rest(service, seen.accepted) == {JobState.SUCCEEDED: len(seen.accepted)}
        jobs = [service.http.get(f"/v1/jobs/{job_id}").json() for job_id in seen.accepted]
        assert {job["attempt"] for job in jobs} == {1}


def test_every_message_five_times_is_every_job_once(folder: Path, sqlite_url: str) -> None:
    with running(folder, sqlite_url, stand_in_seconds=0.02, max_batch=2) as service:
        eventually(service.workers, what="the API")
        ids = post_many(service, 40)
        queue = KEY_PREFIX + Queue.PREDICT
        with broker(service) as client:
            messages = eventually(lambda: client.lrange(queue, 0, -1), what="a hint")
            for message in messages:
                client.lpush(queue, *[message] * 4)
        for name in ("predict", "predict-2"):
            service.start_worker("predict", name)
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 40}
        jobs = [service.http.get(f"/v1/jobs/{job_id}").json() for job_id in ids]
        assert {job["attempt"] for job in jobs} == {1}


def test_messages_that_are_none(folder: Path, sqlite_url: str) -> None:
    """One would run a command, in an envelope that is right in all else: it is refused, the worker lives on.

    One is no envelope at all and ends a Celery worker; whoever restarts it finds the garbage gone.
    """
    with running(folder, sqlite_url) as service:
        eventually(service.workers, what="the API")
        ids = post_many(service, 5)
        queue, trace = KEY_PREFIX + Queue.PREDICT, folder / "executed"
        pickled = base64.b64encode(b"cos\nsystem\n(S'touch %s'\ntR." % str(trace).encode()).decode()
        with broker(service) as client:
            envelope = eventually(lambda: client.lindex(queue, 0), what="a hint")
            evil = json.loads(envelope) | {
                "body": pickled,
                "content-type": "application/x-python-serialize",
                "content-encoding": "binary",
            }
            client.rpush(queue, json.dumps(evil))  # the next to be taken
            process = service.start_worker("predict")
            assert at_rest(service, ids) == {JobState.SUCCEEDED: 5}
            assert "ContentDisallowed" in service.log("predict")
            assert process.poll() is None
            assert not trace.exists()
            client.lpush(queue, b"garbage")
        eventually(lambda: process.poll() is not None, what="the end of the worker")
        ids += post_many(service, 5)
        service.start_worker("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 10}


def test_what_nobody_knows_of_any_more_is_told_again(folder: Path, sqlite_url: str) -> None:
    """The API that told the workers is gone, and so is all that it told. There is the dispatcher."""
    with running(folder, sqlite_url) as service:
        eventually(service.workers, what="the API")
        ids = post_many(service, 5)
        service.terminate("api")
        with broker(service) as client:
            client.flushall()
        service.start_worker("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 5}
