"""Idempotency-Key: the same request twice makes one job, another request with the key none."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from core.jobs.tables import IdempotencyKey
from tests.api.conftest import EXAMPLES, PHOTO, PUBLIC_URL, Api, assert_problem, serving, settings_for

OTHER = EXAMPLES[1].read_bytes()


def post(api: Api, key: str | None = "k-1", data: bytes = PHOTO, **fields: str) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.http.post("/v1/jobs", files={"file": ("cat.jpg", data)}, data=fields, headers=headers)


def assert_replayed(answer: httpx.Response, job_id: str, *, status: int = 202) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["id"] == job_id
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"


def test_the_same_request_is_the_same_job(api: Api) -> None:
    first = post(api, custom_id="7", priority="3")
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    job_id = first.json()["id"]
    again = post(api, custom_id="7", priority="3")
    assert again.request.headers["content-type"] != first.request.headers["content-type"]  # the boundary
    assert_replayed(again, job_id)
    assert api.count_jobs() == 1


def test_the_answer_is_the_job_as_it_is_then(api: Api) -> None:
    job_id = post(api).json()["id"]
    api.work()
    again = post(api)
    assert_replayed(again, job_id)
    assert again.json()["status"] == "succeeded"
    waited = api.http.post(
        "/v1/jobs",
        files={"file": ("cat.jpg", PHOTO)},
        headers={"Idempotency-Key": "k-1", "Prefer": "wait=5"},
    )
    assert_replayed(waited, job_id, status=200)


def test_without_a_key_or_with_another_it_is_another_job(api: Api) -> None:
    jobs = {post(api, key).json()["id"] for key in ("a", "b", "A", None, None)}
    assert len(jobs) == api.count_jobs() == 5


@pytest.mark.parametrize(
    "change",
    [
        {"data": OTHER},
        {"custom_id": "8"},
        {"priority": "4"},
        {"methods": "grad_cam"},
        {"options": '{"target": "cat"}'},
        {"metadata": '{"a": 1}'},
        {"deadline_seconds": "60"},
        {"webhook_url": "https://receiver.example.com/"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_request_with_the_key_is_refused(api: Api, change: dict[str, Any]) -> None:
    job_id = post(api).json()["id"]
    refused = post(api, **change)
    assert_problem(refused, 422, "idempotency_key_reused", job_id)
    assert refused.json()["subject_id"] == job_id
    assert api.count_jobs() == 1
    assert_replayed(post(api), job_id)


def test_what_is_understood_counts_and_not_how_it_is_said(sqlite_api: Api) -> None:
    """A form, fields in another order, defaults written out, JSON: all ask for the same."""
    key = {"Idempotency-Key": "k"}
    meta = json.dumps({"a": 1, "b": 2})
    first = sqlite_api.http.post("/v1/jobs", data={"url": PUBLIC_URL, "metadata": meta}, headers=key)
    assert first.status_code == 202
    answers = [
        sqlite_api.http.post(
            "/v1/jobs", data={"metadata": '{"b":2,"a":1}', "priority": "5", "url": PUBLIC_URL}, headers=key
        ),
        sqlite_api.http.post(
            "/v1/jobs", json={"image": {"url": PUBLIC_URL}, "metadata": {"a": 1, "b": 2}}, headers=key
        ),
    ]
    for answer in answers:
        assert_replayed(answer, first.json()["id"])
    other = sqlite_api.http.post("/v1/jobs", json={"image": {"url": PUBLIC_URL + "?2"}}, headers=key)
    assert_problem(other, 422, "idempotency_key_reused")


def test_two_at_the_same_instant_are_one_job(api: Api) -> None:
    for round_ in range(5):
        ready = threading.Barrier(6)

        def at_once(key: str = f"race-{round_}", ready: threading.Barrier = ready) -> httpx.Response:
            ready.wait(30)
            return post(api, key)

        with ThreadPoolExecutor(6) as pool:
            answers = [future.result() for future in [pool.submit(at_once) for _ in range(6)]]
        assert [answer.status_code for answer in answers] == [202] * 6
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert api.count_jobs() == round_ + 1


def test_different_requests_at_the_same_instant_have_one_winner(api: Api) -> None:
    ready = threading.Barrier(4)

    def at_once(i: int) -> httpx.Response:
        ready.wait(30)
        return post(api, custom_id=str(i))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(at_once, range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 422, 422, 422]
    assert api.count_jobs() == 1


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    assert_problem(post(api, data=b"no picture"), 415)
    assert post(api).status_code == 202


def test_a_quoted_key_is_the_bare_one(sqlite_api: Api) -> None:
    job_id = post(sqlite_api, r'say "hi" \ or not').json()["id"]
    assert_replayed(post(sqlite_api, r'"say \"hi\" \\ or not"'), job_id)


@pytest.mark.parametrize("key", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "a\tb", "ä"])
def test_an_impossible_key(sqlite_api: Api, key: str) -> None:
    answer = sqlite_api.http.post(
        "/v1/jobs",
        files={"file": PHOTO},
        headers={"Idempotency-Key": key.encode("latin-1")},  # type: ignore[arg-type]
    )
    assert_problem(answer, 422, "invalid_request", "Idempotency-Key")
    assert sqlite_api.count_jobs() == 0


def test_the_longest_key(api: Api) -> None:
    job_id = post(api, "~" * 255).json()["id"]
    assert_replayed(post(api, "~" * 255), job_id)


def test_a_deleted_jobs_key_is_free(api: Api) -> None:
    job_id = post(api).json()["id"]
    api.work()
    assert api.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    again = post(api)
    assert again.status_code == 202
    assert "idempotent-replayed" not in again.headers
    assert again.json()["id"] != job_id


def test_the_owner_is_part_of_the_key(sqlite_api: Api) -> None:
    """Another owner's key of the same name says nothing of it."""
    post(sqlite_api)
    with sqlite_api.database.write() as session:
        row = session.scalars(select(IdempotencyKey)).one()
        row.owner = "key_of_another"
    answer = post(sqlite_api, custom_id="other")
    assert answer.status_code == 202
    assert "idempotent-replayed" not in answer.headers


