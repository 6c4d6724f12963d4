"""``docker-compose.yml`` as Compose reads it: YAML with merge keys, then interpolation.

https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md; of its forms, those that the file
uses. Any other is an error, so that nothing is taken for something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"

Document = dict[str, Any]
SECRETS = {"POSTGRES_PASSWORD": "b6e1d3f0a2c4", "REDIS_PASSWORD": "90ac73be15d8"}

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^{}]*))?\}|(?P<other>))"
)


class NotSet(Exception):
    """A variable has no value and the file demands one; the message is the file's own."""


def load(variables: Mapping[str, str]) -> Document:
    """The whole document, interpolated with these variables and no others."""
    document: Document = _interpolated(yaml.safe_load(COMPOSE_FILE.read_text()), variables)
    return document


def variables() -> set[str]:
    """The names of all variables that the file reads."""
    text = COMPOSE_FILE.read_text()
    named = {found["name"] for found in _VARIABLE.finditer(text) if found["name"]}
    passed_on = {
        name
        for service in load(SECRETS)["services"].values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    return named | passed_on


def environment_of(service: Document, variables: Mapping[str, str]) -> dict[str, str]:
    """A container's own environment. A name without a value takes the variable's, if there is one."""
    environment = {}
    for name, value in service.get("environment", {}).items():
        if value is not None:
            environment[name] = str(value)
        elif name in variables:
            environment[name] = variables[name]
    return environment


def start_order(services: Mapping[str, Document]) -> list[str]:
    """The services' names, each behind those that it depends on."""
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    return list(TopologicalSorter(needs).static_order())


def seconds(duration: str) -> float:
    """``1m30s`` -> 90.0"""
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)


def _interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_interpolated(value, variables) for value in node]
    return _VARIABLE.sub(lambda found: _value(found, variables), node) if isinstance(node, str) else node


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["escaped"]:
        return "$"
    if found["name"] is None:
        raise ValueError(f"a form of interpolation that is not known here: {found.string}")
    value = variables.get(found["name"], "")
    if value:
        return value
    if found["kind"] == "?":
        raise NotSet(found["text"])
    return found["text"] or ""
