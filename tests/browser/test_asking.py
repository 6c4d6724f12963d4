"""The form: where pictures come from, what goes to the API, and what it refuses."""

from __future__ import annotations

import pytest
from playwright.sync_api import Route, expect

from core.explain.options import ExplainOptions, OcclusionOptions
from tests.browser.conftest import Visit
from tests.browser.views import ask, choose, expect_end, methods
from tests.processes import PHOTOS, Service


def test_the_first_view_is_light(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".card").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    bytes_sent: dict[str, int] = page.evaluate(
        """() => Object.fromEntries(["navigation", "resource"]
              .flatMap((kind) => performance.getEntriesByType(kind))
              .map(({name, transferSize}) => [name, transferSize]))"""
    )
    own = {name: size for name, size in bytes_sent.items() if "/page/examples/" not in name}
    assert any(name.endswith("/v1/methods") for name in own)
    assert 50_000 < sum(own.values()) < 200_000


def test_an_example_is_posted_at_once(visit: Visit) -> None:
    page = visit.open()
    methods(page)
    page.get_by_role("button", name="Ask about: A spotted cat on a sofa").click()
    page.wait_for_url("**/#/job/*")
    expect(page.get_by_role("heading", name="bengal.webp")).to_be_visible()
    expect_end(page)


def test_an_example_waits_for_the_methods(visit: Visit) -> None:
    held: list[Route] = []
    visit.page.route("**/v1/methods", lambda route: held.append(route))  # noqa: PLW0108 - playwright marks it
    page = visit.open()
    example = page.get_by_role("button", name="Ask about: A spotted cat on a sofa")
    example.click()
    expect(example).to_be_disabled()
    held[0].continue_()
    page.wait_for_url("**/#/job/*")


def test_a_refused_example_leaves_the_form_as_it_was(visit: Visit) -> None:
    visit.refusals = 1
    page = visit.open()
    methods(page)
    choose(page, PHOTOS[0])
    page.route("**/v1/jobs", lambda route: route.fulfill(status=503, json={"detail": "Not now."}))
    page.get_by_role("button", name="Ask about: A spotted cat on a sofa").click()
    expect(page.get_by_role("alert")).to_contain_text("Not now.")
    page.unroute("**/v1/jobs")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("heading", name=PHOTOS[0].name)).to_be_visible()


def test_a_picture_is_pasted(visit: Visit) -> None:
    page = visit.open()
    methods(page)
    page.evaluate(
        """async () => {
          const picture = await (await fetch("/page/examples/puppy.webp")).blob();
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([picture], "pasted.webp", {type: "image/webp"}));
          const paste = {clipboardData, bubbles: true, cancelable: true};
          document.dispatchEvent(new ClipboardEvent("paste", paste));
        }"""
    )
    expect(page.locator(".tray")).to_contain_text("pasted.webp")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect_end(page)


def test_an_address_is_pasted_anywhere(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".card").first).to_be_visible()
    page.evaluate(
        """() => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text/plain", " https://example.com/cat.jpg\\n");
          const paste = {clipboardData, bubbles: true, cancelable: true};
          document.body.dispatchEvent(new ClipboardEvent("paste", paste));
        }"""
    )
    expect(page.get_by_label("or the address of a picture")).to_have_value("https://example.com/cat.jpg")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_pictures_are_dropped_anywhere(visit: Visit) -> None:
    page = visit.open()
    methods(page)
    page.evaluate(
        """async () => {
          const dataTransfer = new DataTransfer();
          for (const name of ["puppy", "wild"]) {
            const picture = await (await fetch(`/page/examples/${name}.webp`)).blob();
            dataTransfer.items.add(new File([picture], `${name}.webp`, {type: "image/webp"}));
          }
          const at = document.querySelector("h1");
          for (const kind of ["dragover", "drop"]) {
            at.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
          }
        }"""
    )
    expect(page.locator(".tray-name")).to_have_text(["puppy.webp", "wild.webp"])
    page.get_by_role("button", name="Leave out puppy.webp").click()
    expect(page.locator(".tray-name")).to_have_text("wild.webp")
    expect(page.get_by_role("button", name="Leave out wild.webp")).to_be_focused()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect_end(page)
    expect(page.get_by_role("heading", name="wild.webp")).to_be_visible()


