"""A thousand pictures in one request, through real processes, one of which is killed on the way."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from core.jobs.states import JobState
from tests.processes import Service, eventually, running

pytestmark = pytest.mark.service

PICTURES = 1000
MIB = 1 << 20
GROWTH_BYTES = 48 * MIB
"""What a process may have more at the end than after a third: a tenth of what is asked of a model worker."""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # short: it holds a socket


@pytest.fixture
def service(folder: Path, database_url: str) -> Iterator[Service]:
    with running(folder, database_url, "predict", stand_in_seconds=0.05) as started:
        started.start_worker("predict", "other")
        eventually(lambda: started.workers().get("predict") == 2, what="both workers", seconds=60)
        yield started


def thousand_photos() -> bytes:
    """A zip of JPEGs of 32 x 32 pixels, no two alike: noise of a seed."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for seed in range(PICTURES):
            noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(noise).save(picture, "JPEG")
            archive.writestr(f"folder {seed % 7}/{seed:04}.jpg", picture.getvalue())
    return data.getvalue()


def resident(service: Service) -> dict[tuple[str, int], int]:
    """Bytes in memory of each process and of its children, by name and process id."""
    found = {}
    for name, process in service.processes.items():
        parent = psutil.Process(process.pid)
        for one in [parent, *parent.children(recursive=True)]:
            found[name, one.pid] = one.memory_info().rss
    return found


def poll(service: Service, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it is now; its counts add up at every moment."""
    now = dict(service.http.get(batch["links"]["self"]).json())
    assert set(now["counts"]) == set(JobState)
    assert sum(now["counts"].values()) == now["total"] == PICTURES
    return now


def test_a_thousand_pictures_and_a_killed_worker(service: Service) -> None:
    answer = service.http.post(
        "/v1/batches",
        files={"archive": ("photos.zip", thousand_photos(), "application/zip")},
        data={"metadata": '{"album": "noise"}'},
        timeout=120,
    )
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    done = 0
    before: dict[tuple[str, int], int] = {}
    while (now := poll(service, batch))["status"] == "running":
        assert now["progress"]["done"] >= done, "what is done stays done"
        done = now["progress"]["done"]
        if not before and done >= PICTURES // 3:
            os.kill(service.child_of("other").pid, signal.SIGKILL)  # in the middle of a micro-batch
            service.kill("other")
            before = resident(service)
    assert (now["status"], now["counts"]["succeeded"], now["rejected"]) == ("completed", PICTURES, 0)
    assert before, "it was killed while it worked"
    after = resident(service)
    grown = {who: after[who] - size for who, size in before.items() if who in after}
    assert grown.keys() >= {
        ("api", service.processes["api"].pid),
        ("predict", service.processes["predict"].pid),
    }
    assert max(grown.values()) < GROWTH_BYTES, grown

    lines = service.http.get(batch["links"]["results"]).text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["index"] for row in rows] == list(range(PICTURES))
    assert len({row["job_id"] for row in rows}) == PICTURES
    assert [row["name"] for row in rows] == [f"folder {i % 7}/{i:04}.jpg" for i in range(PICTURES)]
    assert {row["status"] for row in rows} == {"succeeded"}
    assert all(row["prediction"]["label"] in row["prediction"]["scores"] for row in rows)

    stream = service.http.get(batch["links"]["events"]).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("batch.completed") == 1
    assert (events[0]["type"], events[-1]["type"]) == ("batch.created", "batch.completed")
    assert all(sum(event["counts"].values()) == PICTURES for event in events)


@pytest.fixture
def slow_service(folder: Path, database_url: str) -> Iterator[Service]:
    """A thousand pictures take it a minute: it is never done before it is asked to stop."""
    with running(folder, database_url, "predict", stand_in_seconds=1, max_batch=16) as started:
        yield started


def test_a_thousand_pictures_canceled_half_way(slow_service: Service) -> None:
    service = slow_service
    files = {"archive": ("photos.zip", thousand_photos(), "application/zip")}
    batch = service.http.post("/v1/batches", files=files, timeout=120).json()
    eventually(lambda: poll(service, batch)["progress"]["done"] > 20, what="some results")
    answer = service.http.post(batch["links"]["cancel"])
    assert answer.status_code == 200, answer.text
    ended = service.http.get(batch["links"]["self"], params={"wait": 20}).json()
    assert ended["status"] == "canceled"
    assert ended["counts"]["succeeded"] + ended["counts"]["canceled"] == PICTURES
    assert ended["counts"]["canceled"] > 0
    rows = [json.loads(line) for line in service.http.get(batch["links"]["results"]).text.splitlines()]
    assert [row["index"] for row in rows] == list(range(PICTURES))
    assert sum(row["prediction"] is not None for row in rows) == ended["counts"]["succeeded"]
