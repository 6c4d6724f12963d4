"""Two hundred jobs, each canceled at some moment of its life: it has one end, whoever was first."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.jobs.states import JobState
from tests.chaos.rest import at_rest
from tests.processes import PHOTOS, running

pytestmark = pytest.mark.service

JOBS = 200


def test_cancels_at_random_moments_meet_every_state_and_leave_one_end(
    folder: Path, database_url: str
) -> None:
    with running(folder, database_url, "predict", stand_in_seconds=0.1, max_batch=8) as service:
        chance = random.Random(9)

        def post_and_cancel(pause: float) -> tuple[str, int, str]:
            job_id = service.post(PHOTOS[0])["id"]
            time.sleep(pause)
            answer = service.http.post(f"/v1/jobs/{job_id}/cancel")
            return job_id, answer.status_code, answer.json().get("status", "")

        with ThreadPoolExecutor(16) as pool:
            pauses = [chance.choice([0, 0.05, 0.3, 1]) * chance.random() for _ in range(JOBS)]
            answers = list(pool.map(post_and_cancel, pauses))
        ends = at_rest(service, [job_id for job_id, *_ in answers])
        said = Counter(status for _, status, _ in answers)
        assert set(said) <= {200, 202, 409}
        # Who was told that it is canceled finds it canceled, and who was refused finds a result.
        assert ends == {JobState.CANCELED: JOBS - said[409], JobState.SUCCEEDED: said[409]}
        assert min(ends.values()) > 0, "both were tried"
