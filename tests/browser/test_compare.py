"""Jobs of the stand-in looked at: two side by side, what is said of them, and pictures of odd shapes."""

from __future__ import annotations

# ruff: noqa: RUF001 - minus and times as the page shows them
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import OpenVisit, Visit
from tests.browser.views import changed, expect_end, methods, pixels
from tests.processes import PHOTOS, Service


def test_two_pictures_side_by_side(visit: Visit, jobs: list[dict[str, Any]]) -> None:
    first, second = jobs
    target = second["options"]["target"]
    page = visit.open(f"compare/{first['id']}")
    left, right = page.locator(".side-by-side").all()
    expect(page.locator(".legend canvas")).to_have_count(2)
    page.get_by_label("On the right: picture").select_option(second["id"])
    expect(right.locator(".legend")).to_contain_text(f"against {target}")
    expect(right.locator("p.hint").first).to_have_text(
        re.compile(f"^{second['prediction']['label']} .* explained: {target}$")
    )
    expect(left.locator("p.hint").first).to_contain_text(f"explained: {first['prediction']['label']}")
    expect(page).to_have_url(re.compile(f"/{first['id']}/grad_cam/{second['id']}/occlusion$"))

    page.reload()  # the address is that of the comparison
    expect(page.get_by_label("On the left: picture")).to_have_value(first["id"])
    expect(page.get_by_label("On the right: picture")).to_have_value(second["id"])
    expect(right.locator(".legend")).to_contain_text(f"against {target}")


def test_the_class_that_is_explained_is_named(visit: Visit, jobs: list[dict[str, Any]]) -> None:
    job = jobs[1]
    target = job["options"]["target"]
    page = visit.open(f"job/{job['id']}")
    expect(page.locator(".answer")).to_contain_text(job["prediction"]["label"])
    expect(page.locator(".notes .lead")).to_contain_text(f"“{target}”")
    expect(page.locator(".legend")).to_contain_text(f"for {target}")


def test_the_class_explained_is_the_one_that_was_whatever_the_answer_says(
    visit: Visit, jobs: list[dict[str, Any]]
) -> None:
    """A result may be older than the answer beside it, and the two may differ in a close call."""
    job = jobs[0]
    answer = job["prediction"]["label"]
    other = {"cat": "dog", "dog": "cat"}[answer]
    method = job["methods"][0]
    assert (job["options"]["target"], method["provenance"]["target"]) == (None, answer)
    changed = {**method, "provenance": {**method["provenance"], "target": other}}
    visit.page.route(
        re.compile(rf"/v1/jobs/{job['id']}(\?|$)"),
        lambda route: route.fulfill(json={**job, "methods": [changed]}),
    )
    page = visit.open(f"job/{job['id']}")
    expect(page.locator(".answer")).to_contain_text(answer)
    expect(page.locator(".notes .lead")).to_contain_text(f"“{other}”")
    expect(page.locator(".legend")).to_contain_text(f"for {other}")
    page = visit.open(f"compare/{job['id']}")
    expect(page.locator(".side-by-side p.hint").first).to_contain_text(f"explained: {other}")


