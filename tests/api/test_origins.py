"""An open service is for its own machine, and not for the pages that a browser there happens to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from api import origins
from core import keys
from tests.api.conftest import PHOTO, Api, assert_problem, serving, settings_for

OWN = ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "app.localhost", "192.0.2.7"]
FOREIGN = [
    *(
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
    ),
    *("localhost@evil.example", "[::1", "127.1", "2130706433", "localhost:80:80@x", "\xff", "a b"),
]


@pytest.mark.parametrize("host", OWN)
def test_it_answers_to_its_own_names(sqlite_api: Api, host: str) -> None:
    assert sqlite_api.http.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_was_led_here_reads_nothing(sqlite_api: Api, host: str) -> None:
    """DNS rebinding: to the browser evil.example is this service now, and its scripts may read answers."""
    sent = [(b"Host", host.encode("latin-1"))]
    for method, path in (("GET", "/v1/jobs"), ("GET", "/v1/jobs/job_0/image"), ("POST", "/predict")):
        answer = sqlite_api.http.request(method, path, headers=sent)
        assert_problem(answer, 403, "foreign_page", "localhost")


FOREIGN_PAGES = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},  # from a browser that does not know the other one
    {"Origin": "null"},  # of a sandboxed frame
    {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=str)
def test_a_foreign_page_posts_nothing(sqlite_api: Api, headers: dict[str, str]) -> None:
    """A form can be posted to any address without asking (CSRF)."""
    job = sqlite_api.post()["id"]
    for request in (
        {"url": "/v1/jobs", "files": {"file": PHOTO}},
        {"url": f"/v1/jobs/{job}/cancel"},
        {"url": "/v1/webhooks", "json": {"url": "https://evil.example/"}},
        {"url": "/predict", "files": {"file": PHOTO}},
    ):
        assert_problem(sqlite_api.http.post(headers=headers, **request), 403, "foreign_page")
    assert_problem(sqlite_api.http.delete(f"/v1/jobs/{job}", headers=headers), 403, "foreign_page")
    assert sqlite_api.count_jobs() == 1
    assert sqlite_api.job(job)["status"] == "queued"
    assert sqlite_api.http.get("/v1/webhooks").json() == {"webhooks": []}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "{own}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "{own}"},
    ],
    ids=str,
)
def test_its_own_page_and_plain_programs_may_post(sqlite_api: Api, headers: dict[str, str]) -> None:
    own = str(sqlite_api.http.base_url).rstrip("/")
    sent = {name: value.format(own=own) for name, value in headers.items()}
    answer = sqlite_api.http.post("/v1/jobs", files={"file": PHOTO}, headers=sent)
    assert answer.status_code == 202


def test_a_configured_origin_may_post(sqlite_url: str, tmp_path: Path) -> None:
    friend = "https://app.example.com"
    with serving(settings_for(sqlite_url, tmp_path, cors_origins=[friend])) as api:
        for origin, status in ((friend, 202), (f"{friend}.evil.example", 403)):
            sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert api.http.post("/v1/jobs", files={"file": PHOTO}, headers=sent).status_code == status


def test_with_a_key_or_for_everyone_it_has_any_name(sqlite_url: str, tmp_path: Path) -> None:
    proxied = {"Host": "pets.example.com", "Origin": "https://app.example.com"}
    with serving(settings_for(sqlite_url, tmp_path, no_auth=True)) as api:
        assert api.http.post("/v1/jobs", files={"file": PHOTO}, headers=proxied).status_code == 202
    with serving(settings_for(sqlite_url, tmp_path)) as api:
        with api.database.write() as session:
            _, secret = keys.create(session, "me")
        proxied["Authorization"] = f"Bearer {secret}"
        api.http.get("/v1/jobs", headers=proxied)
        assert api.http.post("/v1/jobs", files={"file": PHOTO}, headers=proxied).status_code == 202


def test_a_request_without_host_comes_from_no_browser() -> None:
    """HTTP/1.0 has none; every browser sends it."""
    origins.check("POST", Headers({}), ())
