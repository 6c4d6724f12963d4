"""``pawlens up`` with the real network, as a person starts it and uses it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.processes import EXAMPLES, FINAL, eventually

pytestmark = pytest.mark.service

CAT, DOG = EXAMPLES / "Bengal_43.jpg", EXAMPLES / "american_bulldog_38.jpg"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a running service, and the process that runs it."""
    folder = tmp_path_factory.mktemp("u")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "up", "--port", "0", "--data", str(folder)],
        env=environment | {"PAWLENS_ALLOW_PRIVATE_NETWORK": "true", "PAWLENS_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    while "Pawlens is ready at" not in said:
        line = process.stdout.readline()
        assert line, f"it stopped:\n{said}"
        said += line
    found = re.search(r"ready at (http://\S+)", said)
    assert found is not None
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    yield found[1], process
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    drain.join()
    process.stdout.close()
    # A zombie has ended; its new parent has only not asked for its status yet.
    left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not left
    assert not (folder / "valkey.sock").exists()


def upload(photo: Path) -> dict[str, tuple[str, bytes]]:
    return {"file": (photo.name, photo.read_bytes())}


@pytest.fixture
def http(up: tuple[str, Any]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up[0], timeout=120) as client:
        yield client


def wait(http: httpx.Client, job_id: str, seconds: float = 180) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
        return job if job["status"] in FINAL else None

    return dict(eventually(ended, seconds=seconds, what="the end of the job"))


@pytest.mark.parametrize(("photo", "label"), [(CAT, "cat"), (DOG, "dog")])
def test_a_photo_gets_its_label(http: httpx.Client, photo: Path, label: str) -> None:
    answer = http.post("/v1/jobs", files=upload(photo))
    assert answer.status_code == 202
    job = wait(http, answer.json()["id"])
    assert (job["status"], job["error"]) == ("succeeded", None)
    scores = job["prediction"]["scores"]
    assert job["prediction"]["label"] == label == max(scores, key=scores.get)
    assert sum(scores.values()) == pytest.approx(1)
    assert set(job["timings"]) == {"queued_ms", "decode_ms", "inference_ms", "batch_size"}
    assert job["model"]["digest"] == http.get("/v1/model").json()["digest"]
    assert http.get(job["links"]["image"]).content == photo.read_bytes()


def test_a_url_is_downloaded_and_predicted(http: httpx.Client) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(EXAMPLES))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        good = http.post("/v1/jobs", data={"url": f"{base}/{CAT.name}"}).json()
        missing = http.post("/v1/jobs", json={"image": {"url": f"{base}/nothing.jpg"}}).json()
        text = http.post("/v1/jobs", json={"image": {"url": f"{base}/README.md"}}).json()
        assert {good["status"], missing["status"], text["status"]} <= {"fetching", "queued", "failed"}
        job = wait(http, good["id"])
        assert (job["status"], job["prediction"]["label"]) == ("succeeded", "cat")
        assert wait(http, missing["id"])["error"]["code"] == "fetch_failed"
        assert wait(http, text["id"])["error"]["code"] == "unsupported_media_type"
    finally:
        server.shutdown()
        server.server_close()


def test_five_explanations_come_with_pictures_numbers_and_a_record(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", files=upload(CAT), data={"methods": "all"})
    job = wait(http, answer.json()["id"])
    assert job["status"] == "succeeded", job
    methods = {method["name"]: method for method in job["methods"]}
    assert list(methods) == [method["name"] for method in http.get("/v1/methods").json()["methods"]]
    for method in methods.values():
        urls = {artifact["name"]: artifact["url"] for artifact in method["artifacts"]}
        panel = Image.open(io.BytesIO(http.get(urls["panel.png"]).content))
        assert panel.width >= 800
        if "attribution.npy" in urls:
            values = np.load(io.BytesIO(http.get(urls["attribution.npy"]).content), allow_pickle=False)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            assert values.any()
    quality = methods["integrated_gradients"]["quality"]
    assert quality["converged"]
    assert quality["completeness_error"] <= 0.01


def test_the_original_contract(http: httpx.Client) -> None:
    assert http.get("/health").json()["status"] == "ok"
    plain = http.post("/predict", files=upload(DOG)).json()
    assert set(plain) == {"label", "scores", "meta"}
    assert plain["label"] == "dog"
    form = {"what": "gradcam,kernels"}
    advanced = http.post("/predict/advanced", files=upload(DOG), data=form).json()
    assert set(advanced) == {"label", "scores", "meta", "artifacts"}
    assert set(advanced["artifacts"]) == {"gradcam_panel", "kernels_panel"}
    for url in advanced["artifacts"].values():
        prefix, _, data = url.partition(",")
        assert prefix == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"


def test_the_command_line_predicts(up: tuple[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "predict", str(CAT), str(DOG), "--server", up[0], "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prediction"]["label"] for row in rows] == ["cat", "dog"]


def test_a_correlation_id_is_in_the_logs_of_api_and_worker(http: httpx.Client, up: Any) -> None:
    answer = http.post("/v1/jobs", files=upload(CAT), headers={"X-Correlation-ID": "find-me-4711"})
    assert answer.headers["X-Correlation-ID"] == "find-me-4711"
    wait(http, answer.json()["id"])
    data = Path(_data_dir(up[1].pid))
    lines = [
        json.loads(line)
        for name in ("api", "predict")
        for line in (data / "logs" / f"{name}.log").read_text().splitlines()
        if "find-me-4711" in line
    ]
    assert {line["service"] for line in lines} == {"api", "worker-predict"}
    assert answer.json()["id"] in {line.get("job_id") for line in lines}


def _data_dir(pid: int) -> str:
    arguments = psutil.Process(pid).cmdline()
    return arguments[arguments.index("--data") + 1]


def test_the_command_line_explains_and_keeps_what_it_was_given(up: tuple[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "why"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "api.cli", "explain", str(CAT), "--out", str(out), "--server", up[0]),
            *("--methods", "grad_cam,kernels", "--target", "dog"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("cat ")
    job = json.loads((out / "job.json").read_text())
    assert job["status"] == "succeeded"
    names = {f"{method['name']}.{file['name']}" for method in job["methods"] for file in method["artifacts"]}
    assert {file.name for file in out.iterdir()} == names | {"job.json"}
    assert {"grad_cam.panel.png", "grad_cam.attribution.npy", "kernels.panel.png"} <= names
    for method in job["methods"]:
        for file in method["artifacts"]:
            assert (out / f"{method['name']}.{file['name']}").stat().st_size == file["bytes"]
