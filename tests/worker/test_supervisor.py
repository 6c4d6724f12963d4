"""``pawlens up`` for real: every process of the service, with the engine that needs no network."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.settings import Settings
from tests.worker.test_processes import eventually, is_alive
from worker.preflight import listen
from worker.processes import Child
from worker.supervisor import Supervisor

PICTURE = Path(__file__).parents[1] / "examples" / "Bengal_43.jpg"
ROLES = ("valkey", "api", "predict", "explain", "io", "beat")


class Running:
    """A `pawlens up` process and what it has said so far."""

    def __init__(self, data: Path, *arguments: str, **environment: str) -> None:
        self.data = data
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "up", "--port", "0", "--data", str(data), *arguments],
            env=ours | {"PAWLENS_ENGINE": "stand-in"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.said += line

    def wait_until_it_says(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.poll() is None or re.search(pattern, self.said), self.said
            return re.search(pattern, self.said)

        try:
            eventually(found, within=100)
        except AssertionError as error:
            logs = [f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.data.glob("logs/*.log")]
            raise AssertionError("\n".join([f"{pattern!r} was not said", self.said, *logs])) from error
        match = re.search(pattern, self.said)
        assert match is not None
        return match

    @property
    def address(self) -> str:
        return self.wait_until_it_says(r"is ready at (http://\S+)")[1]

    def pid_of(self, role: str) -> int:
        return int(self.wait_until_it_says(rf"(?m)^{role} +ready .*\(pid (\d+),")[1])

    def descendants(self) -> set[int]:
        """Everything that it, or a child of it, has started and that still runs."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(120)
        self._reader.join()
        return code

    def remains(self) -> list[str]:
        return [name for name in ("up.lock", "valkey.sock") if (self.data / name).exists()]


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def run(*arguments: str, **environment: str) -> Running:
        started.append(Running(tmp_path / "data", *arguments, **environment))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


@pytest.mark.service
def test_up_repairs_itself_and_stops_without_a_trace(start: Start) -> None:
    running = start()
    address = running.address
    with httpx.Client(base_url=address, timeout=30) as client:
        assert client.get("/readyz").json()["status"] == "ok"
        with PICTURE.open("rb") as picture:
            job = client.post("/v1/jobs", files={"file": picture}).json()
        job = client.get(job["links"]["self"], params={"wait": 20}).json()
        assert job["status"] == "succeeded"

        # One that is killed is started again, the queue's server too; jobs go on.
        for role in ("predict", "valkey", "api"):
            os.kill(running.pid_of(role), signal.SIGKILL)
            running.wait_until_it_says(rf"(?m)^{role} +died +killed by SIGKILL")
        with PICTURE.open("rb") as picture:
            job = client.post("/v1/jobs", files={"file": picture}).json()
        eventually(lambda: client.get(job["links"]["self"]).json()["status"] == "succeeded", within=60)

    processes = running.descendants()
    assert len(processes) >= len(ROLES)
    assert running.end(signal.SIGINT) == 0
    assert [pid for pid in processes if is_alive(pid)] == []
    assert running.remains() == []
    assert "does not stop" not in running.said
    assert running.said.endswith("Stopped.\n")


@pytest.mark.service
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a child to its parent")
def test_a_killed_supervisor_takes_everything_along_and_the_next_start_works(start: Start) -> None:
    first = start()
    assert first.address
    processes = first.descendants()
    assert len(processes) >= len(ROLES)
    first.end(signal.SIGKILL)
    eventually(lambda: not [pid for pid in processes if is_alive(pid)])
    assert first.remains() == ["up.lock", "valkey.sock"]

    second = start()
    assert second.address
    # Stopped twice, it waits for nobody.
    second.process.send_signal(signal.SIGTERM)
    second.wait_until_it_says("Stopping")
    assert second.end(signal.SIGTERM) == 0
    assert second.remains() == []


@pytest.mark.service
def test_a_stop_while_starting_leaves_nothing(start: Start) -> None:
    running = start()
    running.wait_until_it_says("valkey +ready")
    assert running.end(signal.SIGHUP) == 0
    assert running.remains() == []


@pytest.mark.service
def test_up_refuses_a_data_directory_in_use(start: Start) -> None:
    first = start()
    first.wait_until_it_says("valkey +ready")
    second = start()
    assert second.process.wait(60) == 1
    eventually(lambda: f"(pid {first.process.pid}) already runs" in second.said)
    assert first.end(signal.SIGTERM) == 0


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[tuple[Supervisor, list[str]]]:
    """A supervisor with Valkey and migration, and one child of ours in place of all others."""
    said: list[str] = []
    with listen("127.0.0.1", 0) as listener:
        supervisor = Supervisor(Settings(data_dir=tmp_path, engine="stand-in"), listener, say=said.append)
        supervisor.workers = []
        supervisor.api = child_that(supervisor.api, "import time; time.sleep(600)")
        supervisor.address = "http://127.0.0.1:9"  # discard: nobody listens, which is known at once
        yield supervisor, said


