import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from worker.signals import SignalInbox, StopNow, StopRequested


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_is_raised_where_it_is_waited_for(number: int) -> None:
    with SignalInbox() as inbox:
        send(number)  # nothing happens here
        with pytest.raises(StopRequested):
            inbox.wait(60)


def test_a_second_request_while_stopping_means_now_but_a_hangup_does_not() -> None:
    with SignalInbox() as inbox:
        send(signal.SIGHUP)
        inbox.wait(60, stopping=True)
        send(signal.SIGINT)
        with pytest.raises(StopNow):
            inbox.wait(60, stopping=True)


def test_the_death_of_a_child_ends_the_wait() -> None:
    with SignalInbox() as inbox:
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        inbox.wait(60)
        assert child.wait(10) == 0


def test_the_time_passes_without_a_signal() -> None:
    with SignalInbox() as inbox:
        before = time.monotonic()
        inbox.wait(0.05)
        assert time.monotonic() - before >= 0.05


@pytest.fixture
def ctrl_c_as_usual() -> Iterator[None]:
    """A shell's job in the background begins with Ctrl-C ignored, and so would this one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_as_usual")
def test_everything_is_as_before_afterwards() -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    with SignalInbox():
        pass
    assert handlers == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    ]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
