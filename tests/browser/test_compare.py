"""Two jobs side by side, and a job that explains another class than its answer."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import expect

from tests.browser.conftest import Visit


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
