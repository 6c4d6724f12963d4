"""A batch from its post to its results, through HTTP. Posts that are wrong: see test_batch_items."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api import batch_exports, batching
from core.jobs import batches, explanations, results, retention
from core.jobs.batches import PicturesGone
from core.jobs.explanations import File, Finished
from core.jobs.states import JobState, Queue
from core.jobs.tables import Blob, Job
from tests.api.batch_forms import CALL, accepted, files, of_files, picture, sent
from tests.api.batch_forms import results as rows_of
from tests.api.conftest import Api, assert_problem
from tests.api.test_events import parsed
from tests.core.jobs.steps import RESULT, Lasting, claimed
from tests.core.jobs.test_retention import count


def shown(api: Api, batch: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    answer = api.http.get(batch["links"]["self"], params=parameters)
    assert answer.status_code == 200, answer.text
    now = dict(answer.json())
    assert sum(now["counts"].values()) == now["total"] == batch["total"]
    assert set(now["counts"]) == set(JobState)
    return now


def fail_one(api: Api) -> None:
    (claim,) = claimed(api.database)
    with api.database.write() as session:
        assert results.fail(session, claim, Lasting("it cannot be"), retry_seconds=0)


def post(api: Api, batch: dict[str, Any], what: str) -> Any:
    return api.http.post(batch["links"][what])


class TestReading:
    def test_from_running_to_completed(self, api: Api) -> None:
        batch = of_files(api, 3)
        before = shown(api, batch)
        assert (before["status"], before["finished_at"], before["progress"]) == (
            "running",
            None,
            {"done": 0, "total": 3},
        )
        api.work()
        after = shown(api, batch)
        assert (after["status"], after["progress"]) == ("completed", {"done": 3, "total": 3})
        assert after["finished_at"] >= after["created_at"]
        assert after["event_seq"] > before["event_seq"]
        page = api.http.get(batch["links"]["jobs"]).json()["jobs"]
        assert sorted(job["batch_index"] for job in page) == [0, 1, 2]

    def test_an_etag_changes_with_the_counts(self, api: Api) -> None:
        batch = of_files(api, 3)
        answer = api.http.get(batch["links"]["self"])
        assert answer.headers["retry-after"] == "1"
        known = {"If-None-Match": f'"x", {answer.headers["etag"]}'}
        again = api.http.get(batch["links"]["self"], headers=known)
        assert (again.status_code, again.content) == (304, b"")
        claimed(api.database)  # writes no event of the batch
        assert api.http.get(batch["links"]["self"], headers=known).json()["counts"]["running"] == 1

    def test_waiting_for_the_end_or_for_news(self, api: Api) -> None:
        batch = of_files(api, 2)
        with ThreadPoolExecutor(2) as pool:
            end = pool.submit(shown, api, batch, wait=30)
            news = pool.submit(shown, api, batch, wait=30, after=batch["event_seq"])
            fail_one(api)
            assert news.result(20)["status"] == "running"
            assert not end.done()
            api.work()
            assert end.result(20)["status"] == "completed"
        assert shown(api, batch, wait=30)["status"] == "completed"  # at once

    def test_the_list(self, api: Api) -> None:
        made = [of_files(api, 1)["id"] for _ in range(3)][::-1]
        post(api, shown(api, {"links": {"self": f"{CALL}/{made[0]}"}, "total": 1}), "cancel")
        page = api.http.get(CALL, params={"limit": 2}).json()
        assert [one["id"] for one in page["batches"]] == made[:2]
        rest = api.http.get(CALL, params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert ([one["id"] for one in rest["batches"]], rest["next_cursor"]) == (made[2:], None)
        canceled = api.http.get(CALL, params={"status": "canceled"}).json()["batches"]
        assert [one["id"] for one in canceled] == made[:1]
        for wrong in ({"cursor": "job_0"}, {"limit": 0}, {"status": "done"}):
            assert_problem(api.http.get(CALL, params=wrong), 422)

    def test_an_unknown_one(self, sqlite_api: Api) -> None:
        job_id = sqlite_api.post()["id"]
        for name in ("batch_0", job_id):
            for path in ("", "/events", "/results", "/results?format=zip", "?wait=30"):
                assert_problem(sqlite_api.http.get(f"{CALL}/{name}{path}"), 404, "not_found")
            for path in ("cancel", "retry"):
                assert_problem(sqlite_api.http.post(f"{CALL}/{name}/{path}"), 404, "not_found")
            assert_problem(sqlite_api.http.delete(f"{CALL}/{name}"), 404, "not_found")
        batch = of_files(sqlite_api, 1)
        assert_problem(sqlite_api.http.get(f"/v1/jobs/{batch['id']}/events"), 404, "not_found")


class TestEvents:
    def test_the_log_as_a_stream(self, api: Api) -> None:
        batch = of_files(api, 2)
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(api.http.get, batch["links"]["events"])
            fail_one(api)
            api.work()
            answer = stream.result(30)
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = parsed(answer.text)
        assert [(id_, type_) for id_, type_, _ in found] == [
            ("1", "batch.created"),
            ("2", "batch.progress"),
            ("3", "batch.completed"),
        ]
        assert [data["status"] for _, _, data in found] == ["running", "running", "completed"]
        assert [data["counts"]["failed"] for _, _, data in found] == [0, 1, 1]
        resumed = api.http.get(batch["links"]["events"], headers={"Last-Event-ID": "2"})
        assert parsed(resumed.text) == found[2:]
        assert api.http.get(batch["links"]["events"], params={"after": 3}).status_code == 204


class TestResults:
    def read_csv(self, api: Api, batch: dict[str, Any]) -> list[dict[str, str]]:
        answer = api.http.get(batch["links"]["results"], params={"format": "csv"})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == f'attachment; filename="{batch["id"]}.csv"'
        return list(csv.DictReader(io.StringIO(answer.text, newline="")))

    def test_what_there_is_at_any_time(self, api: Api) -> None:
        batch = accepted(api, files=files(picture(0), b"no picture", picture(2), picture(3)))
        assert [row["status"] for row in rows_of(api, batch)] == ["queued", "failed", "queued", "queued"]
        fail_one(api)
        (claim,) = claimed(api.database)
        with api.database.write() as session:
            assert results.succeed(session, claim, **RESULT | {"prediction": PREDICTION})
        post(api, batch, "cancel")
        rows = rows_of(api, batch)
        assert [row["index"] for row in rows] == [0, 1, 2, 3]
        assert [row["status"] for row in rows] == ["failed", "failed", "succeeded", "canceled"]
        assert [row["error"] and row["error"]["code"] for row in rows] == [
            "lasting",
            "unsupported_media_type",
            None,
            None,
        ]
        assert (rows[2]["prediction"], rows[3]["prediction"]) == (PREDICTION, None)
        assert set(rows[0]) == {"index", "name", "custom_id", "job_id", "status", "prediction", "error"}

    def test_as_csv(self, api: Api) -> None:
        batch = accepted(api, files=files(picture(0), b"no picture", picture(2)))
        api.work()
        rows = self.read_csv(api, batch)
        labels = [f"score_{label}" for label in api.http.get("/v1/model").json()["labels"]]
        assert list(rows[0]) == [*batch_exports.COLUMNS, *labels, *batch_exports.ERROR_COLUMNS]
        for row, line in zip(rows, rows_of(api, batch), strict=True):
            assert (row["index"], row["name"], row["job_id"], row["status"]) == (
                str(line["index"]),
                line["name"],
                line["job_id"],
                line["status"],
            )
            if line["prediction"]:
                assert {name: float(row[f"score_{name}"]) for name in line["prediction"]["scores"]} == (
                    line["prediction"]["scores"]
                )
                assert row["label"] == line["prediction"]["label"]
                assert float(row["score"]) == max(line["prediction"]["scores"].values())
                assert float(row["margin"]) == line["prediction"]["margin"]
            else:
                assert (row["error_code"], row["error"]) == (line["error"]["code"], line["error"]["detail"])
                assert row["score"] == ""

    def test_no_cell_is_a_formula(self, sqlite_api: Api) -> None:
        names = ["=1+1", "+1", "-1", "@a", "'=1", 'a"b,c', "1", " =1", "a;=1;b; -1", "＝1", "a-b=c; d"]  # noqa: RUF001
        items = [{"url": "https://e.com/1.jpg", "name": name, "custom_id": name} for name in names]
        batch = accepted(sqlite_api, json={"items": items})
        rows = self.read_csv(sqlite_api, batch)
        expected = ["'=1+1", "'+1", "'-1", "'@a", "'=1", 'a"b,c', "1"]
        expected += [" '=1", "a;'=1;b; '-1", "'＝1", "a-b=c; d"]  # noqa: RUF001
        assert [row["name"] for row in rows] == [row["custom_id"] for row in rows] == expected
        assert [row["name"] for row in rows_of(sqlite_api, batch)] == names  # JSON needs no such thing

    def test_as_zip_with_panels(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch_exports, "PANELS_PAGE", 2)
        batch = of_files(api, 5, methods="kernels,grad_cam")
        for claim in claimed(api.database, Queue.EXPLAIN, limit=3):
            with api.database.write() as session:
                for method in ("kernels", "grad_cam"):
                    content = f"{claim.name} {method}".encode()
                    panel = {"panel.png": File(content, "image/png"), "overlay.png": File(b"o", "image/png")}
                    assert explanations.start(session, claim, method, key=f"{claim.job_id}{method}")
                    assert explanations.finish(session, claim, method, Finished(panel, {}, {}, 1.0))
                assert results.succeed(session, claim, **RESULT | {"prediction": PREDICTION})
        answer = api.http.get(batch["links"]["results"], params={"format": "zip"})
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            panels = [f"panels/{i}_{method}.png" for i in range(3) for method in ("kernels", "grad_cam")]
            assert archive.namelist() == ["results.jsonl", "results.csv", *panels]
            lines = archive.read("results.jsonl").decode().splitlines()
            assert [json.loads(line) for line in lines] == rows_of(api, batch)
            rows = csv.reader(io.StringIO(archive.read("results.csv").decode(), newline=""))
            assert len(list(rows)) == 6
            assert archive.read("panels/1_grad_cam.png") == b"1.png grad_cam"

    def test_more_than_a_page(self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch_exports, "PAGE", 7)
        for count_ in (7, 20):
            batch = of_files(sqlite_api, count_)
            assert [row["index"] for row in rows_of(sqlite_api, batch)] == list(range(count_))

    def test_another_form(self, sqlite_api: Api) -> None:
        batch = of_files(sqlite_api, 1)
        answer = sqlite_api.http.get(batch["links"]["results"], params={"format": "xls"})
        assert_problem(answer, 422, "invalid_request", "format")


PREDICTION = {"label": "cat", "scores": {"cat": 0.9, "dog": 0.1}, "margin": -2.2}


class TestChanging:
    def test_cancel(self, api: Api) -> None:
        batch = of_files(api, 3)
        (claim,) = claimed(api.database)
        answer = post(api, batch, "cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        assert (answer.json()["counts"]["canceling"], answer.json()["counts"]["canceled"]) == (1, 2)
        with api.database.write() as session:
            assert results.acknowledge_cancel(session, claim)
        assert shown(api, batch)["status"] == "canceled"
        assert_problem(post(api, batch, "cancel"), 409, "conflict", "canceled")

    def test_retry(self, api: Api) -> None:
        batch = accepted(api, files=files(b"no picture", picture(1), picture(2)), data={"priority": "9"})
        assert_problem(post(api, batch, "retry"), 409, "conflict", "running")
        fail_one(api)
        api.work()
        answer = post(api, batch, "retry")
        assert answer.status_code == 202
        new = answer.json()
        assert answer.headers["location"] == new["links"]["self"]
        assert (new["retry_of"], new["total"], new["rejected"]) == (batch["id"], 1, 0)
        assert [(row["index"], row["name"]) for row in rows_of(api, new)] == [(1, "1.png")]
        api.work()
        assert shown(api, new)["status"] == "completed"
        assert_problem(post(api, new, "retry"), 409, "conflict")

    def test_the_same_retry_sent_again_makes_no_second_batch(self, api: Api) -> None:
        batch = accepted(api, files=files(picture(1), picture(2)))
        fail_one(api)
        api.work()
        answers = [
            api.http.post(batch["links"]["retry"], headers={"Idempotency-Key": "once"}) for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]

    def test_delete(self, api: Api) -> None:
        batch = of_files(api, 120)
        jobs = [row["job_id"] for row in rows_of(api, batch)]
        assert_problem(api.http.delete(batch["links"]["self"]), 409, "conflict", "running")
        fail_one(api)
        assert_problem(api.http.delete(f"/v1/jobs/{jobs[0]}"), 409, "conflict", batch["id"])
        post(api, batch, "cancel")
        answer = api.http.delete(batch["links"]["self"])
        assert (answer.status_code, answer.content) == (204, b"")
        for path in (batch["links"]["self"], batch["links"]["results"], f"/v1/jobs/{jobs[-1]}"):
            assert_problem(api.http.get(path), 404, "not_found")
        assert count(api.database, Job) == count(api.database, Blob) == 0


class TestOnce:
    def again(self, api: Api, contents: list[bytes], key: str = "key", **fields: str) -> Any:
        return sent(api, files=files(*contents), data=fields, headers={"Idempotency-Key": key})

    def test_a_request_that_is_sent_again(self, api: Api) -> None:
        contents = [picture(1), picture(2)]
        first = self.again(api, contents)
        assert "idempotent-replayed" not in first.headers
        api.work()
        second = self.again(api, contents)
        assert second.status_code == 202
        assert second.headers["idempotent-replayed"] == "true"
        assert (second.json()["id"], second.json()["status"]) == (first.json()["id"], "completed")
        assert api.count_jobs() == 2

    def test_another_request_with_the_key(self, api: Api) -> None:
        contents = [picture(1), picture(2)]
        self.again(api, contents)
        for other, fields in ((contents[::-1], {}), (contents[:1], {}), (contents, {"priority": "1"})):
            answer = self.again(api, other, **fields)
            assert_problem(answer, 422, "idempotency_key_reused")
        assert api.count_jobs() == 2

    def test_at_the_same_moment(self, api: Api) -> None:
        contents = [picture(i) for i in range(60)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: self.again(api, contents), range(4)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 3
        assert api.count_jobs() == 60


class TestStoring:
    def test_a_picture_that_vanishes_meanwhile_is_stored_again(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last other job that had it is deleted between the storing of pictures and the making."""
        (contents, create, tries) = [picture(i) for i in range(3)], batches.create_once, []

        def remove_first(*given: Any, **named: Any) -> str:
            tries.append(1)
            if len(tries) == 1:
                with api.database.read() as session:
                    found, _ = retention.orphans(session, older_than_seconds=-1)
                raise PicturesGone(removed(api, found[1:]))
            return create(*given, **named)

        monkeypatch.setattr(batches, "create_once", remove_first)
        batch = accepted(api, files=files(*contents))
        assert (len(tries), batch["counts"]["queued"]) == (2, 3)
        api.work()
        assert shown(api, batch)["counts"]["succeeded"] == 3

    def test_a_failure_in_between_makes_nothing(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> str:
            raise RuntimeError("the power is gone")

        with monkeypatch.context() as patched:
            patched.setattr(batches, "create_once", fails)
            assert_problem(sent(api, files=files(picture(1), picture(2))), 500, "internal_error")
        assert api.count_jobs() == 0
        assert count(api.database, Blob) == 2  # which nothing refers to
        assert of_files(api, 3)["total"] == 3

    def test_a_few_pictures_at_a_time(self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        chunks: list[list[int]] = []

        def noted(given: Any) -> Any:
            for chunk in chunked(given):
                chunks.append([one.size for one in chunk])
                yield chunk

        chunked = batching._chunks
        monkeypatch.setattr(batching, "_chunks", noted)
        monkeypatch.setattr(batching, "CHUNK_BYTES", 1000)
        contents = [*map(picture, range(70)), picture(1) + bytes(2000), picture(2)]
        accepted(sqlite_api, files=files(*contents))
        assert [size for chunk in chunks for size in chunk] == [len(content) for content in contents]
        assert all(sum(chunk) <= 1000 or len(chunk) == 1 for chunk in chunks)
        assert max(map(len, chunks)) > 5


def removed(api: Api, digests: list[str]) -> set[str]:
    with api.database.write() as session:
        assert retention.delete_unreferenced(session, digests) == len(digests)
    return set(digests)
