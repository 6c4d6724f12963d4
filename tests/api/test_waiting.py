"""What a request that waits keeps: not the picture that it brought, and nothing once its client has left."""

from __future__ import annotations

import base64
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import Request

from api import submissions
from api.routes import jobs, legacy
from tests.api.batch_forms import of_files
from tests.api.conftest import PHOTO, Api
from tests.processes import eventually

BY_FILE = {"files": {"file": ("cat.jpg", PHOTO)}}
IN_JSON = {"json": {"image": {"base64": base64.b64encode(PHOTO).decode()}}}


@pytest.mark.parametrize(
    ("path", "request_"), [("/v1/jobs", BY_FILE), ("/v1/jobs", IN_JSON), ("/predict", BY_FILE)]
)
def test_what_was_posted_is_let_go_of(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, path: str, request_: dict[str, Any]
) -> None:
    """A picture has up to 20 MB, and a wait up to ten minutes."""
    read: list[weakref.ref[object]] = []
    requests: list[Request] = []

    def noted(function: Any) -> Any:
        async def noting(request: Request, *arguments: Any) -> Any:
            what = await function(request, *arguments)
            read.extend(map(weakref.ref, what if isinstance(what, tuple) else [what]))
            requests.append(request)
            return what

        return noting

    monkeypatch.setattr(jobs, "read_job", noted(submissions.read_job))
    monkeypatch.setattr(legacy, "_read", noted(legacy._read))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sqlite_api.http.post, path, headers={"Prefer": "wait=30"}, **request_)
        eventually(lambda: read and all(each() is None for each in read), seconds=10)
        assert not asked.done()
        assert not hasattr(requests[0], "_body")  # in which Starlette would keep it
        sqlite_api.work()
        assert asked.result().status_code == 200


@pytest.mark.parametrize(
    "request_", ["POST /v1/jobs", "POST /predict", "POST /predict/advanced", "GET job", "GET batch"]
)
def test_a_client_that_leaves_ends_its_wait(sqlite_api: Api, request_: str) -> None:
    links = {"job": sqlite_api.post, "batch": lambda: of_files(sqlite_api)}
    method, path = request_.split()
    if method == "GET":
        path = links[path]()["links"]["self"]
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"" if method == "GET" else form + PHOTO + b"\r\n--b--\r\n"
    head = f"{method} {path}?wait=60 HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    watcher = sqlite_api.app.state.service.watcher
    with sqlite_api.connect() as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: watcher._waiting, what="it waits")
    eventually(lambda: not watcher._waiting, seconds=10, what="it waits no more")
    assert sqlite_api.line(message="request", method=method, path=path)["status"] == 400
    assert not sqlite_api.lines(level="ERROR")
    assert sqlite_api.count_jobs() > 0
