"""The viewer over the real network: every control changes the picture; the numbers are those of the files."""

# ruff: noqa: RUF001 - minus and times as the page shows them

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from core.explain.words import percent, signed
from core.vision.manifest import read_manifest
from core.vision.preprocessing import Preprocessing
from tests.browser.conftest import OpenVisit, Visit, make_service_folder
from tests.browser.views import METHODS, changed, pixels
from tests.processes import EXAMPLES, Service, running

PHOTO = EXAMPLES / "Bengal_43.jpg"  # 500 x 357 pixels


@pytest.fixture(scope="module")
def real(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, url = make_service_folder(migrated_sqlite_file, tmp_path_factory)
    with running(folder, url, "explain", engine="resnet", threads=2, lease_seconds=60) as started:
        yield started


@pytest.fixture(scope="module")
def job_id(real: Service) -> str:
    options = json.dumps({"occlusion": {"stride": 32}})  # a quarter of the windows will do
    job = real.wait(real.post(PHOTO, methods=",".join(METHODS), options=options)["id"], seconds=240)
    assert job["status"] == "succeeded"
    return str(job["id"])


@pytest.fixture
def at_real(open_visit: OpenVisit, real: Service) -> Visit:
    return open_visit(at=real)


def opened(visit: Visit, job_id: str, method: str) -> Page:
    page = visit.open(f"job/{job_id}/{method}")
    expect(page.locator(".notes .lead")).to_be_visible()
    return page


def test_every_control_changes_the_pixels(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "integrated_gradients")
    seen = [pixels(page)]
    page.get_by_label("Strength").fill("30")
    seen.append(changed(page, seen[-1]))
    page.get_by_label("Colours").select_option("PuOr")
    seen.append(changed(page, seen[-1]))
    page.get_by_label("In favour").check()
    seen.append(changed(page, seen[-1]))
    expect(page.get_by_label("Colours").locator("option")).to_have_count(4)  # those for one sign
    page.get_by_label("Smooth").uncheck()
    seen.append(changed(page, seen[-1]))
    page.get_by_label("Grey picture").uncheck()
    seen.append(changed(page, seen[-1]))
    page.get_by_label("Map", exact=True).check()
    seen.append(changed(page, seen[-1]))
    page.get_by_label("Slider").check()
    seen.append(changed(page, seen[-1]))
    page.get_by_label("Where the picture ends").fill("80")
    seen.append(changed(page, seen[-1]))
    page.get_by_role("button", name="Zoom in").click()
    seen.append(changed(page, seen[-1]))
    assert len(set(seen)) == len(seen)
    page.reload()  # what was chosen is remembered
    expect(page.get_by_label("Slider")).to_be_checked()
    expect(page.get_by_label("Smooth")).not_to_be_checked()


@pytest.mark.parametrize("share", [(0.53, 0.55), (0.31, 0.42), (0.7, 0.8)])
def test_the_number_under_the_pointer_is_that_of_the_file(
    at_real: Visit, real: Service, job_id: str, share: tuple[float, float]
) -> None:
    page = opened(at_real, job_id, "occlusion")
    box = page.locator(".stage canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"])
    said = page.locator(".reading").inner_text()
    found = re.fullmatch(r"x (\d+), y (\d+) · ([+−]?[\d.]+) log-odds lost when covered", said)
    assert found, said
    x, y = int(found[1]) + 0.5, int(found[2]) + 0.5
    assert (x, y) == pytest.approx((500 * share[0], 357 * share[1]), abs=2)

    answer = real.http.get(f"/v1/jobs/{job_id}/artifacts/occlusion/attribution.npy")
    values = np.load(io.BytesIO(answer.content), allow_pickle=False)
    manifest = read_manifest("weights/resnet101-cat-dog.json")
    place = Preprocessing(manifest.input).placement(500, 357)
    column, row = int((x - place.offset_x) / place.scale_x), int((y - place.offset_y) / place.scale_y)
    shown = float(found[3].replace("−", "-"))
    assert shown == pytest.approx(float(values[row, column]), rel=0.06, abs=1e-3)  # two digits are shown


def test_the_number_is_that_of_what_has_come_under_the_pointer(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "occlusion")
    box = page.locator(".stage canvas").bounding_box()
    assert box is not None

    def x() -> int:
        return int(page.locator(".reading").inner_text().split(",")[0].removeprefix("x "))

    left, top = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.dblclick(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.3 * box["width"], top)
    page.mouse.up()
    assert x() == pytest.approx(250, abs=2)  # the point came along
    page.mouse.wheel(0, 900)  # all of it is in sight again
    page.wait_for_function("() => document.querySelector('.stage canvas:not(.zoomed)')")
    assert x() == pytest.approx(400, abs=2)


def test_outside_of_the_crop_there_are_no_numbers(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "occlusion")
    page.locator(".stage canvas").hover(position={"x": 8, "y": 100})
    expect(page.locator(".reading")).to_contain_text("outside of what the network sees")


def test_the_depth_of_grad_cam(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "grad_cam")
    before = pixels(page)
    share = page.locator(".findings li").filter(has_text="Half of the evidence").inner_text()
    page.get_by_text("How it was made").click()
    depth = page.get_by_label(re.compile("^Depth"))
    expect(page.locator(".controls .value")).to_have_text("stage 4, block 3")
    expect(page.locator(".legend .unit")).to_have_text("log-odds per cell")
    depth.fill("0")
    expect(page.locator(".controls .value")).to_have_text("stem")
    expect(page.locator(".legend .unit")).to_have_text("weight × activation")
    changed(page, before)
    expect(page.locator(".findings")).not_to_contain_text(share)  # what is said is said of this depth
    expect(page.locator(".notes details")).to_have_attribute("open", "")
    depth.fill("99")
    expect(page.locator(".legend .unit")).to_have_text("log-odds per cell")
    expect(page.locator(".findings")).to_contain_text(share)


