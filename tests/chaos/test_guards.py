"""The suite fails when a guard of the protocol is taken out: its tests are run again without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.database import Database
from core.jobs.rescue import ready
from core.jobs.states import Queue
from core.settings import ROOT
from tests.api.conftest import serving, settings_for
from tests.chaos import faults, guards
from tests.processes import eventually

JOBS = "tests/core/jobs"

NOTICED_BY: dict[str, list[str]] = {
    "no-attempt-fence": [
        f"{JOBS}/test_fence.py::test_the_old_claim_writes_nothing[sqlite-succeed]",
        f"{JOBS}/test_fence.py::test_the_old_claim_writes_nothing[sqlite-succeed_all]",
        f"{JOBS}/test_fence.py::test_the_old_claim_writes_nothing[sqlite-fail]",
        f"{JOBS}/test_fence.py::test_the_picture_of_an_old_download_is_rolled_back[sqlite]",
        f"{JOBS}/test_machine.py::test_on_sqlite",
    ],
    "no-guarded-finish": [
        f"{JOBS}/test_results.py::test_a_running_job_is_canceled_when_its_worker_has_stopped[sqlite]",
        f"{JOBS}/test_machine.py::test_on_sqlite",
    ],
    "no-unique-delivery": [f"{JOBS}/test_webhooks.py::test_telling_again_adds_nothing[sqlite]"],
    "publish-before-commit": [
        "tests/worker/test_webhook_sender.py::test_a_hint_follows_the_commit_when_there_is_something_to_send"
    ],
    "hint-before-commit": ["tests/chaos/test_guards.py::test_a_hint_finds_its_job"],
    "process-clock": [f"{JOBS}/test_rescue.py::test_only_the_databases_clock_decides[sqlite]"],
}


def outcomes(tests: list[str], **environment: str) -> dict[str, str]:
    """How each of these tests ends in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found = re.findall(r"^(PASSED|FAILED) (\S+)", done.stdout, re.MULTILINE)
    assert {test for _, test in found} == set(tests), done.stdout + done.stderr
    return {test: outcome for outcome, test in found}


def test_every_removal_is_tried() -> None:
    assert set(NOTICED_BY) == set(guards.REMOVALS)


@pytest.mark.parametrize("guard", NOTICED_BY)
def test_without_it_its_tests_fail(guard: str, tmp_path: Path) -> None:
    """With all guards in place they pass: they are tests of this same suite."""
    ended = outcomes(NOTICED_BY[guard], **faults.environment(guard, tmp_path / "never"))
    assert set(ended.values()) == {"FAILED"}, ended


def test_a_hint_finds_its_job(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a worker is told that there is work, it is there: committed, for everybody to see."""
    found: list[int] = []
    looking = Database(sqlite_url)

    def look(_settings: object, queue: Queue, _count: int) -> None:
        with looking.read() as session:
            found.append(ready(session, queue, at_most=10))

    monkeypatch.setattr("api.hints.publish", look)
    with serving(settings_for(sqlite_url, tmp_path)) as api:
        api.post()
        eventually(lambda: found, what="the hint")
    looking.dispose()
    assert found == [1]
