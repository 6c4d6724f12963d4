"""From a picture to its answer: methods arrive, a job is canceled, connections break, pages are reloaded."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Route, expect

from tests.browser.conftest import OpenVisit, Visit
from tests.browser.views import ask, expect_end, pixels, state
from tests.processes import PHOTOS, Service, eventually


def test_the_answer_comes_first_and_then_each_method(visit: Visit) -> None:
    page = visit.open()
    ask(page, "grad_cam", "integrated_gradients", "occlusion")
    expect(page.locator(".answer")).to_have_text(re.compile(r"(cat|dog) .*%"))
    last = page.locator("#tab-occlusion")
    expect(last).to_have_attribute("data-state", re.compile("queued|running"))
    # The one at work is on show, and its map so far lies on the picture before it is done.
    expect(page.locator("#tab-integrated_gradients")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#tab-integrated_gradients progress")).to_be_visible()
    expect(last).to_have_attribute("data-state", "succeeded")
    expect_end(page)
    expect(page.locator(".findings li").first).to_be_visible()
    expect(page.locator("[role=tab][data-state=succeeded]")).to_have_count(3)


def test_a_partial_map_is_refined_in_place(visit: Visit) -> None:
    page = visit.open()
    with page.expect_response(lambda answer: answer.url.endswith("/occlusion/partial.png")) as answer:
        ask(page, "occlusion", photo=PHOTOS[4])
    assert answer.value.status in (200, 404)  # it may be done by the time that it is asked for
    expect_end(page)
    expect(page.locator(".legend canvas")).to_be_visible()


def test_numbers_lie_where_the_network_saw_them_when_it_explained(
    visit: Visit, open_visit: OpenVisit, service: Service
) -> None:
    # As if the weights were others by now, which look at the middle of a picture alone.
    model = {**service.http.get("/v1/model").json(), "resize_scale": 2.0}
    for one in (visit, again := open_visit()):
        one.page.route("**/v1/model", lambda route: route.fulfill(json=model))
    job_id = ask(visit.open(), "grad_cam", photo=PHOTOS[7])
    expect_end(visit.page)
    for page in (visit.page, again.open(f"job/{job_id}")):  # watched from the beginning, opened afterwards
        expect(page.locator(".legend canvas")).to_be_visible()
        box = page.locator(".stage canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.03 * box["height"])
        expect(page.locator(".reading")).to_contain_text("log-odds")


def test_cancel(visit: Visit) -> None:
    page = visit.open()
    job_id = ask(page, "grad_cam", "integrated_gradients", "occlusion", "feature_maps", photo=PHOTOS[1])
    page.get_by_role("button", name="Cancel").click()
    expect_end(page, "canceled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert visit.page.url.endswith(job_id)


def test_a_job_survives_reload_and_reopens_by_its_link(visit: Visit, open_visit: OpenVisit) -> None:
    page = visit.open()
    ask(page, "grad_cam", "occlusion", photo=PHOTOS[2])
    page.reload()
    expect_end(page)
    page.locator("#tab-grad_cam").click()
    expect(page).to_have_url(re.compile(r"/grad_cam$"))
    again = open_visit()
    again.page.goto(page.url)
    expect(again.page.locator("#tab-grad_cam")).to_have_attribute("aria-selected", "true")
    expect(again.page.locator(".answer")).to_be_visible()
    assert pixels(again.page)


def test_the_api_may_restart_while_a_job_runs(visit: Visit, service: Service) -> None:
    visit.refusals = 1
    page = visit.open()
    ask(page, "grad_cam", "integrated_gradients", "occlusion", "feature_maps", photo=PHOTOS[3])
    expect(page.locator(".answer")).to_be_visible()
    service.kill("api")
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    service.start("api")
    eventually(service.workers, what="the API")
    expect(page.get_by_text("The connection is lost")).to_be_hidden()
    expect_end(page)
    expect(page.locator("[role=tab][data-state=succeeded]")).to_have_count(4)


def test_jobs_are_listed_and_lead_back(visit: Visit) -> None:
    page = visit.open()
    job_id = ask(page, photo=PHOTOS[5])
    expect_end(page)
    page.get_by_role("link", name="Jobs").click()
    row = page.locator(f".rows a[href='#/job/{job_id}']")
    expect(row).to_contain_text(PHOTOS[5].name)
    expect(row).to_contain_text("Only the answer")
    row.click()
    expect(state(page)).to_have_text("done")
    expect(page.get_by_text("No explanation was asked for.")).to_be_visible()


def test_a_list_of_jobs_has_no_gap(visit: Visit, jobs: list[dict[str, Any]]) -> None:
    job = {**jobs[0], "image": None}
    numbers = list(range(60, 0, -1))  # newest first
    page = visit.page

    def answer(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        newest = int(query["cursor"][0][4:]) if "cursor" in query else numbers[0] + 1
        found = [number for number in numbers if number < newest]
        some = [{**job, "id": f"job_{number:032}"} for number in found[:24]]
        route.fulfill(json={"jobs": some, "next_cursor": some[-1]["id"] if len(found) > 24 else None})

    def shown() -> list[int]:
        ids: list[str] = page.locator(".rows > li").evaluate_all("rows => rows.map((row) => row.dataset.id)")
        return [int(name[4:]) for name in ids]

    page.route("**/v1/jobs?**", answer)
    visit.open("jobs")
    older = page.get_by_role("button", name="Older ones")
    for count in (48, 60):
        older.click()
        expect(page.locator(".rows > li")).to_have_count(count)
    expect(older).to_be_hidden()
    row = page.locator(".rows a").first
    row.focus()
    job["event_seq"] += 1  # each of them has moved on
    page.wait_for_timeout(4000)
    expect(row).to_be_focused()
    numbers[:0] = range(210, 60, -1)  # a batch
    expect(page.locator(".rows > li")).to_have_count(24)
    older.click()
    expect(page.locator(".rows > li")).to_have_count(48)
    assert shown() == numbers[:48]


def test_a_view_that_was_refused_can_be_tried_again(visit: Visit, service: Service) -> None:
    visit.refusals = 1
    page = visit.page
    page.route("**/v1/jobs?**", lambda route: route.fulfill(status=503, json={"detail": "Not now."}))
    visit.open("jobs")
    expect(page.get_by_role("alert")).to_contain_text("Not now.")
    expect(page.get_by_role("button", name="Older ones")).to_be_hidden()
    job = service.post(PHOTOS[5])
    page.unroute("**/v1/jobs?**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(f".rows a[href='#/job/{job['id']}']")).to_be_visible()


def test_a_job_that_is_not_there(visit: Visit) -> None:
    visit.refusals = 1
    page = visit.open("job/job_00000000000000000000000000000000")
    expect(page.get_by_role("heading", name="This job cannot be shown")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("job")
