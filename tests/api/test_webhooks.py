"""Webhooks over HTTP: receivers, secrets, the log of deliveries, and URLs that are refused at the door."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.submissions import check_receiver
from core.jobs import deliveries, webhooks
from core.jobs.deliveries import Outcome
from core.jobs.tables import Job
from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem

URL = "https://hooks.example.com/pawlens"


def register(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/webhooks", json={"url": URL} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def got(api: Api, path: str, **parameters: Any) -> dict[str, Any]:
    answer = api.http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def posted(api: Api, path: str, status: int) -> dict[str, Any]:
    answer = api.http.post(path)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def attempt(api: Api, status: int) -> None:
    """What is due is sent, as far as the database can tell."""
    with api.database.write() as session:
        claim = deliveries.claim(session, lease_seconds=60)
        assert claim is not None
        error = None if status == 200 else f"status {status}"
        deliveries.record(session, claim, Outcome(status, 0.02, error))


def test_a_receiver_is_registered_and_its_secret_shown_once(api: Api) -> None:
    made = register(api, events=["job.failed"])
    assert made["secret"].startswith("whsec_")
    assert made.pop("secret")
    assert made["url"] == URL
    assert made["events"] == ["job.failed"]
    assert (made["disabled_at"], made["failing_since"]) == (None, None)
    assert got(api, f"/v1/webhooks/{made['id']}") == made
    other = register(api)
    listed = api.http.get("/v1/webhooks")
    assert [webhook["id"] for webhook in listed.json()["webhooks"]] == [other["id"], made["id"]]
    assert "whsec_" not in listed.text


def test_a_rotation_shows_the_new_secret(api: Api) -> None:
    made = register(api)
    rotated = posted(api, f"/v1/webhooks/{made['id']}/rotate", 200)
    assert rotated["id"] == made["id"]
    assert rotated["secret"] != made["secret"]


def test_a_deleted_receiver_is_gone(api: Api) -> None:
    made = register(api)
    answer = api.http.delete(f"/v1/webhooks/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method, action in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate")):
        gone = api.http.request(method, f"/v1/webhooks/{made['id']}{action}")
        assert_problem(gone, 404, "not_found", made["id"])
    assert_problem(api.http.get(f"/v1/webhooks/{made['id']}/deliveries"), 404, "not_found")
    assert_problem(api.http.post(f"/v1/webhooks/{made['id']}/enable"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b'{"url":', "application/json", 400, "bad_request"),
        (b"", "application/json", 400, "bad_request"),
        (b'{"url": "https://example.com/"}', "text/plain", 415, "unsupported_media_type"),
        (b'"' + bytes(70_000) + b'"', "application/json", 413, "payload_too_large"),
    ],
)
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_that_cannot_be_read(
    sqlite_api: Api, body: bytes, kind: str, status: int, code: str, announced: bool
) -> None:
    content = body if announced else iter([body])
    answer = sqlite_api.http.post("/v1/webhooks", content=content, headers={"Content-Type": kind})
    assert_problem(answer, status, code)


def test_the_21st_receiver_is_refused(sqlite_api: Api) -> None:
    for _ in range(webhooks.MAX_ENDPOINTS):
        register(sqlite_api)
    assert_problem(sqlite_api.http.post("/v1/webhooks", json={"url": URL}), 409, "conflict", "20")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"url": 1}, "invalid_request"),
        ({"url": URL, "events": []}, "invalid_request"),
        ({"url": URL, "events": ["job.started"]}, "invalid_request"),
        ({"url": URL, "secret": "mine"}, "invalid_request"),
        ({"url": "https://example.com/" + "a" * 2048}, "invalid_request"),
        ({"url": "http://127.0.0.1/"}, "url_blocked"),
        ({"url": "http://169.254.169.254/latest"}, "url_blocked"),
        ({"url": "http://localhost:8000/"}, "url_blocked"),
        ({"url": "https://user:secret@example.com/"}, "url_blocked"),
        ({"url": "https://example.com:6379/"}, "url_blocked"),
        ({"url": "file:///etc/passwd"}, "url_blocked"),
        ({"url": "https://example.com/\0"}, "url_blocked"),
    ],
)
def test_a_receiver_that_cannot_be_is_refused(sqlite_api: Api, body: dict[str, Any], code: str) -> None:
    assert_problem(sqlite_api.http.post("/v1/webhooks", json=body), 422, code)
    assert got(sqlite_api, "/v1/webhooks") == {"webhooks": []}


def test_an_own_url_of_a_job_is_checked_at_the_door(sqlite_api: Api) -> None:
    def post(**fields: Any) -> list[httpx.Response]:
        """In each form of the body."""
        http = sqlite_api.http
        return [
            http.post("/v1/jobs", files={"file": PHOTO}, data=fields),
            http.post("/v1/jobs", data={"url": PUBLIC_URL} | fields),
            http.post("/v1/jobs", json={"image": {"url": PUBLIC_URL}} | fields),
        ]

    for answer in post(webhook_url="http://10.0.0.1/"):
        assert_problem(answer, 422, "url_blocked", "The webhook cannot be sent there.")
    for answer in post(webhook_url=URL, webhook_events=["job.started"]):
        assert_problem(answer, 422, "invalid_request", "webhook_events")
    for answer in post(webhook_events=["job.failed"]):
        assert_problem(answer, 422, "invalid_request", "webhook_events needs webhook_url")
    assert sqlite_api.count_jobs() == 0
    for answer in post(webhook_url=URL, webhook_events=["job.failed", "job.partial"]):
        assert answer.status_code == 202, answer.text
        with sqlite_api.database.read() as session:
            job = session.get_one(Job, answer.json()["id"])
            assert (job.webhook_url, job.webhook_events) == (URL, ["job.failed", "job.partial"])


def test_events_in_a_form_may_be_separated_by_commas(sqlite_api: Api) -> None:
    job = sqlite_api.post(webhook_url=URL, webhook_events="job.failed, job.partial")
    with sqlite_api.database.read() as session:
        assert session.get_one(Job, job["id"]).webhook_events == ["job.failed", "job.partial"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://Hooks.Example.com", "https://hooks.example.com/"),
        ("https://hooks.example.com?a=1", "https://hooks.example.com/?a=1"),
        ("https://hooks.example.com:443/x#part", "https://hooks.example.com/x"),
        ("http://hooks.example.com:8080/%C3%BC", "http://hooks.example.com:8080/%C3%BC"),
    ],
)
def test_a_receiver_is_kept_in_one_form(given: str, kept: str, sqlite_api: Api) -> None:
    assert check_receiver(given, sqlite_api.settings) == kept


def test_a_test_is_sent_whatever_the_filter(api: Api) -> None:
    made = register(api, events=["job.failed"])
    first = posted(api, f"/v1/webhooks/{made['id']}/test", 202)
    second = posted(api, f"/v1/webhooks/{made['id']}/test", 202)
    assert (first["event_type"], first["status"], first["attempts"]) == ("webhook.test", "pending", [])
    assert first["webhook_id"] == first["subject_id"] == made["id"]
    assert [first["event_seq"], second["event_seq"]] == [1, 2]
    attempt(api, 200)
    delivered = got(api, f"/v1/deliveries/{first['id']}")
    assert (delivered["status"], delivered["next_attempt_at"]) == ("delivered", None)
    ((one),) = delivered["attempts"]
    assert (one["attempt"], one["status_code"], one["error"], one["seconds"]) == (1, 200, None, 0.02)


def test_the_log_of_a_receiver_shows_every_attempt_in_pages(api: Api) -> None:
    made = register(api)
    jobs = [api.post(webhook_url=URL)["id"] for _ in range(3)]
    api.work()
    for _ in range(2):
        attempt(api, 500)
    path = f"/v1/webhooks/{made['id']}/deliveries"
    page = got(api, path, limit=2)
    rest = got(api, path, limit=2, cursor=page["next_cursor"])
    shown = [*page["deliveries"], *rest["deliveries"]]
    assert rest["next_cursor"] is None
    assert sorted(d["subject_id"] for d in shown) == sorted(jobs)
    assert [d["id"] for d in shown] == sorted((d["id"] for d in shown), reverse=True)
    every = got(api, "/v1/deliveries")["deliveries"]
    assert len(every) == 6
    tried = [d for d in every if d["attempts"]]
    assert [d["attempts"][0]["status_code"] for d in tried] == [500, 500]
    assert all(d["status"] == "pending" and d["next_attempt_at"] for d in tried)
    of_job = got(api, "/v1/deliveries", job_id=jobs[0])["deliveries"]
    assert {d["webhook_id"] for d in of_job} == {made["id"], None}
    for broken in ("msg_0", jobs[0], "' OR 1=1"):
        refused = api.http.get(path, params={"cursor": broken})
        assert_problem(refused, 422, "invalid_request", "cursor")


def test_a_redelivery_is_the_same_delivery(api: Api) -> None:
    job = api.post(webhook_url=URL)
    api.work()
    attempt(api, 200)
    (delivery,) = got(api, "/v1/deliveries", job_id=job["id"])["deliveries"]
    again = posted(api, f"/v1/deliveries/{delivery['id']}/redeliver", 202)
    assert (again["id"], again["payload"]) == (delivery["id"], delivery["payload"])
    assert again["status"] == "pending"
    with api.database.write() as session:
        assert deliveries.claim(session, lease_seconds=60) is not None
    in_flight = api.http.post(f"/v1/deliveries/{delivery['id']}/redeliver")
    assert_problem(in_flight, 409, "conflict", "being sent")
    for method, path in (("POST", "/v1/deliveries/msg_0/redeliver"), ("GET", "/v1/deliveries/msg_0")):
        assert_problem(api.http.request(method, path), 404, "not_found", "msg_0")


def test_a_disabled_receiver_is_tested_only_after_it_was_enabled(api: Api) -> None:
    made = register(api)
    posted(api, f"/v1/webhooks/{made['id']}/test", 202)
    attempt(api, 410)
    assert got(api, f"/v1/webhooks/{made['id']}")["disabled_at"] is not None
    refused = api.http.post(f"/v1/webhooks/{made['id']}/test")
    assert_problem(refused, 409, "conflict", f"/v1/webhooks/{made['id']}/enable")
    assert posted(api, f"/v1/webhooks/{made['id']}/enable", 200)["disabled_at"] is None
    posted(api, f"/v1/webhooks/{made['id']}/test", 202)


def test_the_secret_of_own_urls_stays_until_it_is_rotated(api: Api) -> None:
    first = got(api, "/v1/webhooks/secret")
    assert got(api, "/v1/webhooks/secret") == first == {**first, "previous_secret_until": None}
    rotated = posted(api, "/v1/webhooks/secret/rotate", 200)
    assert rotated["secret"] != first["secret"]
    assert rotated["previous_secret_until"] is not None
    assert got(api, "/v1/webhooks/secret") == rotated
    assert got(api, "/v1/webhooks") == {"webhooks": []}, "it is no receiver"


def test_a_canceled_job_is_told_and_hinted(sqlite_api: Api) -> None:
    job = sqlite_api.post(webhook_url=URL)
    assert sqlite_api.http.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "canceled"
    (delivery,) = got(sqlite_api, "/v1/deliveries", job_id=job["id"])["deliveries"]
    assert delivery["event_type"] == "job.canceled"


def test_what_is_signed_is_what_is_shown(sqlite_api: Api) -> None:
    job = sqlite_api.post(webhook_url=URL, custom_id="Mieze, schwarz-weiß")
    sqlite_api.work()
    (delivery,) = got(sqlite_api, "/v1/deliveries", job_id=job["id"])["deliveries"]
    with sqlite_api.database.write() as session:
        claim = deliveries.claim(session, lease_seconds=60)
    assert claim is not None
    assert claim.payload == delivery["payload"]


def test_no_cache_stores_a_secret(sqlite_api: Api) -> None:
    made = sqlite_api.http.post("/v1/webhooks", json={"url": URL})
    rotate = f"/v1/webhooks/{made.json()['id']}/rotate"
    http = sqlite_api.http
    for answer in (
        *(made, http.get("/v1/webhooks/secret")),
        *(http.post(path) for path in ("/v1/webhooks/secret/rotate", rotate)),
    ):
        assert answer.json()["secret"].startswith("whsec_")
        assert answer.headers["cache-control"] == "no-store"


def test_secrets_are_in_no_log(sqlite_api: Api) -> None:
    made = register(sqlite_api)
    posted(sqlite_api, f"/v1/webhooks/{made['id']}/rotate", 200)
    got(sqlite_api, "/v1/webhooks/secret")
    sqlite_api.line(path="/v1/webhooks/secret")  # there at all, so that the next line says something
    assert "whsec_" not in str(sqlite_api.lines())
