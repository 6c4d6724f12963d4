"""What ``pawlens doctor`` looks for in the machine: Python, packages, environment, disk, port."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from api.findings import Finding, run_python
from core.settings import Settings
from worker.preflight import Refusal, check_exposure, listen
from worker.readiness import address_of, readiness

OLDEST_PYTHON = (3, 11)

PREFIX = "PAWLENS_"
OTHER_VARIABLES = frozenset({"CONFIG", "SERVER", "API_KEY", "WORKER_QUEUE", "WORKER_ID"})
"""Variables that mean something and are no settings."""


def python(_: Settings) -> Iterator[Finding]:
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        text = f"{running} is too old: make the environment anew with PYTHON=python{needed} make setup"
        yield Finding("broken", "python", text)
    else:
        yield Finding("ok", "python", f"{running} at {sys.executable}")


def packages(_: Settings) -> Iterator[Finding]:
    names = required_packages()
    code = (
        "import importlib, json, sys\n"
        "bad = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except Exception as error: bad[name] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps(bad))"
    )
    done = run_python(code, *names)
    if done.returncode:  # an import took the process with it
        bad = {"a package": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    else:
        bad = json.loads(done.stdout.splitlines()[-1])
    for name, why in bad.items():
        yield Finding("broken", "packages", f"{name} cannot be imported ({why}): run `make setup`")
    if not bad:
        yield Finding("ok", "packages", f"all {len(names)} can be imported")


def required_packages() -> list[str]:
    """The import names of what Pawlens depends on, on this platform, without the development tools."""
    provided: dict[str, list[str]] = {}
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            provided.setdefault(_canonical(package), []).append(module)
    names = []
    for requirement in metadata.requires("pawlens") or ():
        name, marker = re.match(r"[A-Za-z0-9._-]+", requirement), requirement.partition(";")[2]
        if name and "extra" not in marker and not ("win32" in marker and sys.platform == "win32"):
            own = _canonical(name[0])
            # Most are imported under their own name; Pillow is PIL, and zipstream-ng is zipstream.
            others = [module for module in provided.get(own, ()) if not module.startswith("_")]
            names += [own] if own in others or not others else others
    return names


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def environment(_: Settings) -> Iterator[Finding]:
    known = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    given = sorted(name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX))
    unknown = [name for name in given if name not in known]
    for name in unknown:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else "it has no effect"
        yield Finding(
            "broken" if close else "warning", "environment", f"{PREFIX}{name} is no setting: {hint}"
        )
    if not unknown:
        yield Finding("ok", "environment", "every PAWLENS_* variable is known")


def disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("broken", "data", f"{folder} cannot be written to: choose another with --data DIR")
        return
    usage = shutil.disk_usage(folder)
    free, least = usage.free / usage.total, settings.min_free_disk_fraction
    text = f"{settings.data_dir}: {usage.free / 2**30:.1f} GiB free ({free:.0%})"
    if free < least:
        yield Finding("broken", "data", f"{text}, under {least:.0%} no job is accepted: free some space")
    else:
        yield Finding("warning" if free < 2 * least else "ok", "data", text)


def port(settings: Settings) -> Iterator[Finding]:
    try:
        check_exposure(settings)
    except Refusal as refusal:
        yield Finding("broken", "port", str(refusal))
        return
    try:
        listen(settings.host, settings.port).close()
    except Refusal as refusal:
        address = address_of(settings.host, settings.port)
        if (served := readiness(address, timeout=2)) is not None:
            yield Finding("ok", "port", f"{address} is served by a Pawlens, which says {served['status']}")
        else:
            yield Finding("broken", "port", str(refusal))
    else:
        yield Finding("ok", "port", f"{settings.host}:{settings.port} is free")
