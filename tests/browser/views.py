"""What several tests look at on the page."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.processes import PHOTOS

METHODS = ["grad_cam", "integrated_gradients", "occlusion", "feature_maps", "kernels"]


def choose(page: Page, *files: Path | dict[str, object]) -> None:
    """Put pictures into the form, as the button for it does."""
    page.locator("input[type=file]").first.set_input_files(list(files))  # type: ignore[arg-type]


def methods(page: Page, *wanted: str) -> None:
    for name in METHODS:
        page.locator(f"#method-{name}").set_checked(name in wanted)


def ask(page: Page, *wanted: str, photo: Path = PHOTOS[0]) -> str:
    """Ask about a photo on the first view; the job's id."""
    methods(page, *wanted)
    choose(page, photo)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_url("**/#/job/*")
    return page.url.rpartition("/")[2]


def state(page: Page) -> Locator:
    return page.locator(".page-head .pill")


def expect_end(page: Page, words: str = "done") -> None:
    expect(state(page)).to_have_text(words)


def pixels(page: Page) -> str:
    """What the viewer's canvas shows, after it has drawn."""
    drawn: str = page.evaluate(
        """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
               resolve(document.querySelector(".stage canvas").toDataURL()))))"""
    )
    return drawn


def changed(page: Page, before: str) -> str:
    """The pixels as they are after a change, which must be others than before."""
    page.wait_for_function(
        "before => document.querySelector('.stage canvas').toDataURL() !== before", arg=before
    )
    return pixels(page)
