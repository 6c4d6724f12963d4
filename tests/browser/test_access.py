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
from tests.browser.conftest import OpenVisit, Visit
from tests.browser.views import ask, expect_end
from tests.processes import PHOTOS, Service, eventually

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()

# By name: the address, and what is there as soon as everything from the service is.
VIEWS = {
    "ask": ("", ".card"),
    "jobs": ("jobs", ".row-picture img[src]"),
    "job": ("job/{job}", ".findings li"),
    "compare": ("compare/{job}/grad_cam/{other}/occlusion", ".side-by-side:last-child .legend canvas"),
    "batches": ("batches", ".rows .counts"),
    "batch": ("batch/{batch}", ".grid img[src]"),
    "operation": ("operation", ".queue"),
    "nowhere": ("nowhere", "h1"),
}
LONG = f"{'a-name-without-a-space-' * 5}.jpg"


@pytest.fixture(scope="module")
def ids(service: Service, jobs: list[dict[str, Any]]) -> dict[str, str]:
    """Two jobs, and a batch of which one item was refused."""
    files = [("files", (photo.name, photo.read_bytes())) for photo in PHOTOS[:2]]
    answer = service.http.post("/v1/batches", files=[*files, ("files", (LONG, b"no picture"))])
    assert answer.status_code == 202, answer.text
    batch = answer.json()["id"]
    ended = service.http.get(f"/v1/batches/{batch}", params={"wait": 20}).json()
    assert (ended["status"], ended["rejected"]) == ("completed", 1)
    return {"job": jobs[0]["id"], "other": jobs[1]["id"], "batch": batch}


def opened(visit: Visit, view: str, ids: dict[str, str]) -> Page:
    """A view with everything on it that comes from the service, and nothing folded away."""
    address, ready = VIEWS[view]
    page = visit.open(address.format(**ids))
    expect(page.locator(ready).first).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
    return page


def faults(page: Page, *rules: str) -> list[str]:
    """What axe-core calls serious or critical; by all its rules if none is named."""
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    result: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
    assert result["passes"], "axe has looked at nothing"
    return [
        f"{fault['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for fault in result["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(open_visit: OpenVisit, ids: dict[str, str], view: str) -> None:
    page = opened(open_visit(color_scheme="light", reduced_motion="reduce"), view, ids)
    page.evaluate(AXE)
    assert faults(page) == []
    page.emulate_media(color_scheme="dark")  # which changes colours and nothing else
    assert faults(page, "color-contrast") == []


def test_nothing_scrolls_sideways_on_a_phone(open_visit: OpenVisit, ids: dict[str, str]) -> None:
    visit = open_visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for view in VIEWS:
        page = opened(visit, view, ids)
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
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    expect(page.locator(".card").first).to_be_visible()  # still the same view
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


def test_a_view_is_not_looked_up_among_what_every_object_has(visit: Visit) -> None:
    expect(visit.open("constructor").get_by_role("heading")).to_have_text("There is no such page")


@pytest.fixture
def secret(service: Service) -> Iterator[str]:
    """A key. Until the test is over the service wants one."""
    database = Database(service.environment["PAWLENS_DATABASE_URL"])
    with database.write() as session:
        key, made = keys.create(session, "page")
        name = key.name
    eventually(lambda: service.http.get("/v1/model").status_code == 401, what="a service that wants keys")
    yield made
    with database.write() as session:
        keys.revoke(session, name)
    database.dispose()
    eventually(lambda: service.http.get("/v1/model").status_code == 200, what="a service that is open again")


def test_a_key_is_asked_for_once_and_used_for_pictures_too(visit: Visit, secret: str) -> None:
    visit.refusals = 1
    page = visit.open()
    dialog = page.get_by_role("dialog", name="An API key, please")
    expect(dialog).to_contain_text("pawlens keys create")
    dialog.get_by_label("Key", exact=True).fill("pk_wrong")
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog).to_contain_text("not in force")
    dialog.get_by_label("Key", exact=True).fill(secret)
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog).to_be_hidden()
    ask(page, photo=PHOTOS[0])
    expect_end(page)
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator(".row-picture img")).to_have_js_property("naturalHeight", 320)


def test_who_would_rather_not_give_a_key_is_left_alone(visit: Visit, secret: str) -> None:
    visit.refusals = 1
    page = visit.open("operation")
    dialog = page.get_by_role("dialog", name="An API key, please")

    def left_alone() -> None:
        for view in ("queue", "webhooks", "queue"):  # each is read by the clock
            page.wait_for_event("response", lambda answer, view=view: answer.url.endswith(f"/v1/{view}"))
        expect(dialog).to_be_hidden()

    dialog.get_by_role("button", name="Not now").click()
    left_alone()
    page.get_by_role("button", name="Enter a key").click()
    dialog.get_by_label("Key", exact=True).fill("pk_schlüssel→")  # which no header can hold
    dialog.get_by_role("button", name="Use it").click()
    field = dialog.get_by_label("Key", exact=True)
    assert "looks like pk_" in field.evaluate("field => field.validationMessage")
    field.fill(f" {secret} ")
    dialog.get_by_role("button", name="Use it").click()
    expect(page.locator(".queue").first).to_be_visible()

    page.get_by_role("button", name="Forget the key").click()
    left_alone()
    page.get_by_role("link", name="Jobs").click()
    expect(dialog).to_be_visible()


def test_what_cannot_be_a_key_is_not_sent(visit: Visit) -> None:
    visit.page.add_init_script("localStorage.setItem('pawlens.key', 'pk_schlüssel→')")
    expect(visit.open().locator(".card").first).to_be_visible()
