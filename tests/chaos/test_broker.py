"""Valkey forgets, stops, stutters. That it is away while jobs are posted: tests/end_to_end/test_jobs.py."""

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
from tests.chaos.rest import at_rest, broker
from tests.end_to_end.test_jobs import post_many
from tests.processes import eventually, running

pytestmark = pytest.mark.service


def test_valkey_killed_emptied_and_frozen_while_jobs_run(folder: Path, sqlite_url: str) -> None:
    with running(folder, sqlite_url, "predict", stand_in_seconds=0.2, max_batch=4) as service:
        ids = post_many(service, 60)
        service.valkey.terminate()  # SIGKILL, and nothing of it was on disk
        ids += post_many(service, 20)
        service.valkey.start()
        ids += post_many(service, 60)
        with broker(service) as client:
            client.flushall()
            server = int(client.info("server")["process_id"])
        os.kill(server, signal.SIGSTOP)  # connections stay open, and nobody answers
        ids += post_many(service, 60)
        time.sleep(6)  # longer than any socket waits
        os.kill(server, signal.SIGCONT)
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 200}
        # One that has just come is not kept waiting by what went before.
        assert service.wait(post_many(service, 1)[0], seconds=20)["attempt"] == 1


def test_every_message_five_times_is_every_job_once(folder: Path, sqlite_url: str) -> None:
    with running(folder, sqlite_url, stand_in_seconds=0.02, max_batch=2) as service:
        eventually(service.workers, what="the API")
        ids = post_many(service, 40)
        queue = KEY_PREFIX + Queue.PREDICT
        with broker(service) as client:
            messages = client.lrange(queue, 0, -1)
            assert messages
            for message in messages:
                client.lpush(queue, *[message] * 4)
        for name in ("predict", "predict-2"):
            service.start_worker("predict", name)
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 40}
        jobs = [service.http.get(f"/v1/jobs/{job_id}").json() for job_id in ids]
        assert {job["attempt"] for job in jobs} == {1}


def test_a_pickled_message_is_refused(folder: Path, sqlite_url: str) -> None:
    """It would run a command, in an envelope that is right in all else. The worker lives on."""
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
        service.start_worker("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 5}
        assert "ContentDisallowed" in service.log("predict")
        assert service.processes["predict"].poll() is None
        assert not trace.exists()


def test_garbage_in_the_list_costs_a_restart_and_no_job(folder: Path, sqlite_url: str) -> None:
    """What is no envelope at all ends a Celery worker; whoever restarts it finds the garbage gone."""
    with running(folder, sqlite_url, "predict") as service:
        with broker(service) as client:
            client.lpush(KEY_PREFIX + Queue.PREDICT, b"garbage")
        process = service.processes["predict"]
        eventually(lambda: process.poll() is not None, what="the end of the worker")
        ids = post_many(service, 5)
        service.start_worker("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: 5}
