"""A small real HTTP server for tests of clients: it answers from a script and notes what it was asked."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.preflight import listen


@dataclass
class Asked:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    form: dict[str, str | bytes] = field(default_factory=dict)
    filename: str | None = None


class ScriptedServer:
    """``script`` maps "METHOD /path" to answers, given one after the other; the last one stays."""

    def __init__(self, script: Mapping[str, Sequence[Response]]) -> None:
        self.address = ""
        self.script: dict[str, list[Response]] = {
            "GET /livez": [JSONResponse({"status": "ok"})],
            **{call: list(answers) for call, answers in script.items()},
        }
        self.asked: list[Asked] = []

    async def answer(self, request: Request) -> Response:
        asked = Asked(
            request.method, request.url.path, request.query_params.multi_items(), dict(request.headers)
        )
        if request.headers.get("content-type", "").startswith("multipart/"):
            _, options = parse_options_header(request.headers["content-type"])
            for part in MultipartParser(io.BytesIO(await request.body()), options["boundary"]):
                asked.form[part.name] = part.value if part.filename is None else part.raw
                asked.filename = part.filename or asked.filename
        self.asked.append(asked)
        answers = self.script.get(f"{asked.method} {asked.path}")
        if answers is None:
            return problem(404, "not_found", "Not found", f"no {asked.path}")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def count(self, call: str) -> int:
        return sum(f"{asked.method} {asked.path}" == call for asked in self.asked)

    def last(self, call: str) -> Asked:
        return next(asked for asked in reversed(self.asked) if f"{asked.method} {asked.path}" == call)


@contextmanager
def serve(script: Mapping[str, Sequence[Response]]) -> Iterator[ScriptedServer]:
    """Run a server in a thread while the block runs."""
    scripted = ScriptedServer(script)
    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", scripted.answer, methods=methods)])
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        scripted.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield scripted
        finally:
            server.should_exit = True
            thread.join()


def problem(status: int, code: str, title: str, detail: str, **headers: str) -> Response:
    body = {
        "type": f"urn:pawlens:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body, status, named, media_type="application/problem+json")


def job(number: int = 1, status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    has_ended = status in ("succeeded", "failed")
    return {
        "id": f"job_{number:032x}",
        "kind": "predict",
        "status": status,
        "created_at": "2026-01-02T03:04:05.000000Z",
        "started_at": "2026-01-02T03:04:05.100000Z",
        "finished_at": "2026-01-02T03:04:05.250000Z" if has_ended else None,
        "name": f"{number}.jpg",
        "custom_id": None,
        "source_url": None,
        "prediction": {"label": "cat", "scores": {"cat": 0.9, "dog": 0.1}, "margin": 2.2}
        if status == "succeeded"
        else None,
        "methods": [],
        "progress": {"done": int(has_ended), "total": 1},
        "queue": None if has_ended else {"position": 3, "estimated_start_at": None},
        "error": None,
        "event_seq": 3 if has_ended else 1,
    } | changes
