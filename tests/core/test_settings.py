from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from core.settings import ROOT, Settings


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration file, and none of the machine's own variables."""
    for name in list(os.environ):
        if name.startswith("PAWLENS_"):
            monkeypatch.delenv(name)
    file = tmp_path / "service.yaml"
    file.write_text("")
    monkeypatch.setenv("PAWLENS_CONFIG", str(file))
    return file


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (Settings().max_attempts, Settings().port) == (3, 8000)
    config.write_text("max_attempts: 5\nport: 9000\n")
    monkeypatch.setenv("PAWLENS_PORT", "9001")
    settings = Settings()
    assert (settings.max_attempts, settings.port, settings.lease_seconds) == (5, 9001, 60)
    assert Settings(port=9002).port == 9002


def test_the_file_that_comes_with_the_service_says_what_the_defaults_are(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Settings().model_dump()
    monkeypatch.setenv("PAWLENS_CONFIG", str(ROOT / "configs" / "service.yaml"))
    assert Settings().model_dump() == bare


def test_an_unknown_key_in_the_file_is_refused(config: Path) -> None:
    config.write_text("max_atempts: 5\n")
    with pytest.raises(ValidationError, match="max_atempts"):
        Settings()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"- port: 1\n", "must be a mapping from names to values"),
        (b"port\n", "must be a mapping from names to values"),
        (b"8000: port\n", "must be a mapping from names to values"),
        ("host: Büro\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_a_file_of_another_form_is_refused(config: Path, written: bytes, sentence: str) -> None:
    config.write_bytes(written)
    with pytest.raises(SettingsError, match=rf"{config} {sentence}"):
        Settings()


@pytest.mark.parametrize(
    "url",
    [
        "garbage",
        "mysql://secret@h/d",
        "sqlite://",
        "sqlite://pawlens.db",
        "postgresql://u:secret@h:port/d",
        "postgresql+asyncpg://u:secret@h/d",
    ],
)
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"sqlite:///path or postgresql://user@host/name") as refused:
        Settings(database_url=url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_SECONDS", "0"),
        ("MAX_ATTEMPTS", "many"),
        ("PORT", "70000"),
        ("ENGINE", "pretend"),
        ("RATE_PER_SECOND", "inf"),
        ("RATE_PER_SECOND", "nan"),
        ("HEARTBEAT_SECONDS", "31"),  # more than half of the lease
    ],
)
def test_a_value_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"PAWLENS_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://a.example", ["https://a.example"]),
        ("https://a.example/, http://B.example:8080", ["https://a.example", "http://b.example:8080"]),
        ("HTTPS://A.example:443", ["https://a.example"]),
        ("http://[::1]:3000", ["http://[::1]:3000"]),
        ("http://a.example:443", ["http://a.example:443"]),
        ("capacitor://localhost", ["capacitor://localhost"]),
        ("", []),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(
    monkeypatch: pytest.MonkeyPatch, given: str, kept: list[str]
) -> None:
    monkeypatch.setenv("PAWLENS_CORS_ORIGINS", given)
    assert Settings().cors_origins == kept


@pytest.mark.parametrize(
    "given",
    [
        *(
            "*",
            "null",
            "a.example",
            "a.example:80",
            "//a.example",
            "https://",
            "https:///",
            "https://a.example/x",
        ),
        *("https://a.example?b", "https://a.example#c", "https://me@a.example"),
        *("https://a.example:port", "https://bücher.example", "https://a.example//", "https://*.example, *"),
    ],
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"scheme://host:port.*\* for all is none"):
        Settings(cors_origins=given.split(", "))


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "redis://h:6379/0", "redis://:secret@h:6379/0", "redis://u:secret@[::1]:6379"),
        *(
            "rediss://:secret@h:6380/0?ssl_cert_reqs=required",
            "unix://u:secret@/run/valkey.sock",
            "unix:///run/v.sock?db=1",
        ),
    ],
)
def test_a_redis_by_its_url(url: str) -> None:
    assert Settings(redis_url=url).redis == url


@pytest.mark.parametrize(
    "url",
    [
        *("garbage", "h:6379", "localhost", "http://:secret@h:6379", "redis://", "redis://:secret@:6379"),
        *(
            "redis://:secret@h:port/0",
            "redis://:secret@h/zero",
            "redis:/h",
            "unix://run/valkey.sock",
            "unix:///",
        ),
        "amqp://u:secret@h",
    ],
)
def test_a_broker_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"redis://host:6379/0.*unix:///path") as refused:
        Settings(redis_url=url)
    assert "secret" not in str(refused.value)


def test_a_child_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        data_dir=tmp_path / "with a space",
        database_url="postgresql://u:p%40ss@host/db",
        lease_seconds=7.5,
        heartbeat_seconds=0.25,
        threads=3,
        allow_private_network=True,
        cors_origins=["https://a.example", "https://b.example"],
        log_format="text",
    )
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_paths_do_not_depend_on_a_childs_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=Path("data"), weights=Path("~/weights.json"))
    assert settings.data_dir == tmp_path / "data"
    assert settings.weights == Path.home() / "weights.json"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h:5432/d?sslmode=require", "postgresql+psycopg://u:p@h:5432/d?sslmode=require"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql+psycopg:///d?host=/run/postgresql"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_postgresql_runs_through_psycopg_3_whatever_the_url_says(given: str, used: str) -> None:
    assert Settings(database_url=given).database == used


def test_without_urls_everything_is_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/pawlens.db"
    assert settings.redis == f"unix://{tmp_path}/valkey.sock"
    assert Settings(redis_url="redis://cache:6379/1").redis == "redis://cache:6379/1"


def test_a_deep_data_directory_gets_a_short_socket_path_of_its_own(tmp_path: Path) -> None:
    deep, other = tmp_path / ("d" * 120), tmp_path / ("e" * 120)
    socket = Settings(data_dir=deep).valkey_socket
    assert len(os.fsencode(socket)) < 100
    assert socket == Settings(data_dir=deep).valkey_socket
    assert socket != Settings(data_dir=other).valkey_socket
    assert Settings(data_dir=Path("/tmp/x")).valkey_socket == Path("/tmp/x/valkey.sock")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("pawlens.example", False),
    ],
)
def test_who_can_reach_it(host: str, loopback: bool) -> None:
    assert Settings(host=host).is_loopback is loopback
