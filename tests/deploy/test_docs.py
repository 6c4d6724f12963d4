"""docs/deploy.md names what is there: its YAML parses, its commands and metrics exist."""

from __future__ import annotations

import re
from typing import Any

import yaml

from api.metrics import Metrics
from core.database import Database
from core.jobs.states import Queue
from core.settings import Settings
from tests.deploy.compose_file import ROOT

TEXT = (ROOT / "docs" / "deploy.md").read_text()


class Loader(yaml.SafeLoader):
    """Knows Compose's ``!override``, which replaces a list instead of adding to it."""


def _list(loader: Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


Loader.add_constructor("!override", _list)


def blocks() -> list[Any]:
    return [yaml.load(block, Loader) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


def values(node: Any, key: str) -> list[Any]:
    """Everything that stands under ``key``, however deep."""
    if isinstance(node, list):
        return [value for child in node for value in values(child, key)]
    if isinstance(node, dict):
        own = [node[key]] if key in node else []
        return own + [value for child in node.values() for value in values(child, key)]
    return []


def test_its_yaml_parses_and_names_real_commands() -> None:
    assert len(blocks()) >= 7
    commands = [command for block in blocks() for command in values(block, "command")]
    assert [*("pawlens", "worker", Queue.EXPLAIN)] in commands
    assert [*("python", "-m", "worker.health", Queue.EXPLAIN)] in commands


def test_its_settings_are_settings() -> None:
    known = {f"PAWLENS_{field.upper()}" for field in Settings.model_fields}
    compose = {"PAWLENS_PUBLISH", "PAWLENS_TAG"}
    assert set(re.findall(r"PAWLENS_[A-Z_]+", TEXT)) <= known | compose


def test_its_metrics_are_served(sqlite_database: Database) -> None:
    metrics = Metrics()
    metrics.watch(sqlite_database, silent_seconds=45)
    served = metrics.exposition("")[0].decode()
    queried = re.findall(r'pawlens_\w+\{queue="\w+"\}', TEXT)
    assert queried
    for series in queried:
        assert re.search(rf"^{re.escape(series)} ", served, re.MULTILINE), series
