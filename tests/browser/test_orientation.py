"""Maps of upright pictures are laid over what the browser shows, so it must turn the same pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import Visit
from tests.core.vision.pictures import TURNED
from tests.processes import Service


@pytest.mark.parametrize("name", sorted(TURNED))
def test_the_browser_turns_what_the_service_turns(
    visit: Visit, service: Service, tmp_path: Path, name: str
) -> None:
    data, turns = TURNED[name]
    file = tmp_path / "picture"
    file.write_bytes(data)
    job = service.post(file)
    shown = visit.open().evaluate(
        """async (job) => {
            const { width, height } = await (await import("/page/artifacts.js")).picture(job);
            return { width, height };
        }""",
        job,
    )
    assert shown == {side: job["image"][side] for side in ("width", "height")}
    assert (shown["height"] > shown["width"]) is turns
