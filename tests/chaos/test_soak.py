"""The soak in short (``make chaos`` is the long one): two hundred jobs, and a kill every two seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from core.jobs.states import JobState
from tests.chaos import soak
from tests.chaos.__main__ import show

pytestmark = pytest.mark.service


def test_two_hundred_jobs_survive_everything(folder: Path, database_url: str) -> None:
    report = soak.run(folder, database_url, 200)
    show(report, Console(width=100))  # for whoever has to find out why it failed
    assert report.is_good
    assert report.ends == {JobState.SUCCEEDED: 200}
    # Which of the faults meets a job within the few seconds is chance; that one of many does is not.
    assert sum(row.times for row in report.rows) > 0, "there was no fault"
    assert sum(row.jobs for row in report.rows) > 0, "the faults met no job"
