import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core import keys
from core.database import Database
from core.settings import Settings
from worker.preflight import Refusal, check_exposure, check_weights, listen, prepare_data_dir, sole_owner

WEIGHTS = Path(__file__).parents[2] / "weights" / "resnet101-cat-dog.json"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_is_open(host: str) -> None:
    check_exposure(Settings(host=host))


OTHER_ADDRESSES = ["0.0.0.0", "::", "192.168.1.7", "pawlens.example"]


@pytest.mark.parametrize("host", OTHER_ADDRESSES)
def test_other_addresses_need_a_key_or_no_auth(host: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"pawlens keys create NAME.*--no-auth"):
        check_exposure(Settings(host=host, data_dir=tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []  # looking made nothing
    check_exposure(Settings(host=host, data_dir=tmp_path / "none", no_auth=True))


def test_a_key_in_force_is_enough(database_url: str) -> None:
    settings = Settings(host="0.0.0.0", database_url=database_url)
    database = Database(settings.database)
    with pytest.raises(Refusal, match="there is no API key"):
        check_exposure(settings)
    with database.write() as session:
        keys.create(session, "me")
    check_exposure(settings)
    with database.write() as session:
        keys.revoke(session, "me")
    with pytest.raises(Refusal, match="there is no API key"):
        check_exposure(settings)
    database.dispose()


def test_a_database_that_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is no database." * 100)
    for url in (f"sqlite:///{tmp_path / 'text.db'}", "postgresql://nobody@127.0.0.1:9/none"):
        with pytest.raises(Refusal, match=r"cannot be seen, because the database cannot be read \(.+\)"):
            check_exposure(Settings(host="0.0.0.0", database_url=url))


def test_the_shipped_weights_pass() -> None:
    check_weights(Settings(weights=WEIGHTS))


def test_missing_and_damaged_weights(tmp_path: Path) -> None:
    manifest = tmp_path / WEIGHTS.name
    settings = Settings(weights=manifest)
    with pytest.raises(Refusal, match="PAWLENS_WEIGHTS"):
        check_weights(settings)
    manifest.write_bytes(WEIGHTS.read_bytes())
    with pytest.raises(Refusal, match=r"cannot be read \(No such file"):
        check_weights(settings)
    (tmp_path / "resnet101-cat-dog.safetensors").write_bytes(b"half a download")
    with pytest.raises(Refusal, match="SHA-256 is wrong"):
        check_weights(settings)
    check_weights(Settings(weights=manifest, engine="stand-in"))


def test_the_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_data_dir(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    prepare_data_dir(folder)
    assert list(folder.iterdir()) == []


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for impossible in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refusal, match="cannot be written to"):
            prepare_data_dir(impossible)


HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from worker.preflight import sole_owner\n"
    "with sole_owner(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Refusal, match=rf"pid {holder.pid}\b"), sole_owner(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    with sole_owner(tmp_path):
        assert (tmp_path / "up.lock").read_text() == f"{os.getpid()}\n"


def test_a_killed_owner_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    assert (tmp_path / "up.lock").exists()
    with sole_owner(tmp_path):
        pass
    assert not (tmp_path / "up.lock").exists()


def test_a_port_in_use_is_refused_with_a_way_out() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refusal, match=rf"Port {port} .* in use.*--port {port + 1}"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


def test_a_just_used_port_is_free_again() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # this side closes first, and so keeps the connection in TIME_WAIT
    listen("127.0.0.1", port).close()


def test_addresses_that_are_not_ours() -> None:
    with pytest.raises(Refusal, match="not an address of this machine"):
        listen("192.0.2.1", 8000)  # TEST-NET-1 (RFC 5737): nobody's
    with pytest.raises(Refusal, match="not an address of this machine"):
        listen("pawlens.invalid", 8000)  # RFC 6761: never resolves
