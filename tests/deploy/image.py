"""The image's ``/app``, laid out as the Dockerfile's COPY instructions and ``.dockerignore`` say."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]
from pathspec import PathSpec

from tests.deploy.compose_file import ROOT

DOCKERFILE = ROOT / "Dockerfile"


@dataclass(frozen=True)
class Copy:
    """One COPY from the build context."""

    sources: tuple[str, ...]
    destination: str


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    instructions: tuple[tuple[str, str], ...]

    def values(self, instruction: str) -> list[str]:
        return [value for kind, value in self.instructions if kind == instruction]

    @property
    def copies(self) -> list[Copy]:
        """Those from the build context; one with ``--from`` takes from another stage."""
        copies = []
        for value in self.values("COPY"):
            words = shlex.split(value)
            if not any(word.startswith("--from=") for word in words):
                *sources, destination = (word for word in words if not word.startswith("--"))
                copies.append(Copy(tuple(sources), destination))
        return copies


def stages() -> list[Stage]:
    """The Dockerfile's stages in order; the last one is the image."""
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    with DOCKERFILE.open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    for entry in structure:
        kind, value = entry["instruction"], entry["value"]
        if kind == "FROM":
            base, _, name = value.partition(" AS ")
            found.append((base, name, []))
        elif found and kind != "COMMENT":
            found[-1][2].append((kind, value))
    return [Stage(base, name, tuple(instructions)) for base, name, instructions in found]


def context() -> set[str]:
    """The files that a build is sent, relative to the root.

    In ``.dockerignore`` the last line that matches decides, and a file may come back from an excluded folder:
    pathspec's plain rules, not those of git.
    """
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = PathSpec.from_lines("gitignore", rules)
    tops = {rule[2:].strip() for rule in rules if rule.startswith("!/")}
    files = [
        str(file.relative_to(ROOT))
        for top in tops
        for file in ([ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*"))
        if file.is_file()
    ]
    return {file for file in files if not ignored.match_file(file)}


def lay_out(folder: Path) -> Path:
    """Make ``/app`` under ``folder`` and return where it is."""
    app, sent = folder / "app", context()
    for copy in stages()[-1].copies:
        for source in copy.sources:
            chosen = [file for file in sent if file == source or file.startswith(source.rstrip("/") + "/")]
            for file in chosen:
                # The contents of a folder are copied, not the folder itself.
                inside = Path(file).relative_to(source) if file != source else Path(source).name
                target = app / copy.destination / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, target)
    return app
