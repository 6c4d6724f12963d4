"""All settings of the service, typed, in one place.

Sources, strongest first: environment variables ``PAWLENS_*``, then the YAML file (``PAWLENS_CONFIG``,
by default ``configs/service.yaml`` beside the code), then the defaults below. A key in the file that is
not listed here is an error. Processes started by ``pawlens up`` receive their settings as environment
variables, so that every process sees the same ones.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds ``configs``, ``weights`` and ``migrations``."""

MIB = 1 << 20


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PAWLENS_",
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # a URL has a password in it, and errors go into logs
    )

    # Where things are
    data_dir: Path = Path(".pawlens")
    database_url: str = ""  # empty: SQLite in the data directory
    redis_url: str = ""  # empty: the embedded Valkey's socket in the data directory
    weights: Path = ROOT / "weights" / "resnet101-cat-dog.json"

    # The network
    engine: Literal["resnet", "stand-in"] = "resnet"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    max_batch: Annotated[int, Field(ge=1, le=1024)] | None = None  # None: by free memory
    compile: bool = False  # with torch.compile, in the background; for GPUs
    stand_in_seconds: Annotated[float, Field(ge=0)] = 0  # what the stand-in engine takes for a batch

    # The job protocol, in seconds
    lease_seconds: Annotated[float, Field(gt=0)] = 60
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15
    rescue_seconds: Annotated[float, Field(gt=0)] = 5
    dispatch_seconds: Annotated[float, Field(gt=0)] = 2
    retry_seconds: Annotated[float, Field(ge=0)] = 2  # before a second attempt; doubles with each
    stop_seconds: Annotated[float, Field(gt=0)] = 30  # for a worker to finish what it has when told to stop
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    retention_days: Annotated[int, Field(ge=0)] = 7  # of jobs that have ended; 0 keeps them for ever

    # Limits at the door
    max_image_bytes: Annotated[int, Field(ge=1024)] = 20 * MIB
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * MIB  # base64 in JSON needs a third more
    max_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    max_batch_items: Annotated[int, Field(ge=1, le=30_000)] = 10_000  # a statement holds as many values
    max_batch_bytes: Annotated[int, Field(ge=1024)] = 1024 * MIB  # of a form, and of what its zip expands to
    fetch_timeout_seconds: Annotated[float, Field(gt=0)] = 30
    fetch_max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    fetch_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 15
    webhook_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    webhook_concurrency_per_receiver: Annotated[int, Field(ge=1)] = 2  # of one sender, to one host and port
    allow_private_network: bool = False  # development and tests only
    min_free_disk_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    rate_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = (
        None  # requests of a caller; None: any number
    )
    rate_burst: Annotated[int, Field(ge=1)] = 50  # at once
    max_connections: Annotated[int, Field(ge=1)] = 1000  # of clients, to one API process
    max_queue: Annotated[int, Field(ge=1)] = 100_000  # jobs that may wait in one queue

    # HTTP
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    no_auth: bool = False  # be open on any address while there is no API key
    cors_origins: Annotated[list[str], NoDecode] = []

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_on_commas(cls, value: Any) -> Any:
        return (
            [origin.strip() for origin in value.split(",") if origin.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send_them(cls, value: list[str]) -> list[str]:
        return [_origin(given) for given in value]

    @field_validator("database_url")
    @classmethod
    def _is_of_a_known_database(cls, value: str) -> str:
        if not value or _names_a_database(value):
            return value
        raise ValueError(
            "this is no database that Pawlens runs on; give sqlite:///path or postgresql://user@host/name"
        )

    @field_validator("redis_url")
    @classmethod
    def _is_of_a_redis(cls, value: str) -> str:
        if not value or _names_a_redis(value):
            return value
        raise ValueError(
            "this is no Redis that Pawlens speaks to; give redis://host:6379/0, rediss:// for TLS, or "
            "unix:///path/of.sock"
        )

    @field_validator("data_dir", "weights")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Absolute at once: a child process may have another working directory.
        return value.expanduser().resolve()

    @field_validator("heartbeat_seconds")
    @classmethod
    def _beats_within_the_lease(cls, value: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease_seconds")
        if lease is not None and value * 2 > lease:
            raise ValueError(
                f"must be at most half of lease_seconds ({lease:g}), so that one late beat loses nothing"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get("PAWLENS_CONFIG")
        if named and not Path(named).is_file():
            raise SettingsError(f"PAWLENS_CONFIG names {named}, and there is no such file.")
        config = Path(named or ROOT / "configs" / "service.yaml")
        return init_settings, env_settings, _SettingsFile(settings_cls, config, "utf-8")

    @cached_property
    def database(self) -> str:
        """SQLAlchemy URL of the database. PostgreSQL runs through psycopg 3 whatever the URL says."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir / 'pawlens.db'}"
        scheme, _, rest = self.database_url.partition("://")
        return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else self.database_url

    @cached_property
    def valkey_socket(self) -> Path:
        """Where ``pawlens up`` puts the embedded server's socket (a socket's path holds about 100 bytes)."""
        socket = self.data_dir / "valkey.sock"
        if len(os.fsencode(socket)) < 100:
            return socket
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(f"/tmp/pawlens-{os.getuid()}-{digest}/valkey.sock")  # noqa: S108 - the folder is made 0700

    @cached_property
    def redis(self) -> str:
        """redis-py URL of the message broker."""
        return self.redis_url or f"unix://{self.valkey_socket}"

    @property
    def silent_seconds(self) -> float:
        """A worker that missed three heartbeats counts as gone; one of this machine that died, at once."""
        return 3 * self.heartbeat_seconds

    @property
    def is_loopback(self) -> bool:
        """Whether the HTTP server is reachable from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def as_environment(self) -> dict[str, str]:
        """The settings as ``PAWLENS_*`` variables, for a child process that must see the same ones."""
        environment = {}
        for name, value in self.model_dump(mode="json").items():
            if value is not None and value != "":
                text = ",".join(value) if isinstance(value, list) else str(value)
                environment[f"PAWLENS_{name.upper()}"] = text
        return environment


class _SettingsFile(YamlConfigSettingsSource):
    """Says in a sentence what is wrong with a file that holds no settings at all."""

    def _read_file(self, path: Any) -> dict[str, Any]:
        try:
            given = super()._read_file(path)
        except UnicodeDecodeError as error:
            raise SettingsError(f"The settings file {path} is not UTF-8 text, which it must be.") from error
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise SettingsError(
                f"The settings file {path} must be a mapping from names to values, as in `port: 8000`."
            )
        return given


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _origin(given: str) -> str:
    """In the one form in which browsers send it and it is compared: in lower case, without a usual port."""
    parts = urlsplit(given.removesuffix("/").lower())
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host = port = None
    plain = f"{parts.scheme}://{parts.netloc}"
    if given == "*" or not host or not plain.isascii() or "@" in plain or parts.geturl() != plain:
        raise ValueError(
            "an origin is scheme://host or scheme://host:port, as in https://app.example.com, several are "
            "separated by commas, and * for all is none: name the pages that may call"
        )
    return plain.removesuffix(f":{port}") if port == _DEFAULT_PORTS.get(parts.scheme) else plain


def _names_a_redis(url: str) -> bool:
    parts = urlsplit(url)
    try:
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    if parts.scheme == "unix":
        return not parts.hostname and len(parts.path) > 1
    database = parts.path.strip("/")
    return parts.scheme in ("redis", "rediss") and has_place and (not database or database.isdecimal())


def _names_a_database(url: str) -> bool:
    from sqlalchemy import make_url  # noqa: PLC0415 - who keeps to the default does not wait for it here
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        return False
    if parts.drivername in ("sqlite", "sqlite+pysqlite"):
        return parts.host is None and bool(parts.database)  # sqlite://path would be a host
    return parts.drivername in ("postgres", "postgresql", "postgresql+psycopg")
