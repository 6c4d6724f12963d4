"""What every answer has: an id that leads to the log, a time, and CORS for whom it was configured."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import PHOTO, Api, assert_problem, serving, settings_for

ANSWERS = [
    *[("GET", "/livez", 200), ("GET", "/v1/jobs", 200), ("GET", "/docs", 200), ("GET", "/openapi.json", 200)],
    *[("GET", "/", 200), ("GET", "/v1/jobs/job_0", 404), ("GET", "/nothing", 404), ("PUT", "/v1/jobs", 405)],
    *[("POST", "/v1/jobs", 415), ("GET", "/v1/jobs?limit=0", 422)],
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_an_id_and_a_time(sqlite_api: Api, method: str, path: str, status: int) -> None:
    answer = sqlite_api.http.request(method, path)
    assert answer.status_code == status
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-correlation-id"])
    assert 0 <= float(answer.headers["x-process-time-ms"]) < 60_000
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/jobs/"), ("POST", "/predict/"), ("GET", "/docs/")]
)
def test_a_slash_too_many_leads_nowhere(sqlite_url: str, tmp_path: Path, method: str, path: str) -> None:
    """Least of all to where the request's Host says, with the body and the key."""
    with serving(settings_for(sqlite_url, tmp_path, no_auth=True)) as running:
        answer = running.http.request(method, path, headers={"Host": "evil.example"})
    assert_problem(answer, 404)
    assert "location" not in answer.headers


HEADERS_OF_THE_MOMENT = {"date", "x-correlation-id", "x-process-time-ms"}


@pytest.mark.parametrize(
    "path",
    ["/", "/livez", "/metrics", "/docs", "/openapi.json", "/v1/jobs", "/v1/jobs/job_0", "/nothing", "{job}"],
)
def test_head_is_get_without_the_content(sqlite_api: Api, path: str) -> None:
    path = path.format(job=f"/v1/jobs/{sqlite_api.post()['id']}")
    head, get = sqlite_api.http.head(path), sqlite_api.http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    told, meant = (
        {k: v for k, v in a.headers.items() if k not in HEADERS_OF_THE_MOMENT} for a in (head, get)
    )
    if path == "/metrics":  # they count requests, and this was one
        told.pop("content-length", None), meant.pop("content-length", None)
    assert told == meant


def test_head_of_a_stream_ends_with_its_headers(sqlite_api: Api) -> None:
    """On the same connection the next answer follows at once, although the job has not ended."""
    events = f"/v1/jobs/{sqlite_api.post()['id']}/events"
    with socket.create_connection(sqlite_api.address, timeout=10) as client:
        ask = "HEAD {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
        client.sendall(ask.format(events, "").encode())
        first = client.recv(65536)
        client.sendall(ask.format("/livez", "Connection: close\r\n").encode())
        rest = b"".join(iter(lambda: client.recv(65536), b""))
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/event-stream" in first
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"\r\n\r\n")
    sqlite_api.line(message="request", method="HEAD", path=events, status=200)


def test_a_body_that_is_refused_unread_has_them_too(sqlite_api: Api) -> None:
    answer = sqlite_api.http.post("/v1/jobs", content=bytes(3 << 20), headers={"X-Correlation-ID": "large"})
    assert_problem(answer, 413)
    assert answer.headers["x-correlation-id"] == "large"


@pytest.mark.parametrize("given", ["abc", "550e8400-e29b-41d4-a716-446655440000", "a.b:c_d-1", "x" * 128])
def test_a_given_id_is_kept(sqlite_api: Api, given: str) -> None:
    answer = sqlite_api.http.get("/nothing", headers={"X-Correlation-ID": given})
    assert answer.headers["x-correlation-id"] == given
    assert answer.json()["correlation_id"] == given
    line = sqlite_api.line(message="request", correlation_id=given)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/nothing", 404)


@pytest.mark.parametrize(
    "hostile",
    ["", "a b", "x" * 129, '"; DROP TABLE', "<script>", "a\tb", "\xe4", "{}", "id\u2028".encode()],
)
def test_a_hostile_id_is_replaced(sqlite_api: Api, hostile: str | bytes) -> None:
    sent = hostile if isinstance(hostile, bytes) else hostile.encode("latin-1")
    answer = sqlite_api.http.get("/nothing", headers=[(b"X-Correlation-ID", sent)])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-correlation-id"])
    assert_problem(answer, 404)


def test_the_id_follows_the_job_to_the_worker(api: Api) -> None:
    """From the request through the row to the line that the worker writes, in another process."""
    answer = api.http.post("/v1/jobs", files={"file": PHOTO}, headers={"X-Correlation-ID": "order-66"})
    api.work()
    line = api.line(message="job succeeded")
    assert (line["correlation_id"], line["job_id"]) == ("order-66", answer.json()["id"])


def test_ids_of_requests_at_the_same_time_do_not_mix(sqlite_api: Api) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> tuple[str, str]:
        answer = sqlite_api.http.get(f"/v1/jobs/job_{number}", headers={"X-Correlation-ID": f"id-{number}"})
        return answer.headers["x-correlation-id"], answer.json()["correlation_id"]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(40)))
    assert answers == [(f"id-{number}", f"id-{number}") for number in range(40)]


def test_probes_are_silent_while_they_succeed(sqlite_api: Api) -> None:
    levels = {"/livez": "DEBUG", "/readyz": "DEBUG", "/health": "DEBUG", "/v1/jobs": "INFO"}
    for path, level in levels.items():
        # By an id of its own: the line of an earlier test's last request may come only now.
        correlation = f"probe{path.replace('/', '-')}"
        sqlite_api.http.get(path, headers={"X-Correlation-ID": correlation})
        assert sqlite_api.line(message="request", correlation_id=correlation)["level"] == level


class TestCors:
    ORIGIN = "https://app.example.com"

    @pytest.fixture
    def cors_api(self, sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
        with serving(settings_for(sqlite_url, tmp_path, cors_origins=[self.ORIGIN])) as running:
            yield running

    def test_a_configured_origin_may_read_answers_and_refusals(self, cors_api: Api) -> None:
        for path in ("/v1/jobs", "/nothing"):
            answer = cors_api.http.get(path, headers={"Origin": self.ORIGIN})
            assert answer.headers["access-control-allow-origin"] == self.ORIGIN
            exposed = answer.headers["access-control-expose-headers"]
            assert {"X-Correlation-ID", "Location", "Retry-After", "ETag"} <= set(exposed.split(", "))
            assert "origin" in answer.headers["vary"].lower()

    def test_it_may_ask_first(self, cors_api: Api) -> None:
        wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefer"}
        answer = cors_api.http.options("/v1/jobs", headers={"Origin": self.ORIGIN, **wish})
        assert answer.status_code == 200
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "prefer" in answer.headers["access-control-allow-headers"]
        assert answer.headers["x-correlation-id"]

    def test_another_origin_may_not(self, cors_api: Api) -> None:
        for origin in ("https://evil.example", "https://app.example.com.evil.example", "null"):
            answer = cors_api.http.get("/v1/jobs", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            wish = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            assert cors_api.http.options("/v1/jobs", headers=wish).status_code == 400

    def test_without_configuration_nobody_may(self, sqlite_api: Api) -> None:
        answer = sqlite_api.http.get("/v1/jobs", headers={"Origin": self.ORIGIN})
        assert "access-control-allow-origin" not in answer.headers