def test_channels_are_laid_on_the_picture(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "feature_maps")
    tiles = page.get_by_role("group", name="Channels").get_by_role("button")
    expect(tiles).to_have_count(12)
    before = pixels(page)
    tiles.nth(4).click()
    expect(tiles.nth(4)).to_have_attribute("aria-pressed", "true")
    changed(page, before)
    as_before = tiles.last.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    page.get_by_label("Colours").select_option("viridis")
    assert tiles.last.locator("canvas").evaluate("canvas => canvas.toDataURL()") != as_before
    page.get_by_label("stage 3, block 23").check()
    expect(page.locator(".layers .hint")).to_contain_text("10 × 10")


def test_kernels_by_depth(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "kernels")
    tiles = page.get_by_role("group", name="Kernels").get_by_role("img")
    expect(tiles).to_have_count(12)
    assert tiles.first.evaluate("canvas => canvas.width") == 7
    page.get_by_label("stage 2, block 4").check()
    assert tiles.first.evaluate("canvas => canvas.width") == 3
    expect(page.locator(".viewer")).to_be_hidden()


def test_nothing_of_another_method_stays_while_one_is_loaded(at_real: Visit, job_id: str) -> None:
    page = opened(at_real, job_id, "grad_cam")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/occlusion/attribution.npy", hold)
    before = pixels(page)
    page.locator("#tab-occlusion").click()
    expect(page.locator(".look")).to_have_attribute("aria-busy", "true")
    expect(page.locator(".legend")).to_be_hidden()
    expect(page.locator(".notes .lead")).to_have_count(0)
    changed(page, before)
    held[0].continue_()
    expect(page.locator(".legend")).to_contain_text("log-odds lost when covered")
    expect(page.locator(".look")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator(".notes .lead")).not_to_contain_text("Red")  # one may choose other colours


def test_quality_in_words(at_real: Visit, real: Service, job_id: str) -> None:
    page = opened(at_real, job_id, "integrated_gradients")
    job = real.http.get(f"/v1/jobs/{job_id}").json()
    (method,) = (one for one in job["methods"] if one["name"] == "integrated_gradients")
    quality, made = method["quality"], method["provenance"]
    expect(page.locator(".findings li").first).to_have_text(
        f"Adds up to the change of the log-odds from {signed(made['baseline_margin'])} "
        f"(a plain picture of the mean colour) to {signed(made['margin'])}, "
        f"with an error of {percent(quality['completeness_error'])}."
    )
    expect(page.locator(".findings")).to_contain_text(
        re.compile("Half of the evidence in favour lies on .* of what the network sees")
    )


def test_downloads(at_real: Visit, real: Service, job_id: str) -> None:
    page = opened(at_real, job_id, "grad_cam")
    with page.expect_download() as download:
        page.get_by_role("button", name="attribution.npy").click()
    assert download.value.suggested_filename == "grad_cam-attribution.npy"
    expected = real.http.get(f"/v1/jobs/{job_id}/artifacts/grad_cam/attribution.npy").content
    assert download.value.path().read_bytes() == expected


def test_two_methods_side_by_side_move_together(at_real: Visit, job_id: str) -> None:
    page = at_real.open(f"compare/{job_id}")
    pictures = page.locator(".stage canvas")
    expect(page.locator(".legend canvas")).to_have_count(2)
    assert [box.input_value() for box in page.get_by_label(re.compile("method$")).all()] == METHODS[:2]
    before = pictures.nth(1).evaluate("canvas => canvas.toDataURL()")
    page.get_by_role("button", name="Zoom in").first.click()
    page.wait_for_function(
        "before => document.querySelectorAll('.stage canvas')[1].toDataURL() !== before", arg=before
    )
    # What is chosen on one side holds for both, and both say so.
    left, right = page.locator(".side-by-side").all()
    right.get_by_label("Map", exact=True).check()
    expect(left.get_by_label("Map", exact=True)).to_be_checked()
    expect(left.get_by_label("For and against")).not_to_be_checked()  # Grad-CAM, by default
    expect(right.get_by_label("For and against")).to_be_checked()
    page.get_by_label("On the right: method").select_option("occlusion")
    expect(page).to_have_url(re.compile("/occlusion$"))
    page = opened(at_real, job_id, "occlusion")
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_label("On the left: method")).to_have_value("occlusion")
    expect(page.get_by_label("On the right: method")).to_have_value("grad_cam")


def test_the_tab_of_what_is_shown_is_in_sight_on_a_phone(
    open_visit: OpenVisit, real: Service, job_id: str
) -> None:
    visit = open_visit(at=real, viewport={"width": 360, "height": 740}, is_mobile=True)
    page = visit.open(f"job/{job_id}")
    expect(page.locator("#tab-grad_cam")).to_be_in_viewport()
    expect(page.locator("#tab-kernels")).not_to_be_in_viewport()  # the strip is wider than the screen
    page = opened(visit, job_id, "kernels")
    expect(page.locator("#tab-kernels")).to_be_in_viewport()
