"""For everyone: axe-core on every view, keyboard alone, phone width, dark, and a service that wants a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from core import keys
from core.database import Database
from tests.browser.conftest import OpenVisit, Visit, make_service_folder
from tests.browser.views import SLOW, ask, expect_end
from tests.processes import PHOTOS, Service, eventually, running

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
VIEWS = ["", "jobs", "batches", "operation", "job", "compare", "nowhere"]


@pytest.fixture(scope="module")
def job_id(service: Service) -> str:
    job = service.wait(service.post(PHOTOS[0], methods="grad_cam,occlusion")["id"])
    assert job["status"] == "succeeded"
    return str(job["id"])


def opened(visit: Visit, view: str, job_id: str) -> Page:
    """A view with everything on it that comes from the service."""
    page = visit.open(f"{view}/{job_id}" if view in ("job", "compare") else view)
    ready = {"": ".card", "operation": ".queue", "job": ".findings li", "compare": ".legend canvas"}
    expect(page.locator(ready.get(view, "h1")).first).to_be_visible(timeout=SLOW)
    if view == "":
        page.get_by_text("Advanced options").click()
    return page


def faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    page.evaluate(AXE)
    result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(result["passes"]) > 10, "axe has looked at next to nothing"
    return [
        f"{fault['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for fault in result["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(open_visit: OpenVisit, job_id: str, view: str, scheme: str) -> None:
    visit = open_visit(color_scheme=scheme, reduced_motion="reduce")
    assert faults(opened(visit, view, job_id)) == []


def test_nothing_scrolls_sideways_on_a_phone(open_visit: OpenVisit, job_id: str) -> None:
    visit = open_visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for view in VIEWS:
        page = opened(visit, view, job_id)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view
    assert visit.open().get_by_role("button", name="Take a photo").is_visible()


def test_dark_and_light(open_visit: OpenVisit) -> None:
    visit = open_visit(color_scheme="dark")
    page = visit.open()

    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness() < 150
    page.get_by_role("button", name="Dark").click()
    assert brightness() > 600
    page.reload()  # the choice is kept
    assert brightness() > 600


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".card").first).to_be_visible()

    def tab_to(selector: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is not reached")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    tab_to("#method-integrated_gradients")
    page.keyboard.press("Space")
    expect(page.locator("#method-integrated_gradients")).not_to_be_checked()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#method-grad_cam")).to_be_focused()
    page.keyboard.press("Shift+Tab")  # the licence of the examples, and before it the examples
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/job/*")
    expect(page.get_by_role("heading", level=1)).to_be_focused()  # a screen reader begins where the view does
    expect_end(page)
    tab_to(".stage canvas")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".reading")).to_contain_text("log-odds")
    page.keyboard.press("+")
    expect(page.locator("canvas.zoomed")).to_have_count(1)
    page.keyboard.press("0")
    expect(page.locator("canvas.zoomed")).to_have_count(0)
    tab_to("[role=tab]")
    chosen = page.locator("[role=tab][aria-selected=true]").get_attribute("id")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[role=tab][aria-selected=true]")).to_be_focused()
    assert page.locator("[role=tab][aria-selected=true]").get_attribute("id") != chosen


@pytest.fixture
def locked(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that wants a key."""
    folder, url = make_service_folder(migrated_sqlite_file, tmp_path_factory)
    with running(folder, url, "predict") as started:
        yield started


def test_a_key_is_asked_for_once_and_used_for_pictures_too(locked: Service, open_visit: OpenVisit) -> None:
    database = Database(locked.environment["PAWLENS_DATABASE_URL"])
    with database.write() as session:
        _, secret = keys.create(session, "page")
    database.dispose()
    eventually(lambda: locked.http.get("/v1/model").status_code == 401, what="a service that wants keys")

    visit = open_visit(at=locked)
    visit.refusals = 1
    page = visit.open()
    dialog = page.get_by_role("dialog", name="An API key, please")
    dialog.get_by_label("Key", exact=True).fill("pk_wrong")
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog).to_contain_text("not in force")
    dialog.get_by_label("Key", exact=True).fill(secret)
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog).to_be_hidden()
    ask(page, photo=PHOTOS[0])
    expect_end(page)
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator(".row-picture img")).to_have_js_property("naturalHeight", 320, timeout=SLOW)
