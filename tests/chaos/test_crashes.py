"""SIGKILL at exact moments. Kills in the middle of a batch are in tests/end_to_end/test_jobs.py."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import httpx
import pytest
from PIL import Image

from core.jobs.states import JobState
from tests.chaos.rest import at_rest, died, faulty
from tests.processes import PHOTOS, eventually, running

pytestmark = pytest.mark.service

MOMENTS = ("message-append", "after-claim", "mid-inference", "before-commit", "after-commit")
AROUND_THE_COMMIT = MOMENTS[-2:]
"""Where a database that is a server of its own sees something else than SQLite does."""


def test_a_worker_killed_at_any_moment_loses_and_doubles_nothing(folder: Path, database_url: str) -> None:
    """One worker after the other dies, each at a later moment of a job's way; the last one lives."""
    with running(folder, database_url, max_attempts=20) as service:
        eventually(service.workers, what="the API")
        ids = []
        for moment in MOMENTS if database_url.startswith("sqlite") else AROUND_THE_COMMIT:
            ids += [service.post(photo)["id"] for photo in PHOTOS[:4]]
            with faulty(service, moment) as happened:
                service.start_worker("predict", moment)
            died(service, moment)
            assert happened.exists(), f"it died before it came to {moment}"
        service.start_worker("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(ids)}
        attempts = [service.http.get(f"/v1/jobs/{job_id}").json()["attempt"] for job_id in ids]
        assert max(attempts) > 1, "the crashes hit nothing"


def test_an_api_killed_after_its_commit_has_made_one_job(folder: Path, sqlite_url: str) -> None:
    """Its client was told nothing, asks again with the same key, and gets the job that there is."""
    with running(folder, sqlite_url, "predict") as service:
        service.kill("api")
        with faulty(service, "api-after-commit") as happened:
            service.start("api")
            eventually(service.workers, what="the API")
        key = {"Idempotency-Key": "once"}
        upload = {"file": PHOTOS[0].read_bytes()}
        with pytest.raises(httpx.TransportError):
            service.http.post("/v1/jobs", files=upload, headers=key)
        died(service, "api")
        assert happened.exists()
        service.start("api")
        eventually(service.workers, what="the API")
        again = service.http.post("/v1/jobs", files=upload, headers=key)
        assert again.status_code in (200, 202), again.text
        assert at_rest(service, [again.json()["id"]]) == {JobState.SUCCEEDED: 1}


@pytest.mark.parametrize("max_batch", [64, 2])  # beside it in its batch, and in the batches before and after
def test_a_picture_that_aborts_its_process_fails_and_its_neighbours_do_not(
    folder: Path, sqlite_url: str, max_batch: int
) -> None:
    poison = io.BytesIO()
    Image.new("RGB", (8, 8), "purple").save(poison, "PNG")
    digest = hashlib.sha256(poison.getvalue()).hexdigest()
    with running(folder, sqlite_url, max_batch=max_batch) as service:
        eventually(service.workers, what="the API")
        ids = [service.post(photo)["id"] for photo in PHOTOS[:5]]
        deadly = service.http.post("/v1/jobs", files={"file": poison.getvalue()}).json()["id"]
        ids += [service.post(photo)["id"] for photo in PHOTOS[:8]]
        with faulty(service, "poison", CHAOS_POISON=digest):
            service.start_worker("predict")
        # A child that dies takes its task with it alone: the worker lives and starts another.
        assert at_rest(service, [*ids, deadly]) == {JobState.SUCCEEDED: 13, JobState.FAILED: 1}
        failed = service.http.get(f"/v1/jobs/{deadly}").json()
        assert (failed["error"]["code"], failed["attempt"]) == ("worker_lost", 3)
        assert max(service.http.get(f"/v1/jobs/{job_id}").json()["attempt"] for job_id in ids) <= 2
        assert service.processes["predict"].poll() is None


def test_a_crash_of_everything_at_once(folder: Path, sqlite_url: str) -> None:
    """As when the power fails: what was accepted is there, and ends when everything is started again."""
    with running(folder, sqlite_url, "predict", stand_in_seconds=0.5, max_batch=2) as service:
        ids = [service.post(photo)["id"] for photo in PHOTOS[:6]]
        for name in ("api", "predict", "beat"):
            service.kill(name)
        service.valkey.terminate()
        service.start_all("predict")
        assert at_rest(service, ids) == {JobState.SUCCEEDED: len(ids)}