def test_a_replay_is_answered_when_the_queue_is_full(migrated_sqlite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "pawlens.db").write_bytes(migrated_sqlite_file.read_bytes())
    with serving(settings_for("", tmp_path, max_queue=1)) as api:
        job_id = post(api, "first").json()["id"]
        assert post(api, "second").status_code == 503
        assert_replayed(post(api, "first"), job_id)


def test_what_is_kept_of_it(sqlite_api: Api) -> None:
    job_id = post(sqlite_api).json()["id"]
    with sqlite_api.database.read() as session:
        row = session.scalars(select(IdempotencyKey)).one()
    assert (row.owner, row.key, row.subject_id) == ("", "k-1", job_id)
    assert len(row.request_sha256) == 64


def test_it_is_described(sqlite_api: Api) -> None:
    post_ = sqlite_api.http.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]
    (header,) = [one for one in post_["parameters"] if one["name"] == "Idempotency-Key"]
    assert header["in"] == "header"
    assert not header["required"]
    for status in ("200", "202"):
        assert "Idempotent-Replayed" in post_["responses"][status]["headers"]
        assert "application/json" in post_["responses"][status]["content"]


class TestWebhooks:
    BODY = {"url": "https://receiver.example.com/", "events": ["job.failed"]}  # noqa: RUF012

    def post(self, api: Api, key: str = "k-1", **changes: Any) -> httpx.Response:
        return api.http.post("/v1/webhooks", json={**self.BODY, **changes}, headers={"Idempotency-Key": key})

    def test_the_same_request_registers_one_receiver(self, api: Api) -> None:
        first, again = self.post(api), self.post(api)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()  # with the secret, which may have been lost on its way
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]
        assert "idempotent-replayed" not in first.headers
        assert len(api.http.get("/v1/webhooks").json()["webhooks"]) == 1

    def test_another_request_with_the_key_is_refused(self, api: Api) -> None:
        made = self.post(api).json()["id"]
        refused = self.post(api, events=["job.succeeded"])
        assert_problem(refused, 422, "idempotency_key_reused", made)
        # A job's key is no other thing's.
        assert_problem(post(api, "k-1"), 422, "idempotency_key_reused", made)

    def test_after_it_is_deleted_the_key_makes_a_new_one(self, api: Api) -> None:
        made = self.post(api).json()["id"]
        assert api.http.delete(f"/v1/webhooks/{made}").status_code == 204
        assert self.post(api).json()["id"] != made

    def test_at_once_they_register_one(self, api: Api) -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = [future.result() for future in [pool.submit(self.post, api) for _ in range(4)]]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 3