def child_that(child: Child, code: str) -> Child:
    return Child(replace(child.program, command=[sys.executable, "-c", code], stop_seconds=0.5))


def test_a_child_that_cannot_start_ends_it_with_its_log(lone: tuple[Supervisor, list[str]]) -> None:
    supervisor, said = lone
    supervisor.beat = child_that(supervisor.beat, "raise SystemExit('the tank is empty')")
    assert supervisor.run() == 1
    assert sum(line.startswith("beat     died   exit code 1; starting it again") for line in said) == 4
    verdict = next(line for line in said if line.startswith("beat does not start"))
    assert "5 times in a row" in verdict
    assert verdict.endswith("\n".join(["the tank is empty"] * 5))
    assert not any(child.is_running for child in supervisor.children)


def test_a_process_that_cannot_be_made_now_is_made_later(
    lone: tuple[Supervisor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory ran out, of which the last one died."""
    monkeypatch.setattr("worker.processes.LONGEST_PAUSE_SECONDS", 0.2)
    supervisor, said = lone
    supervisor.beat = child_that(supervisor.beat, "import time; time.sleep(600)")
    popen, failures = (
        subprocess.Popen,
        [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")] * 2,
    )

    def popen_later(*given: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return popen(*given, **more)

    def kill_and_stop() -> None:
        try:
            eventually(lambda: supervisor.beat.pid, within=60)
            first = supervisor.beat.pid
            assert first is not None
            monkeypatch.setattr("worker.processes.subprocess.Popen", popen_later)
            os.kill(first, signal.SIGKILL)
            eventually(lambda: supervisor.beat.pid not in (None, first), within=60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=kill_and_stop)
    stopper.start()
    assert supervisor.run() == 0
    stopper.join()
    assert failures == []
    assert said.count("beat     cannot be started now: Resource temporarily unavailable") == 2


def test_a_child_that_ignores_sigterm_is_killed(lone: tuple[Supervisor, list[str]]) -> None:
    supervisor, said = lone
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    supervisor.beat = child_that(supervisor.beat, deaf)

    def stop_when_deaf() -> None:
        eventually(lambda: supervisor.beat.last_lines() == "deaf", within=60)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_deaf)
    stopper.start()
    assert supervisor.run() == 0
    stopper.join()
    assert any(re.match(r"beat +does not stop within", line) for line in said)
    assert not any(child.is_running for child in supervisor.children)


def test_logs_are_rotated_while_it_runs(
    lone: tuple[Supervisor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.processes.MAX_LOG_BYTES", 1000)
    monkeypatch.setattr("worker.supervisor.ROTATE_SECONDS", 0)
    supervisor, _ = lone
    talking = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.01)"
    supervisor.api = child_that(supervisor.api, talking)
    supervisor.beat = child_that(supervisor.beat, talking)
    supervisor.logs.mkdir()
    (supervisor.logs / "api.log.1").mkdir()  # in the way, so that this one cannot be put aside

    def stop_when_rotated() -> None:
        try:
            eventually((supervisor.logs / "beat.log.1").exists, within=60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_rotated)
    stopper.start()
    assert supervisor.run() == 0
    stopper.join()
    assert (supervisor.logs / "beat.log.1").stat().st_size > 1000


def test_with_a_redis_of_its_own_no_valkey_is_started(tmp_path: Path) -> None:
    said: list[str] = []
    settings = Settings(data_dir=tmp_path, engine="stand-in", redis_url="redis://127.0.0.1:9")
    with listen("127.0.0.1", 0) as listener:
        supervisor = Supervisor(settings, listener, say=said.append)
        supervisor.workers = []
        supervisor.address = "http://127.0.0.1:9"
        supervisor.api = child_that(supervisor.api, "import sys; sys.exit('no api')")
        supervisor.beat = child_that(supervisor.beat, "import time; time.sleep(600)")
        assert supervisor.run() == 1
    assert said[1] == "redis    named by PAWLENS_REDIS_URL"
    assert said[2].startswith("database ready  sqlite")
    assert not (tmp_path / "valkey").exists()


def test_a_database_that_cannot_be_migrated_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "pawlens.db").write_bytes(b"no database, but long enough for SQLite to look at it" * 20)
    with listen("127.0.0.1", 0) as listener:
        supervisor = Supervisor(Settings(data_dir=tmp_path, engine="stand-in"), listener, say=said.append)
        assert supervisor.run() == 1
    assert any("cannot be migrated" in line and "file is not a database" in line for line in said)
    assert not (tmp_path / "valkey.sock").exists()
