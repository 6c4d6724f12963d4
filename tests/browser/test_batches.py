"""Many pictures at once: a grid that fills, filters, files to take away."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.views import choose, expect_end, methods
from tests.processes import PHOTOS, Service

BAD: dict[str, object] = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}


def test_a_batch_fills_its_grid_and_can_be_filtered(visit: Visit) -> None:
    page = visit.open()
    methods(page)
    photos: list[dict[str, object]] = [
        {"name": p.name, "mimeType": "image/jpeg", "buffer": p.read_bytes()} for p in PHOTOS
    ]
    choose(page, *photos, BAD)
    page.get_by_role("button", name=f"Ask about {len(PHOTOS) + 1} pictures").click()
    page.wait_for_url("**/#/batch/*")
    expect_end(page)
    tiles = page.locator(".grid > li")
    expect(tiles).to_have_count(len(PHOTOS) + 1)
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


def test_the_focus_stays_where_one_is(visit: Visit, service: Service) -> None:
    file = {"files": (PHOTOS[0].name, PHOTOS[0].read_bytes())}
    batch = service.http.post("/v1/batches", files=file).json()["id"]
    page = visit.open("batches")
    row = page.locator(f".rows a[href='#/batch/{batch}']")
    row.focus()
    for _ in range(2):  # it is drawn anew by the second at the latest
        page.wait_for_event("response", lambda answer: "/v1/batches?" in answer.url)
    expect(row).to_be_focused()

    service.http.get(f"/v1/batches/{batch}", params={"wait": 20})
    result = service.http.get(f"/v1/batches/{batch}/results", params={"format": "jsonl"}).json()
    lines = "\n".join(json.dumps({**result, "index": index}) for index in range(150))
    page.route("**/results?format=jsonl", lambda route: route.fulfill(body=lines))
    row.press("Enter")
    page.get_by_role("button", name="More").click()
    expect(page.locator(".grid > li")).to_have_count(150)
    expect(page.locator(".grid > li:last-child a")).to_be_focused()


def test_a_zip_is_canceled_on_the_way(visit: Visit) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(3):
            for photo in PHOTOS:
                file.writestr(f"{number}/{photo.name}", photo.read_bytes() + bytes([number]))
    page = visit.open()
    methods(page, "grad_cam", "occlusion")  # some seconds each: there is time to cancel
    choose(page, {"name": "photos.zip", "mimeType": "application/zip", "buffer": archive.getvalue()})
    page.get_by_role("button", name="Ask about all of it").click()
    page.wait_for_url("**/#/batch/*")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{3 * len(PHOTOS)}\u00a0pictures")
    page.get_by_role("button", name="Cancel").click()
    expect_end(page, "canceled")
    expect(page.locator(".counts-words [data-state=canceled]")).to_be_visible()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder as people have them: pictures, one of them deeper down, among other things."""
    folder = tmp_path / "album"
    (folder / "summer").mkdir(parents=True)
    shutil.copy(PHOTOS[0], folder / "first.jpg")
    shutil.copy(PHOTOS[1], folder / "summer" / "second.jpg")
    (folder / "labels.csv").write_text("file,label\nfirst.jpg,cat\n")  # no list of addresses
    (folder / "notes.txt").write_text("no picture")
    (folder / ".DS_Store").write_bytes(b"of the system")
    return folder


def test_a_folder_is_dropped(visit: Visit, album: Path) -> None:
    page = visit.open()
    methods(page)
    devtools = visit.context.new_cdp_session(page)  # a script cannot make up a folder
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(album)], "dragOperationsMask": 1}
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    expect(page.locator(".tray-name")).to_have_text(["first.jpg", "second.jpg"])
    expect(page.get_by_role("alert")).to_contain_text("Left out: labels.csv, notes.txt.")
    page.get_by_role("button", name="Ask about 2 pictures").click()
    page.wait_for_url("**/#/batch/*")
    expect_end(page)
    page.get_by_label("As sent").check()
    expect(page.locator(".grid-name")).to_have_text(["first.jpg", "second.jpg"])


def test_a_folder_is_chosen(visit: Visit, album: Path) -> None:
    page = visit.open()
    page.locator("input[webkitdirectory]").set_input_files(album)
    expect(page.locator(".tray-name")).to_have_text(["first.jpg", "second.jpg"])
    expect(page.get_by_role("alert")).to_contain_text("Left out: labels.csv, notes.txt.")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_list_of_addresses_and_once_more_what_failed(visit: Visit, site: tuple[Path, str]) -> None:
    folder, address = site
    shutil.copy(PHOTOS[2], folder / "early.jpg")
    listed = f"url,custom_id\n{address}/early.jpg,the early one\n{address}/late.jpg,the late one\n"
    page = visit.open()
    methods(page)
    choose(page, {"name": "list.csv", "mimeType": "text/csv", "buffer": listed.encode()})
    page.get_by_role("button", name="Ask about all of it").click()
    page.wait_for_url("**/#/batch/*")
    before = page.url
    expect_end(page)
    tiles = page.locator(".grid > li")
    expect(tiles).to_have_count(2)
    expect(tiles.locator("[data-state=succeeded]")).to_contain_text("the early one")
    expect(tiles.locator("[data-state=failed]")).to_contain_text("the late one")

    tiles.locator("[data-state=failed]").click()
    expect(page.get_by_role("alert")).to_contain_text("answered with status 404")
    expect(page.get_by_role("group", name="Zoom")).to_have_count(0)  # there is no picture
    page.get_by_role("link", name="Its batch").click()

    shutil.copy(PHOTOS[3], folder / "late.jpg")
    page.get_by_role("button", name="Try 1 failed one again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1\u00a0picture")
    expect_end(page)
    expect(tiles).to_have_count(1)
    expect(tiles.locator("[data-state=succeeded]")).to_contain_text("the late one")
    expect(page.get_by_role("button", name="failed")).to_have_count(0)
    page.get_by_role("link", name="The batch before").click()
    page.wait_for_url(before)
    expect(page.get_by_role("heading", level=1)).to_have_text("2\u00a0pictures")
