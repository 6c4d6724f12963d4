"""The life of a job as a client sees it: posted, followed, listed, fetched, canceled."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest

from core.database import db_now
from core.explain.options import ExplainOptions, OcclusionOptions
from core.jobs import claims
from core.jobs.states import FINAL, JobState, Queue
from tests.api.conftest import EXAMPLES, PHOTO, PUBLIC_URL, Api, assert_problem
from tests.core.jobs.steps import ended, set_columns
from tests.processes import eventually

RESULTS = {"succeeded", "partial", "failed", "canceled", "expired"}


def claim(api: Api, queue: Queue = Queue.PREDICT) -> claims.Claim:
    """What a worker does first."""
    with api.database.write() as session:
        take = {"owner": "w/1", "limit": 1, "lease_seconds": 60}
        found = (
            claims.claim_fetches(session, **take)  # type: ignore[arg-type]
            if queue is Queue.IO
            else claims.claim(session, queue, **take)  # type: ignore[arg-type]
        )
    return found[0]


def test_the_options_of_an_explanation_are_shown_with_their_defaults(sqlite_api: Api) -> None:
    job = sqlite_api.post(methods="occlusion", options='{"target": "dog", "occlusion": {"stride": 8}}')
    options = sqlite_api.job(job["id"])["options"]
    assert (options["target"], options["occlusion"]["stride"]) == ("dog", 8)
    assert ExplainOptions.model_validate(options).occlusion == OcclusionOptions(stride=8)
    again = sqlite_api.post(methods="occlusion", options=json.dumps(options))
    assert sqlite_api.job(again["id"])["options"] == options


def test_a_picture_becomes_a_prediction(api: Api) -> None:
    answer = api.http.post(
        "/v1/jobs",
        files={"file": ("holiday/cat.jpg", PHOTO)},
        data={"custom_id": "42", "metadata": '{"album": ["Ägypten"]}', "priority": "9"},
    )
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["cache-control"] == "no-cache"
    expected: dict[str, Any] = {
        "kind": "predict",
        "status": "queued",
        "name": "cat.jpg",
        "custom_id": "42",
        "metadata": {"album": ["Ägypten"]},
        "options": None,
        "source_url": None,
        "prediction": None,
        "model": None,
        "error": None,
        "methods": [],
        "attempt": 0,
        "event_seq": 1,
        "started_at": None,
        "finished_at": None,
        "progress": {"done": 0, "total": 1},
        "queue": {"position": 1, "estimated_start_at": None},
    }
    assert expected.items() <= job.items()
    assert job["image"] == {
        "sha256": hashlib.sha256(PHOTO).hexdigest(),
        "width": 500,
        "height": 333,
        "media_type": "image/jpeg",
    }

    api.work()
    answer = api.http.get(answer.headers["location"])
    job = answer.json()
    assert answer.status_code == 200
    assert "retry-after" not in answer.headers
    assert job["status"] == "succeeded"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["prediction"]["label"] in ("cat", "dog")
    assert sum(job["prediction"]["scores"].values()) == pytest.approx(1)
    assert max(job["prediction"]["scores"], key=job["prediction"]["scores"].get) == job["prediction"]["label"]
    assert job["model"]["name"] == "stand-in"
    assert job["timings"]["batch_size"] == 1
    assert job["progress"] == {"done": 1, "total": 1}
    assert (job["attempt"], job["event_seq"], job["queue"]) == (1, 3, None)


def test_equal_pictures_get_equal_answers_and_others_their_own(sqlite_api: Api) -> None:
    ids = [sqlite_api.post(path.read_bytes())["id"] for path in (*EXAMPLES[:4], EXAMPLES[0])]
    sqlite_api.work()
    jobs = [sqlite_api.job(job_id) for job_id in ids]
    scores = [job["prediction"]["scores"]["cat"] for job in jobs]
    assert scores[0] == scores[4]
    assert len(set(scores)) == 4
    assert {job["timings"]["batch_size"] for job in jobs} == {5}  # all in one forward


def test_a_job_with_a_url_waits_for_its_picture(api: Api) -> None:
    job = api.post_url()
    assert (job["status"], job["image"], job["source_url"]) == ("fetching", None, PUBLIC_URL)
    assert job["queue"] is None
    assert_problem(api.http.get(job["links"]["image"]), 404, "not_found", "not downloaded yet")


def test_an_etag_stands_for_a_state(api: Api) -> None:
    job = api.post()
    path = job["links"]["self"]
    first = api.http.get(path).headers["etag"]
    for sent in (first, f'"other", {first}', "*", first.removeprefix("W/"), f'"a",{first[2:]} , W/"b"'):
        answer = api.http.get(path, headers={"If-None-Match": sent})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", first)
        assert "x-correlation-id" in answer.headers
    for sent in ("", "W/", first.strip('W/"'), '"*"'):
        assert api.http.get(path, headers={"If-None-Match": sent}).status_code == 200
    api.work()
    answer = api.http.get(path, headers={"If-None-Match": first})
    assert answer.status_code == 200
    assert answer.headers["etag"] != first


def test_an_etag_changes_with_the_place_in_the_queue(sqlite_api: Api) -> None:
    ahead, job = sqlite_api.post(), sqlite_api.post()
    first = sqlite_api.http.get(job["links"]["self"])
    assert first.json()["queue"]["position"] == 2
    sqlite_api.http.post(ahead["links"]["cancel"])
    second = sqlite_api.http.get(job["links"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json()["queue"]["position"] == 1


def estimated(queue: dict[str, Any]) -> dict[str, Any] | None:
    return queue if queue["estimated_start_at"] else None


def test_the_estimate_follows_from_the_last_minute(sqlite_api: Api) -> None:
    sqlite_api.post()
    sqlite_api.work()
    job = sqlite_api.post()
    # What was counted is kept for a second.
    place = eventually(lambda: estimated(sqlite_api.job(job["id"])["queue"]))
    assert place["position"] == 1
    assert place["estimated_start_at"] > job["created_at"]  # one a minute: a minute from now


class TestWaiting:
    def test_for_the_end(self, api: Api) -> None:
        job = api.post()
        with api.working():
            answer = api.http.get(job["links"]["self"], params={"wait": 30}).json()
        assert answer["status"] == "succeeded"

    def test_for_news(self, api: Api) -> None:
        """Any event above ``after`` is news; without one the answer comes when the time is up."""
        job = api.post()
        path = job["links"]["self"]
        assert api.http.get(path, params={"wait": 30, "after": 0}).json()["event_seq"] == 1
        assert api.http.get(path, params={"wait": 0.2, "after": 1}).json()["event_seq"] == 1
        claim(api)
        assert api.http.get(path, params={"wait": 30, "after": 1}).json()["status"] == "running"

    def test_a_job_that_has_ended_is_answered_whatever_is_waited_for(self, sqlite_api: Api) -> None:
        job = sqlite_api.post()
        sqlite_api.work()
        for after in (None, 3, 99):
            sent = {"wait": 60, **({} if after is None else {"after": after})}
            assert sqlite_api.http.get(job["links"]["self"], params=sent).json()["status"] == "succeeded"

    def test_for_what_does_not_exist(self, api: Api) -> None:
        assert_problem(api.http.get("/v1/jobs/job_0", params={"wait": 60}), 404, "not_found")

    @pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "1e999", "soon"])
    def test_for_an_impossible_time(self, sqlite_api: Api, wait: str) -> None:
        answer = sqlite_api.http.get("/v1/jobs/job_0", params={"wait": wait})
        assert_problem(answer, 422, "invalid_request", "query.wait")


class TestPrefer:
    def test_wait_answers_with_the_result(self, api: Api) -> None:
        with api.working():
            answer = api.http.post("/v1/jobs", files={"file": PHOTO}, headers={"Prefer": "wait=30"})
        assert answer.status_code == 200
        assert answer.headers["preference-applied"] == "wait=30"
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["location"] == answer.json()["links"]["self"]

    def test_wait_answers_202_when_the_time_is_up(self, sqlite_api: Api) -> None:
        for preference, applied in (("wait=0", "0"), ('respond-async, wait="1"', "1")):
            answer = sqlite_api.http.post("/v1/jobs", files={"file": PHOTO}, headers={"Prefer": preference})
            assert answer.status_code == 202
            assert answer.headers["preference-applied"] == f"wait={applied}"
            assert answer.json()["status"] == "queued"
            assert answer.headers["retry-after"] == "1"

    def test_wait_is_capped_at_a_minute(self, sqlite_api: Api) -> None:
        with sqlite_api.working():
            answer = sqlite_api.http.post(
                "/v1/jobs", files={"file": PHOTO}, headers={"Prefer": "wait=99999999"}
            )
        assert answer.headers["preference-applied"] == "wait=60"

    @pytest.mark.parametrize("preference", ["wait", "wait=", "wait=-5", "wait=soon", "await=5", "wait=1e3"])
    def test_nonsense_is_ignored(self, sqlite_api: Api, preference: str) -> None:
        answer = sqlite_api.http.post("/v1/jobs", files={"file": PHOTO}, headers={"Prefer": preference})
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers


class TestList:
    def test_filters(self, api: Api) -> None:
        done = api.post(custom_id="a")
        api.work()
        waiting, other = api.post(custom_id="a"), api.post_url(custom_id="b")
        everything = [other["id"], waiting["id"], done["id"]]
        for query, expected in (
            ("", everything),
            ("custom_id=a", everything[1:]),
            ("custom_id=c", []),
            ("status=succeeded", everything[2:]),
            ("status=queued&status=fetching", everything[:2]),
            ("kind=predict", everything),
            ("kind=explain", []),
            ("batch_id=batch_0", []),
            ("custom_id=a&status=queued", [waiting["id"]]),
        ):
            page = api.http.get(f"/v1/jobs?{query}").json()
            assert ([job["id"] for job in page["jobs"]], page["next_cursor"]) == (expected, None), query

    def test_a_listed_job_reads_as_the_job_itself(self, sqlite_api: Api) -> None:
        job = sqlite_api.post()
        assert sqlite_api.http.get("/v1/jobs").json()["jobs"] == [sqlite_api.job(job["id"])]

    def test_pages_have_no_gap_and_no_double_while_jobs_are_added(self, api: Api) -> None:
        before = [api.post()["id"] for _ in range(7)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 3}
        sizes = []
        while True:
            page = api.http.get("/v1/jobs", params=query).json()
            sizes.append(len(page["jobs"]))
            seen += [job["id"] for job in page["jobs"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
            api.post()  # newer than all that is still to be read
        assert seen == before[::-1]
        assert sizes == [3, 3, 1]

    def test_a_full_last_page_says_that_it_is_the_last(self, sqlite_api: Api) -> None:
        for _ in range(2):
            sqlite_api.post()
        page = sqlite_api.http.get("/v1/jobs", params={"limit": 2}).json()
        assert (len(page["jobs"]), page["next_cursor"]) == (2, None)

    @pytest.mark.parametrize(
        "query",
        [
            *("limit=0", "limit=101", "limit=99999999999999999999", "limit=x", "status=done", "kind=x"),
            *(
                "cursor=..%2F..%2Fetc",
                "cursor=job_",
                f"custom_id={'x' * 256}",
                "custom_id=%00",
                "batch_id=%00",
            ),
        ],
    )
    def test_impossible_queries(self, api: Api, query: str) -> None:
        assert_problem(api.http.get(f"/v1/jobs?{query}"), 422, "invalid_request")


class TestImage:
    def test_the_bytes_come_back_and_may_be_kept(self, api: Api) -> None:
        job = api.post()
        answer = api.http.get(job["links"]["image"])
        assert answer.content == PHOTO
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answer.headers["vary"] == "Authorization"
        # Whatever a browser takes a stranger's bytes for, it runs nothing.
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["etag"] == f'"{hashlib.sha256(PHOTO).hexdigest()}"'
        for known in (answer.headers["etag"], f"W/{answer.headers['etag']}", "*"):
            again = api.http.get(job["links"]["image"], headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["vary"]) == (304, b"", "Authorization")
        other = api.http.get(job["links"]["image"], headers={"If-None-Match": '"x"'})
        assert other.status_code == 200

    def test_of_no_job(self, sqlite_api: Api) -> None:
        assert_problem(sqlite_api.http.get("/v1/jobs/job_0/image"), 404, "not_found")


class TestCancel:
    def cancel(self, api: Api, job_id: str) -> httpx.Response:
        return api.http.post(f"/v1/jobs/{job_id}/cancel")

    def test_while_it_waits(self, api: Api) -> None:
        queued, fetching = api.post(), api.post_url()
        for job in (queued, fetching):
            answer = self.cancel(api, job["id"])
            assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
            assert answer.json()["finished_at"]
        api.work()
        assert api.job(queued["id"])["prediction"] is None  # it was never run

    def test_while_it_is_downloaded(self, api: Api) -> None:
        job = api.post_url()
        claim(api, Queue.IO)
        assert self.cancel(api, job["id"]).json()["status"] == "canceled"

    def test_while_it_runs(self, api: Api) -> None:
        job = api.post()
        claim(api)
        for _ in range(2):  # asking again changes nothing
            answer = self.cancel(api, job["id"])
            assert (answer.status_code, answer.json()["status"]) == (200, "canceling")
            assert answer.headers["retry-after"] == "1"
        assert answer.json()["event_seq"] == 3

    def test_when_it_has_ended(self, api: Api) -> None:
        assert {str(state) for state in FINAL} == RESULTS
        for state in sorted(FINAL):
            job_id = ended(api.database, state).job_id
            if state in (JobState.SUCCEEDED, JobState.PARTIAL):
                set_columns(api.database, job_id, prediction=None, model=None, timings=None)
            before = api.job(job_id)
            assert_problem(self.cancel(api, job_id), 409, "conflict", state)
            assert api.job(job_id) == before

    def test_of_no_job(self, api: Api) -> None:
        for job_id in ("job_0", "job_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"):
            assert_problem(self.cancel(api, job_id), 404, "not_found")


def test_a_failed_job_carries_its_error(api: Api) -> None:
    """Deadlines are the API's promise, kept by the maintenance."""
    from core.jobs import rescue

    job = api.post(deadline_seconds="3600")
    set_columns(api.database, job["id"], deadline_at=db_now(-1))
    with api.database.write() as session:
        assert rescue.expire(session, limit=9) == 1
    job = api.job(job["id"])
    assert job["status"] == "expired"
    assert job["error"]["code"] == "deadline_passed"
    assert job["error"]["detail"]
