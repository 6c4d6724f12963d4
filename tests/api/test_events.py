"""The event log as a stream: resumed anywhere, over when the job is, and open to many at the price of one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.routes import events as route
from api.watcher import Watcher
from core.jobs import events, queries, results, retention
from core.jobs.claims import Claim
from tests.api.conftest import Api, assert_problem
from tests.core.jobs.steps import RESULT, claimed, log
from tests.processes import eventually


def parsed(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every whole event of a stream as (id, event, data), by the rules of the standard."""
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = [line.partition(": ")[::2] for line in block.split("\n") if not line.startswith(":")]
        event = dict(fields)
        assert len(event) == len(fields)
        if "data" in event:
            found.append((event["id"], event["event"], json.loads(event["data"])))
        else:
            assert event.keys() <= {"retry"}
    return found


def path(job_id: str) -> str:
    return f"/v1/jobs/{job_id}/events"


def begun(api: Api) -> Claim:
    job_id = api.post()["id"]
    (claim,) = claimed(api.database)
    assert claim.job_id == job_id
    return claim


def note(api: Api, claim: Claim, **data: Any) -> None:
    with api.database.write() as session:
        assert events.note(session, claim.job_id, claim.attempt, "job.progress", data)


def succeed(api: Api, claim: Claim) -> None:
    with api.database.write() as session:
        assert results.succeed(session, claim, **RESULT)


@contextmanager
def listening(api: Api, job_id: str, **headers: str) -> Iterator[Iterator[str]]:
    """The stream's lines as they come."""
    with api.http.stream("GET", path(job_id), headers=headers) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


