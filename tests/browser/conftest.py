"""The page in the system's Chromium, against the real service.

==============  ================================================================================
``service``     one for the whole run, with the stand-in engine; each method takes a second or so
``browser``     Chromium, for the whole run
``jobs``        two jobs of that service that have ended, explained
``visit``       opens the page in a profile of its own and checks afterwards that nothing went wrong
==============  ================================================================================

"Nothing went wrong" means: no error in the console (the Content-Security-Policy reports there), no exception
in a script, and no request but for the page's own files and the public contract under ``/v1``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from core.vision.stand_in import StandInEngine
from tests.processes import PHOTOS, Service, running

_PATIENCE = 60_000  # milliseconds; never what is asserted, only when to give up
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, _NAMES)), playwright.chromium.executable_path)
    if not Path(found).exists():
        missing = "There is no Chromium: apt-get install chromium, or playwright install chromium."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    # Root, as CI often is, may not use Chromium's sandbox; all it opens is our own page.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    chromium = playwright.chromium.launch(executable_path=found, args=arguments)
    yield chromium
    chromium.close()


def make_service_folder(template: Path, factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = factory.mktemp("b")  # short: it holds a socket
    shutil.copy(template, folder / "pawlens.db")
    return folder, f"sqlite:///{folder / 'pawlens.db'}"


@pytest.fixture(scope="package")
def service(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, url = make_service_folder(migrated_sqlite_file, tmp_path_factory)
    # Tests offer pictures on loopback.
    settings = {"stand_in_seconds": 1.2, "allow_private_network": True}
    with running(folder, url, "predict", "explain", "io", **settings) as started:
        yield started


@pytest.fixture(scope="package")
def jobs(service: Service) -> list[dict[str, Any]]:
    """Two jobs that have ended: one explained for its answer, one for the class that is not its answer."""
    engine = StandInEngine()
    answer = engine.predict([engine.prepare(PHOTOS[9].read_bytes())])[0].label
    options = json.dumps({"target": {"cat": "dog", "dog": "cat"}[answer]})
    both = [
        service.post(PHOTOS[8], methods="grad_cam"),
        service.post(PHOTOS[9], methods="occlusion", options=options),
    ]
    ended = [service.wait(job["id"]) for job in both]
    assert [job["status"] for job in ended] == ["succeeded", "succeeded"]
    assert ended[1]["prediction"]["label"] == answer
    return ended


class Visit:
    """One profile with the page open. ``refusals`` are problems that the test means to provoke."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context = context
        self.address = address
        self.refusals = 0
        self.errors: list[str] = []
        self._refused: list[str] = []
        self.page: Page = context.new_page()
        context.on("console", self._said)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._asked(request.url))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        # Chromium says so of every answer from 400 up, also of those that the page explains.
        is_refusal = message.text.startswith("Failed to load resource")
        (self._refused if is_refusal else self.errors).append(message.text)

    def _asked(self, url: str) -> None:
        own = (f"{self.address}/v1/", f"{self.address}/page/", "blob:", "data:")
        if not url.startswith(own) and url.partition("#")[0] != f"{self.address}/":
            self.errors.append(f"a request to {url}")

    def open(self, view: str = "") -> Page:
        self.page.goto(f"{self.address}/#/{view}")
        return self.page

    def end(self) -> None:
        self.context.close()
        assert not self.errors
        assert bool(self._refused) == bool(self.refusals), self._refused


OpenVisit = Callable[..., Visit]


@pytest.fixture
def open_visit(browser: Browser, service: Service) -> Iterator[OpenVisit]:
    visits: list[Visit] = []

    def opened(*, at: Service = service, **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(_PATIENCE)
        visits.append(Visit(context, str(at.http.base_url).rstrip("/")))
        return visits[-1]

    yield opened
    for one in visits:
        one.end()


@pytest.fixture
def visit(open_visit: OpenVisit) -> Visit:
    return open_visit()
