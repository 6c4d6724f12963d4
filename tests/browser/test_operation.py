"""Queues, workers, the network, webhooks: what an operator sees and does."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.processes import PHOTOS, Service


def test_queues_and_workers_are_live(visit: Visit, service: Service) -> None:
    metrics = {"validation": {"accuracy": 0.9}, "test": {"pictures": 1840, "accuracy": 0.9}}
    model = {**service.http.get("/v1/model").json(), "metrics": metrics}
    visit.page.route("**/v1/model", lambda route: route.fulfill(json=model))
    page = visit.open("operation")
    expect(page.locator(".network td:nth-child(2)")).to_have_text(["not noted", "1,840"])
    expect(page.get_by_role("list", name="Workers").get_by_role("listitem")).to_have_count(3)
    expect(page.locator(".health [data-state=ok]")).to_have_count(3)
    expect(page.locator(".network")).to_contain_text("resnet101")
    before = int(page.locator(".queue .big").first.inner_text())
    for job in [service.post(photo) for photo in PHOTOS[:5]]:
        service.wait(job["id"])
    rate = page.locator(".queue .big").first
    expect(rate).not_to_have_text(str(before))


def test_a_receiver_from_registration_to_redelivery(visit: Visit) -> None:
    page = visit.open("operation")
    page.get_by_label("Tell this address").fill("https://receiver.invalid/hook")  # a name that never resolves
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".secret code")).to_have_text(re.compile(r"^whsec_\S+$"))
    page.get_by_role("button", name="I have kept it").click()
    expect(page.locator(".secret")).to_have_count(0)

    expect(page.get_by_role("list", name="Receivers")).to_contain_text("except of jobs within a batch")
    page.get_by_role("button", name="Test").click()
    delivery = page.get_by_role("list", name="Deliveries").locator("li", has_text="webhook.test")
    expect(delivery).to_have_count(1)
    page.locator("h1").focus()  # a list is not drawn anew under somebody's hands
    expect(delivery).to_contain_text("1\u00a0attempt")
    delivery.get_by_role("button", name="Send again").click()
    expect(page.get_by_text("It is sent again.")).to_be_visible()

    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove https://receiver.invalid/hook").click()
    expect(page.get_by_text("No receiver is registered.")).to_be_visible()


def test_a_refused_receiver_is_explained(visit: Visit) -> None:
    visit.refusals = 1
    page = visit.open("operation")
    page.get_by_label("Tell this address").fill("https://me:secret@example.com/hook")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be sent there")