def test_it_is_the_log(api: Api) -> None:
    job = api.post()
    api.work()
    answer = api.http.get(job["links"]["events"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("retry: 1000\n\n")
    stream = parsed(answer.text)
    assert [(id_, type_) for id_, type_, _ in stream] == [
        ("1", "job.created"),
        ("2", "job.started"),
        ("3", "job.succeeded"),
    ]
    for (_, _, data), event in zip(stream, log(api.database, job["id"]), strict=True):
        shown = {"seq": event.seq, "type": event.type, **event.data}
        assert data == shown | {"created_at": event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def test_events_arrive_as_they_happen_and_the_last_one_ends_it(api: Api) -> None:
    claim = begun(api)
    with listening(api, claim.job_id) as lines:
        for expected in ("id: 1", "id: 2"):
            assert expected in lines
        for i in range(3, 6):
            note(api, claim, text="line one\nline two\r\u2028", i=i)
            assert f"id: {i}" in lines
            assert next(lines) == "event: job.progress"
            assert json.loads(next(lines).removeprefix("data: "))["i"] == i
        succeed(api, claim)
        assert "id: 6" in lines
        assert [line for line in lines if line.startswith("id")] == []  # and it ends


@pytest.mark.parametrize("named", [0, 1, 2, 3])
def test_it_resumes_after_the_last_event_that_arrived(api: Api, named: int) -> None:
    job_id = api.post()["id"]
    api.work()
    rest = [str(seq) for seq in range(named + 1, 4)]
    for request in ({"headers": {"Last-Event-ID": str(named)}}, {"params": {"after": named}}):
        answer = api.http.get(path(job_id), **request)
        assert answer.status_code == (200 if rest else 204)
        assert [id_ for id_, _, _ in parsed(answer.text)] == rest


def test_the_header_counts_and_not_the_query(sqlite_api: Api) -> None:
    """An EventSource comes back to the URL that it was made with."""
    job_id = sqlite_api.post()["id"]
    sqlite_api.work()
    answer = sqlite_api.http.get(path(job_id), params={"after": 1}, headers={"Last-Event-ID": "2"})
    assert [id_ for id_, _, _ in parsed(answer.text)] == ["3"]
    answer = sqlite_api.http.get(path(job_id), params={"after": 1}, headers={"Last-Event-ID": ""})
    assert [id_ for id_, _, _ in parsed(answer.text)] == ["2", "3"]


def test_nothing_is_left_when_it_is_over(api: Api) -> None:
    job_id = api.post()["id"]
    api.work()
    answer = api.http.get(path(job_id), headers={"Last-Event-ID": "3"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.http.get(path(job_id), params={"after": 2**31 - 1}).status_code == 204


def test_more_events_than_one_page(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "PAGE", 7)
    claim = begun(sqlite_api)
    for i in range(38):
        note(sqlite_api, claim, i=i)
    succeed(sqlite_api, claim)  # 41 events; 2 + 38 + 1
    for named in (0, 6, 7, 33, 34):
        answer = sqlite_api.http.get(path(claim.job_id), params={"after": named})
        assert [id_ for id_, _, _ in parsed(answer.text)] == [str(i) for i in range(named + 1, 42)]


@pytest.mark.parametrize("named", ["x", "-1", "1.5", "²", str(2**31), "9" * 5000, "0" * 5000, "1, 2"])
def test_an_id_that_none_of_ours_is(sqlite_api: Api, named: str) -> None:
    job_id = sqlite_api.post()["id"]
    sent = {"Last-Event-ID": named.encode("latin-1")}
    assert_problem(
        sqlite_api.http.get(path(job_id), headers=sent),  # type: ignore[arg-type]
        422,
        "invalid_request",
        "Last-Event-ID",
    )
    if named.isascii() and named.strip("0"):  # as a number of a query, it is 0
        assert_problem(sqlite_api.http.get(path(job_id), params={"after": named}), 422, "invalid_request")


def test_an_unknown_job(api: Api) -> None:
    assert_problem(api.http.get(path("job_0")), 404, "not_found")
    assert_problem(api.http.get(path("%00")), 422, "invalid_request")


def test_heartbeats_have_no_id(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.1)
    claim = begun(sqlite_api)
    with listening(sqlite_api, claim.job_id) as lines:
        assert "id: 2" in lines
        for _ in range(3):
            assert ": still here" in lines
        succeed(sqlite_api, claim)
        rest = "\n".join(lines)
    assert re.findall("id: .*", rest) == ["id: 3"]


def test_a_deleted_job_ends_its_streams(api: Api) -> None:
    claim = begun(api)
    with listening(api, claim.job_id) as lines:
        assert "id: 2" in lines
        with api.database.write() as session:  # both at once, so that no stream sees the end before
            assert results.succeed(session, claim, **RESULT)
            retention.delete_job(session, claim.job_id)
        assert [line for line in lines if line.startswith("id")] == []
    assert_problem(api.http.get(path(claim.job_id)), 404, "not_found")


def test_many_listen_by_one_query(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = queries.event_seqs

    def counted(session: Any, job_ids: Any) -> Any:
        asked.append(len(job_ids))
        return read(session, job_ids)

    monkeypatch.setattr(queries, "event_seqs", counted)
    claim = begun(sqlite_api)
    seen: list[list[str]] = []
    ready = threading.Barrier(31)

    def listen() -> None:
        with listening(sqlite_api, claim.job_id) as lines:
            assert "id: 2" in lines
            ready.wait(30)
            seen.append([line for line in lines if line.startswith("id")])

    with ThreadPoolExecutor(30) as pool:
        listeners = [pool.submit(listen) for _ in range(30)]
        ready.wait(30)
        asked.clear()
        for i in range(5):
            note(sqlite_api, claim, i=i)
        succeed(sqlite_api, claim)
        for listener in listeners:
            listener.result(30)
    assert seen == [[f"id: {i}" for i in range(3, 9)]] * 30
    assert set(asked) == {1}


def test_a_client_that_leaves_takes_everything_along(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[str] = []
    wait = Watcher.wait

    async def counted(self: Watcher, job_id: str, *given: Any, **named: Any) -> bool:
        waiting.append(job_id)
        try:
            return await wait(self, job_id, *given, **named)
        finally:
            waiting.remove(job_id)

    monkeypatch.setattr(Watcher, "wait", counted)
    claim = begun(sqlite_api)
    with listening(sqlite_api, claim.job_id) as lines:
        assert "id: 2" in lines
        eventually(lambda: waiting == [claim.job_id], what="the stream waits")
    eventually(lambda: not waiting, what="the stream's wait is over")
    line = sqlite_api.line(message="request", path=path(claim.job_id))
    assert line["status"] == 200
    assert not sqlite_api.lines(message="unexpected error")


def test_it_is_described(sqlite_api: Api) -> None:
    document = sqlite_api.http.get("/openapi.json").json()
    described = document["paths"]["/v1/jobs/{job_id}/events"]["get"]
    assert set(described["responses"]) >= {"200", "204", "404", "422", "503"}
    (kind,) = described["responses"]["200"]["content"]
    assert kind == "text/event-stream"
    assert {parameter["name"] for parameter in described["parameters"]} >= {"after", "last-event-id"}
    example = parsed(described["responses"]["200"]["content"][kind]["example"])
    assert example[0][:2] == ("1", "job.created")


def test_a_broken_off_request_is_resumed_by_a_plain_client(sqlite_api: Api) -> None:
    """Cut after every single byte of a stream: what was whole, and then what is above it, is the log."""
    job_id = sqlite_api.post()["id"]
    sqlite_api.work()
    text = sqlite_api.http.get(path(job_id)).text
    whole = parsed(text)
    for cut in range(0, len(text) + 1, 7):
        before = parsed(text[:cut]) if "\n\n" in text[:cut] else []
        last = {"Last-Event-ID": before[-1][0]} if before else {}
        after: httpx.Response = sqlite_api.http.get(path(job_id), headers=last)
        assert before + parsed(after.text) == whole
