"""The original project's contract: one request, one answer, through the same queue."""

from __future__ import annotations

from typing import Any

import pytest

from api.routes import legacy
from core.errors import FetchFailed, InternalError, InvalidImage, UnsupportedMediaType, UrlBlocked
from core.jobs import claims, results
from core.jobs.states import Queue
from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem
from tests.processes import eventually


def test_a_prediction_reads_label_scores_meta(api: Api) -> None:
    with api.working():
        answer = api.http.post("/predict", files={"file": ("cat.jpg", PHOTO)})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["label", "scores", "meta"]
    assert body["label"] == max(body["scores"], key=body["scores"].get)
    assert set(body["scores"]) == {"cat", "dog"}
    assert sum(body["scores"].values()) == pytest.approx(1)
    job = api.job(body["meta"]["job_id"])
    assert job["prediction"] == {
        "label": body["label"],
        "scores": body["scores"],
        "margin": body["meta"]["margin"],
    }
    assert (body["meta"]["image"], body["meta"]["model"]) == (job["image"], job["model"])


def test_health(sqlite_api: Api) -> None:
    answer = sqlite_api.http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {"other": "1"}},
        {"data": {"url": "  "}},
        {"data": {"file": "cat.jpg"}},
        {"files": {"file": PHOTO}, "data": {"url": PUBLIC_URL}},
        {"files": {"picture": PHOTO}},
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/advanced"])
def test_exactly_one_of_file_and_url(sqlite_api: Api, path: str, request_: dict[str, Any]) -> None:
    answer = sqlite_api.http.post(path, **request_)
    assert_problem(answer, 400, "bad_request", "exactly one of 'file'")
    assert sqlite_api.count_jobs() == 0


def test_other_bodies_and_other_files_are_415(sqlite_api: Api) -> None:
    post = sqlite_api.http.post
    assert_problem(post("/predict", json={"url": PUBLIC_URL}), 415, "unsupported_media_type")
    assert_problem(post("/predict"), 415, "unsupported_media_type")
    assert_problem(post("/predict", files={"file": ("a.png", b"text")}), 415, "unsupported_media_type")


def test_a_damaged_picture_and_a_private_url_are_422(sqlite_api: Api) -> None:
    post = sqlite_api.http.post
    assert_problem(post("/predict", files={"file": PHOTO[:-5000]}), 422, "invalid_image")
    assert_problem(post("/predict", data={"url": "http://127.0.0.1/"}), 422, "url_blocked")
    assert_problem(post("/predict", data={"url": "http://example.com/\0"}), 422, "url_blocked")


def test_a_job_that_does_not_end_in_time_goes_on(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "WAIT_SECONDS", 0.2)
    answer = sqlite_api.http.post("/predict", files={"file": PHOTO})
    assert_problem(answer, 504, "not_in_time", "It goes on at /v1/jobs/job_")
    location = answer.headers["location"]
    assert location == f"/v1/jobs/{answer.json()['job_id']}"
    sqlite_api.work()
    assert sqlite_api.http.get(location).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidImage("It cannot be decoded."), 422),
        (UnsupportedMediaType("It is no picture."), 415),
        (UrlBlocked("It leads to a private address."), 422),
        (FetchFailed("It answered 404."), 422),
        (InternalError("The worker met an error."), 500),
    ],
)
def test_a_job_that_fails_answers_as_the_door_would_have(api: Api, error: Any, status: int) -> None:
    """A URL's picture is looked at only after the job was accepted."""
    from concurrent.futures import ThreadPoolExecutor

    def claimed() -> list[claims.Claim]:
        with api.database.write() as session:
            return claims.claim_fetches(session, owner="w/1", limit=1, lease_seconds=60)

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(api.http.post, "/predict", data={"url": PUBLIC_URL})
        (claim,) = eventually(claimed)
        with api.database.write() as session:
            assert results.fail(session, claim, error, retry_seconds=0)
        answer = asked.result()
    code = error.code if status != 500 else "job_ended"
    assert_problem(answer, status, code, error.detail)
    assert answer.json()["job_id"] == claim.job_id


def test_a_job_that_somebody_cancels(sqlite_api: Api) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(sqlite_api.http.post, "/predict", files={"file": PHOTO})
        (job,) = eventually(lambda: sqlite_api.http.get("/v1/jobs").json()["jobs"])
        sqlite_api.http.post(job["links"]["cancel"])
        assert_problem(asked.result(), 409, "conflict", "it is canceled")
    assert job["kind"] == Queue.PREDICT
