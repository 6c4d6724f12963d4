"""``pawlens keys`` on a database of its own, from nothing to a key that opens the service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from core import keys
from core.database import Database
from core.settings import Settings
from tests.api.conftest import serving, settings_for
from tests.api.key_holders import bearer
from tests.processes import eventually
from worker.preflight import check_exposure


def invoke(*arguments: str, data: Path, url: str = "") -> Result:
    environment = {"PAWLENS_DATA_DIR": str(data), "PAWLENS_DATABASE_URL": url}
    return CliRunner().invoke(app, ["keys", *arguments], env=environment)


def test_the_first_key_makes_the_database_and_lets_the_service_start(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    made = invoke("create", "me", data=folder)
    assert made.exit_code == 0, made.output
    assert re.fullmatch(r"pk_[\w-]{43}\n", made.stdout)  # alone, so that a script can take it
    assert "not be shown again" in made.stderr
    assert made.stdout.strip() not in made.stderr
    check_exposure(Settings(host="0.0.0.0", data_dir=folder))
    settings = settings_for("", folder, host="192.0.2.1")
    with serving(settings) as running:
        answer = running.http.get("/v1/jobs", headers=bearer(made.stdout.strip()))
        assert answer.status_code == 200


def test_a_secret_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    secret = invoke("create", "me", data=tmp_path).stdout.strip().removeprefix("pk_")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


def test_list_and_revoke(database_url: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> Result:
        result = invoke(*arguments, data=tmp_path, url=database_url)
        assert result.exit_code == 0, result.output
        return result

    secrets = [run("create", name).stdout.strip() for name in ("first", "second")]
    run("create", "slow", "--rate", "0.5")
    run("revoke", "first")
    listed = run("list").stdout
    header, first, second, slow = listed.splitlines()
    assert header.split() == ["id", "name", "rate", "created", "(UTC)", "last", "used", "revoked"]
    assert re.fullmatch(r"key_\w{32}  first .* never +\d{4}-\d\d-\d\d \d\d:\d\d", first)
    assert re.fullmatch(r"key_\w{32}  second .* never", second)
    assert " 0.5/s " in slow
    assert not [secret for secret in secrets if secret in listed or keys.digest(secret) in listed]
    assert run("revoke", second.split()[0]).stderr == ""
    assert "It was the last one" in run("revoke", "slow").stderr
    database = Database(Settings(database_url=database_url).database)
    with database.read() as session:
        assert keys.active(session) == []
    database.dispose()


def test_a_running_service_takes_a_new_key_and_drops_a_revoked_one(sqlite_url: str, tmp_path: Path) -> None:
    with serving(settings_for(sqlite_url, tmp_path)) as running:

        def status(secret: str) -> int:
            return running.http.get("/v1/jobs", headers=bearer(secret)).status_code

        invoke("create", "first", data=tmp_path, url=sqlite_url)
        second = invoke("create", "second", data=tmp_path, url=sqlite_url).stdout.strip()
        eventually(lambda: status("pk_wrong") == 401, what="a service that wants keys")
        assert status(second) == 200
        invoke("revoke", "second", data=tmp_path, url=sqlite_url)
        eventually(lambda: status(second) == 401, what="the end of the key")


@pytest.mark.parametrize("command", [("list",), ("revoke", "me")])
def test_nothing_is_made_by_looking(command: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke(*command, data=tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no database" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_old_database(tmp_path: Path) -> None:
    (tmp_path / "pawlens.db").touch()
    result = invoke("list", data=tmp_path)
    assert result.exit_code == 1
    assert "pawlens migrate" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create", "taken"), "There is a key 'taken' already."),
        (("create", "key_1"), "does not begin with key_"),
        (("create", "a\nb"), "printable"),
        (("revoke", "nobody"), "No key that is in force"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    invoke("create", "taken", data=tmp_path)
    result = invoke(*arguments, data=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["garbage", "mysql://x"])
def test_no_database_of_ours(tmp_path: Path, url: str) -> None:
    result = invoke("create", "me", data=tmp_path, url=url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Setting database_url (PAWLENS_DATABASE_URL): " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_rate_is_positive(tmp_path: Path) -> None:
    assert invoke("create", "me", "--rate", "0", data=tmp_path).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", ["inf", "1e999"])
def test_a_rate_is_a_number(tmp_path: Path, rate: str) -> None:
    result = invoke("create", "me", "--rate", rate, data=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "positive number of requests a second" in result.stderr
