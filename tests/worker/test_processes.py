import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from worker import processes
from worker.processes import Child, Program, last_lines, rotate, rotate_open

MakeChild = Callable[..., Child]


def eventually(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Wait for something that another process does; the limit only ends a test that has failed."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Zombies are dead: in a container nobody may ever collect them."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    made = []

    def make(code: str, name: str = "child") -> Child:
        program = Program(
            name, [sys.executable, "-c", code], tmp_path / "logs" / f"{name}.log", tmp_path, dict(os.environ)
        )
        made.append(Child(program))
        return made[-1]

    yield make
    for child in made:
        while child.is_running:
            child.kill()
            child.reap()


def log_of(child: Child) -> str:
    return child.program.log.read_text()


def reaped(child: Child) -> str:
    """Wait for the child's end, and say how it came."""
    deadline = time.monotonic() + 20
    while (how := child.reap()) is None:
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.01)
    return how


def test_output_of_both_kinds_goes_to_the_log_and_the_end_is_told(make_child: MakeChild) -> None:
    child = make_child("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    child.start()
    assert reaped(child) == "exit code 3"
    assert not child.is_running
    assert child.reap() is None
    assert set(child.last_lines().splitlines()) == {"out", "err"}


def test_a_signal_is_told_by_name(make_child: MakeChild) -> None:
    child = make_child("import os; os.kill(os.getpid(), 11)")
    child.start()
    assert reaped(child) == "killed by SIGSEGV"


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_steady_life(make_child: MakeChild) -> None:
    child = make_child("pass")
    pauses = []
    for _ in range(8):
        child.start()
        reaped(child)
        assert child.restart_at is not None
        pauses.append(child.restart_at - time.monotonic())
    # Each is what is left of the pause a moment after the death.
    for left, pause in zip(pauses, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10], strict=True):
        assert left <= pause
    assert pauses[6] > 6.4
    assert child.quick_deaths == 8

    child.start()
    child.started_at -= processes.STEADY_SECONDS
    reaped(child)
    assert child.quick_deaths == 1


def test_terminate_reaches_the_process_alone_and_kill_its_whole_session(make_child: MakeChild) -> None:
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(inner.pid, flush=True)\n"
        "time.sleep(600)"
    )
    child = make_child(stubborn)
    child.start()
    eventually(lambda: log_of(child).strip())
    inner = int(log_of(child))
    child.terminate()
    time.sleep(0.1)
    assert child.reap() is None
    assert is_alive(inner)

    child.kill()
    assert reaped(child) == "killed by SIGKILL"
    eventually(lambda: not is_alive(inner))


def test_what_a_dead_child_had_started_goes_with_it(make_child: MakeChild) -> None:
    child = make_child(
        "import subprocess, sys, os\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(inner.pid, flush=True)\n"
        "os.abort()"
    )
    child.start()
    assert reaped(child) == "killed by SIGABRT"
    inner = int(log_of(child).splitlines()[0])
    eventually(lambda: not is_alive(inner))


def test_ctrl_c_in_the_terminal_does_not_reach_a_child(make_child: MakeChild) -> None:
    child = make_child("import time; print('up', flush=True); time.sleep(600)")
    child.start()
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a child to its parent")
def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    parent = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from worker.processes import Child, Program\n"
        "folder = Path(sys.argv[1])\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = Child(Program('child', command, folder / 'child.log', folder, dict(os.environ)))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not is_alive(pid))


def test_a_large_log_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10)
    log = tmp_path / "a.log"
    rotate(log)  # none yet
    log.write_text("small")
    rotate(log)
    assert log.read_text() == "small"
    for text in ("first and large", "second and large"):
        log.write_text(text)
        rotate(log)
        assert not log.exists()
        assert (tmp_path / "a.log.1").read_text() == text


def test_a_log_is_rotated_while_its_process_writes(
    make_child: MakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 1000)
    child = make_child(
        "import itertools, time\n"
        "for number in itertools.count(): print(f'line {number:05}', flush=True); time.sleep(0.001)"
    )
    log = child.program.log
    rotate_open(log)  # none yet
    child.start()
    for _ in range(2):
        eventually(lambda: log.stat().st_size > 1000)
        rotate_open(log)
        aside = log.with_name(log.name + ".1").read_text().splitlines()
        assert len(aside) > 90
        eventually(lambda: log.stat().st_size >= 22)
        line = log_of(child).splitlines()[0]
        # At the beginning of the file, where an old offset would have left a hole.
        assert re.fullmatch(r"line \d{5}", line)
        assert int(aside[-1][5:]) < int(line[5:])
    small = log.stat().st_size
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10 << 20)
    rotate_open(log)
    assert log.stat().st_size >= small


def test_last_lines_go_back_beyond_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.with_name("a.log.1").write_text("first\nsecond\n")
    log.write_text("third\n")
    assert last_lines(log, 2) == "second\nthird"
    assert last_lines(log, 1) == "third"
    log.write_text("")
    assert last_lines(log, 9) == "first\nsecond"


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert "No such file" in last_lines(log, 3)
    log.write_bytes(b"\xff\n" + b"\n".join(b"line %d" % n for n in range(100_000)))
    assert last_lines(log, 2) == "line 99998\nline 99999"