def test_options_come_from_the_schema(visit: Visit, service: Service) -> None:
    page = visit.open()
    methods(page, "occlusion")
    page.get_by_text("Advanced options").click()
    expect(page.locator("#option-integrated_gradients-baseline")).to_be_hidden()  # it was not asked for
    page.locator("#option-occlusion-stride").fill("8")
    page.locator("#option-target").select_option("dog")
    choose(page, PHOTOS[0])
    with page.expect_request(lambda request: request.method == "POST") as posted:
        page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_url("**/#/job/*")
    assert posted.value.headers["idempotency-key"]
    kept = service.http.get(f"/v1/jobs/{page.url.rpartition('/')[2]}").json()["options"]
    changed = {"target": "dog", "occlusion": OcclusionOptions(stride=8)}
    assert ExplainOptions.model_validate(kept) == ExplainOptions.model_validate(changed)


REFUSED = {
    "no picture at all": ("cat.jpg", b"just text", "JPEG, PNG or WebP"),
    "half of one": ("cat.jpg", PHOTOS[0].read_bytes()[:9000], "damaged or truncated"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_refused_picture_is_explained(visit: Visit, row: str) -> None:
    visit.refusals = 1
    name, data, words = REFUSED[row]
    page = visit.open()
    methods(page)
    choose(page, {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)
    alert, button = (
        page.get_by_role("alert").bounding_box(),
        page.get_by_role("button", name="Ask", exact=True).bounding_box(),
    )
    assert alert is not None
    assert button is not None
    assert alert["y"] + alert["height"] <= button["y"]  # which stays in sight, and does not lie on it
    expect(page.locator(".tray")).to_contain_text(name)  # still there, to be replaced


def test_a_blocked_address_is_explained(visit: Visit) -> None:
    visit.refusals = 1
    page = visit.open()
    page.get_by_label("or the address of a picture").fill("https://me:secret@example.com/cat.jpg")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("must not hold a user name or password")


def test_files_of_other_kinds_are_named(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".card").first).to_be_visible()
    choose(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("notes.txt")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()


def test_what_leaves_the_tray_is_named(visit: Visit) -> None:
    page = visit.open()
    choose(page, PHOTOS[0], PHOTOS[1])
    choose(page, {"name": "many.zip", "mimeType": "application/zip", "buffer": b"PK"})
    expect(page.locator(".tray-name")).to_have_text("many.zip")
    expect(page.get_by_role("alert")).to_contain_text(f"Left out: {PHOTOS[0].name}, {PHOTOS[1].name}.")
    choose(page, PHOTOS[2])
    expect(page.locator(".tray-name")).to_have_text(PHOTOS[2].name)
    expect(page.get_by_role("alert")).to_contain_text("Left out: many.zip.")


def test_many_pictures_are_left_out_at_once(visit: Visit) -> None:
    page = visit.open()
    broken: dict[str, object] = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    photos: list[dict[str, object]] = [
        {"name": photo.name, "mimeType": "image/jpeg", "buffer": photo.read_bytes()} for photo in PHOTOS
    ]
    choose(page, *[broken, *photos, *photos][:15])
    expect(page.locator(".tray-name")).to_have_count(12)
    expect(page.locator(".tray")).to_contain_text("and 3 more")
    expect(page.locator(".tray li").first.locator(".icon")).to_have_count(2)  # no picture, and the cross
    page.get_by_role("button", name="Leave all out").click()
    expect(page.locator(".tray li")).to_have_count(0)
    expect(page.get_by_role("button", name="Choose pictures")).to_be_focused()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()


def test_asking_again_for_what_could_not_be_downloaded(visit: Visit) -> None:
    page = visit.open()
    methods(page, "grad_cam")
    address = "https://nowhere.invalid/albums/2026/cat.jpg?size=large"
    page.get_by_label("or the address of a picture").fill(address)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect_end(page, "failed")
    expect(page.get_by_role("heading", level=1)).to_have_text("cat.jpg")
    expect(page.get_by_text(address)).to_be_visible()
    expect(page.locator(".viewer")).to_be_hidden()  # there is nothing to see
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_label("or the address of a picture")).to_have_value(address)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_asking_again_brings_the_picture_along(visit: Visit) -> None:
    page = visit.open()
    ask(page, photo=PHOTOS[6])
    expect_end(page)
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".tray")).to_contain_text(PHOTOS[6].name)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