def test_compare_begins_with_what_is_shown(
    visit: Visit, service: Service, jobs: list[dict[str, Any]]
) -> None:
    page = visit.open(f"job/{jobs[1]['id']}")
    link = page.get_by_role("link", name="Compare")
    expect(link).to_have_attribute("href", f"#/compare/{jobs[1]['id']}/occlusion")
    kernels = service.wait(service.post(PHOTOS[0], methods="kernels")["id"])
    page = visit.open(f"job/{kernels['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(kernels["name"])
    expect(page.get_by_role("button", name="Delete the job")).to_be_visible()
    expect(link).to_have_count(0)  # they are no map


def test_seconds_are_promised_for_what_is_asked(visit: Visit) -> None:
    def ran(name: str, seconds: float, **quality: Any) -> dict[str, Any]:
        return {"name": name, "seconds": seconds, "status": "succeeded", "cached": False, "quality": quality}

    done = [
        ran("integrated_gradients", 10),
        ran("kernels", 0.01),
        ran("grad_cam", 30, deletion_insertion={"deletion_auc": 0.1}),
    ]
    visit.page.route(
        re.compile(r"/v1/jobs\?kind=explain"), lambda route: route.fulfill(json={"jobs": [{"methods": done}]})
    )
    page = visit.open()
    total = page.locator(".total")
    methods(page, "integrated_gradients")
    expect(total).to_contain_text("in about 10\u00a0s.")
    page.get_by_text("Advanced options").click()
    page.get_by_label("quality").check()
    expect(total).to_contain_text("in about 57\u00a0s.")
    methods(page, "grad_cam")
    expect(total).to_contain_text("in about 30\u00a0s.")
    page.get_by_label("quality").uncheck()
    expect(total).to_contain_text(re.compile(r"in (about 0\.\d|under 0\.1)\u00a0s"))
    methods(page, "kernels")
    expect(total).to_contain_text("in under 0.1\u00a0s.")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (9.96e-5, "1.0 × 10⁻⁴"),
        (-1.23e-5, "−1.2 × 10⁻⁵"),
        (0.0996, "0.10"),
        (9.96, "10"),
        (-3.8, "−3.8"),
        (250, "250"),
    ],
)
def test_two_digits_are_shown(visit: Visit, value: float, words: str) -> None:
    page = visit.open()
    shown = page.evaluate("async (value) => (await import('/page/words.js')).number(value)", value)
    assert shown.replace("\u00a0", " ") == words


def test_what_was_opened_stays_open_when_the_job_ends(visit: Visit, service: Service) -> None:
    options = json.dumps({"seed": 12})  # asked by nobody before
    job = service.post(PHOTOS[3], methods="grad_cam,integrated_gradients,occlusion", options=options)
    page = visit.open(f"job/{job['id']}")
    page.get_by_text("What are log-odds?").click()
    expect_end(page)
    expect(page.locator(".verdict details")).to_have_attribute("open", "")


def test_the_veil_follows_the_theme(visit: Visit, jobs: list[dict[str, Any]]) -> None:
    page = visit.open(f"job/{jobs[0]['id']}")
    expect(page.locator(".legend canvas")).to_be_visible()
    before = pixels(page)
    page.locator("#theme").click()
    changed(page, before)


def test_a_flat_transparent_picture_on_a_narrow_screen(open_visit: OpenVisit, service: Service) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (120, 1200, 4), np.uint8)
    picture[..., 3] = 255
    picture[:, :500] = 0
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "PNG")
    answer = service.http.post(
        "/v1/jobs", files={"file": ("flat.png", stored.getvalue())}, data={"methods": "grad_cam"}
    )
    job = service.wait(answer.json()["id"])
    page = open_visit(viewport={"width": 360, "height": 740}).open(f"job/{job['id']}")
    expect(page.locator(".legend canvas")).to_be_visible()
    canvas = page.locator(".stage canvas")

    # White lies under what is transparent, as the network saw it.
    pixels(page)
    *colour, alpha = canvas.evaluate(
        """(canvas) => [...canvas.getContext("2d").getImageData(
               canvas.width / 4, canvas.height / 2, 1, 1).data]"""
    )
    assert min(colour) > 240
    assert alpha == 255

    # The buttons cover neither the number nor what is below the picture.
    canvas.hover()
    edges = "element => [element.getBoundingClientRect().top, element.getBoundingClientRect().bottom]"
    number, buttons, stage = (page.locator(one).evaluate(edges) for one in (".reading", ".zoom", ".stage"))
    assert buttons[1] <= number[0]
    assert number[1] <= stage[1]

    # At the picture's edge it turns round at once.
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    x, y = 180, sum(stage) / 2
    page.mouse.move(x, y - 70)
    page.mouse.down()
    page.mouse.move(x, y + 80)
    before = pixels(page)
    page.mouse.move(x, y + 75)
    assert pixels(page) != before
    page.mouse.up()

    # The keyboard goes the way one reads: on a narrow screen the answer comes first.
    answer_first = """() => Boolean(document.querySelector(".side").compareDocumentPosition(
        document.querySelector(".panel")) & Node.DOCUMENT_POSITION_FOLLOWING)"""
    assert page.evaluate(answer_first)
    page.set_viewport_size({"width": 1280, "height": 900})
    # A function: an expression that is not true at once would be evaluated within the page, which forbids it.
    page.wait_for_function(f"() => !({answer_first})()")
