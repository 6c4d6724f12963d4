"""The soak in short (``make chaos`` is the long one): three hundred jobs, and a kill every two seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from core.jobs.states import JobState
from tests.chaos import soak
from tests.chaos.__main__ import show

pytestmark = pytest.mark.service


def test_three_hundred_jobs_survive_everything(folder: Path, database_url: str) -> None:
    report = soak.run(folder, database_url, 300)
    show(report, Console(width=100))  # for whoever has to find out why it failed
    assert report.is_good
    assert report.ends == {JobState.SUCCEEDED: 300}
    kills = {row.fault: row for row in report.rows}
    assert kills["worker killed"].jobs > 0, "the kills hit nothing"
    assert kills["receiver answers 500"].times > 0
