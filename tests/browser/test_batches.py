"""Many pictures at once: a grid that fills, filters, files to take away."""

from __future__ import annotations

import csv
import io
import zipfile

from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.views import SLOW, choose, expect_end, methods
from tests.processes import PHOTOS

BAD: dict[str, object] = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}


def test_a_batch_fills_its_grid_and_can_be_filtered(visit: Visit) -> None:
    page = visit.open()
    methods(page)
    photos = [{"name": p.name, "mimeType": "image/jpeg", "buffer": p.read_bytes()} for p in PHOTOS]
    choose(page, *photos, BAD)
    page.get_by_role("button", name=f"Ask about {len(PHOTOS) + 1} pictures").click()
    page.wait_for_url("**/#/batch/*")
    expect_end(page)
    tiles = page.locator(".grid > li")
    expect(tiles).to_have_count(len(PHOTOS) + 1, timeout=SLOW)
    page.get_by_text("1 item could not be accepted").click()
    expect(page.locator(".rejected")).to_contain_text("broken.jpg")
    expect(tiles.locator("[data-state=failed]")).to_have_count(1)

    # The least certain first; what has no answer last.
    shares = [float(text.split()[0]) for text in tiles.locator(".number").all_inner_texts()]
    assert shares == sorted(shares)
    expect(tiles.last).to_contain_text("broken.jpg")
    page.get_by_label("Confidence").fill("75")
    expect(tiles).to_have_count(sum(share <= 75 for share in shares))
    page.get_by_label("Confidence").fill("100")
    page.get_by_label("cat", exact=True).check()
    answers = tiles.locator("b").all_text_contents()
    assert answers
    assert set(answers) == {"cat"}

    tiles.first.click()
    page.wait_for_url("**/#/job/*")
    page.get_by_role("link", name="Its batch").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [row["name"] for row in rows] == [photo.name for photo in PHOTOS] + ["broken.jpg"]
    assert sum(row["label"] == "cat" for row in rows) == len(answers)
    page.get_by_role("link", name="Batches").click()
    expect(page.locator(".rows .counts").first).to_have_attribute(
        "aria-label", f"{len(PHOTOS)} done, 1 failed"
    )


def test_a_zip_is_canceled_on_the_way(visit: Visit) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(10):
            for photo in PHOTOS:
                file.writestr(f"{number}/{photo.name}", photo.read_bytes() + bytes([number]))
    page = visit.open()
    methods(page, "grad_cam", "occlusion")  # some seconds each: there is time to cancel
    choose(page, {"name": "photos.zip", "mimeType": "application/zip", "buffer": archive.getvalue()})
    page.get_by_role("button", name="Ask about all of it").click()
    page.wait_for_url("**/#/batch/*")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{10 * len(PHOTOS)}\u00a0pictures")
    page.get_by_role("button", name="Cancel").click()
    expect_end(page, "canceled")
    expect(page.locator(".counts-words [data-state=canceled]")).to_be_visible()
