import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.settings import Settings
from tests.worker.test_processes import eventually, is_alive, reaped
from worker.preflight import Refusal
from worker.valkey import ValkeyChild


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def valkey(settings: Settings) -> Iterator[ValkeyChild]:
    child = ValkeyChild(settings)
    yield child
    while child.is_running:
        child.kill()
        child.reap()
    child.clean_up()


def test_it_serves_a_private_socket_and_keeps_its_data(settings: Settings, valkey: ValkeyChild) -> None:
    for value in ("first", "second"):
        assert not valkey.adopt()
        valkey.start()
        eventually(valkey.answers)
        assert stat.S_IMODE(valkey.socket.stat().st_mode) == 0o700
        with redis.Redis.from_url(settings.redis) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            before = client.get("key")
            assert before == (None if value == "first" else b"first")
            client.set("key", value)
        valkey.terminate()
        assert reaped(valkey) == "exit code 0"
        valkey.clean_up()
        assert not valkey.socket.exists()


def test_a_server_that_outlived_its_owner_is_adopted_and_stopped(
    settings: Settings, valkey: ValkeyChild
) -> None:
    # Started as by a supervisor on a system that does not bind children to their parent's life.
    owner = (
        "import sys, time\n"
        "from worker import processes\n"
        "processes._bound_to_parent = lambda: None\n"
        "from core.settings import Settings\n"
        "from worker.valkey import ValkeyChild\n"
        "valkey = ValkeyChild(Settings(data_dir=sys.argv[1]))\n"
        "valkey.start()\n"
        "while not valkey.answers(): time.sleep(0.01)\n"
        "print(valkey.pid, flush=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", owner, str(settings.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    assert is_alive(pid)
    with redis.Redis.from_url(settings.redis) as client:
        client.set("hint", "still here")

    assert valkey.adopt()
    assert valkey.pid == pid
    assert valkey.is_running
    assert valkey.reap() is None
    with redis.Redis.from_url(settings.redis) as client:
        assert client.get("hint") == b"still here"
    valkey.terminate()
    assert reaped(valkey) == "gone"
    eventually(lambda: not is_alive(pid))

    # It is replaced like any child that died.
    assert valkey.restart_at is not None
    valkey.start()
    eventually(valkey.answers)
    with redis.Redis.from_url(settings.redis) as client:
        assert client.get("hint") == b"still here"


def test_the_socket_of_a_killed_server_is_no_obstacle_and_is_removed(valkey: ValkeyChild) -> None:
    valkey.start()
    eventually(valkey.answers)
    valkey.kill()
    assert reaped(valkey) == "killed by SIGKILL"
    assert valkey.socket.exists()
    assert not valkey.adopt()
    valkey.start()
    eventually(valkey.answers)
    valkey.kill()
    reaped(valkey)
    valkey.clean_up()
    assert not valkey.socket.exists()


def test_something_else_on_the_socket_is_refused_and_left_alone(valkey: ValkeyChild) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(str(valkey.socket))
        stranger.listen()
        with pytest.raises(Refusal, match="does not answer"):
            valkey.adopt()
        valkey.clean_up()
        assert valkey.socket.exists()


def test_a_deep_data_directory_gets_a_short_private_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    valkey = ValkeyChild(Settings(data_dir=deep))
    folder = valkey.socket.parent
    try:
        valkey.start()
        eventually(valkey.answers)
        assert folder != deep
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        while valkey.is_running:
            valkey.kill()
            valkey.reap()
        valkey.clean_up()
    assert not folder.exists()
