"""Rates of callers and the length of queues: what is refused, and whether Retry-After is true."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api import limits
from api.limits import QueueFull, Throughput, TokenBuckets
from core.database import Database
from core.jobs.places import LAST_POSITION
from core.jobs.states import JobState, Queue
from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem, serving, settings_for
from tests.api.key_holders import bearer, make_key, wait_for_the_guard
from tests.core.jobs.steps import ended, job, submitted
from tests.processes import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestTokenBuckets:
    def test_a_burst_and_then_the_rate(self) -> None:
        clock = Clock()
        buckets = TokenBuckets(3, clock=clock)
        assert [buckets.take("a", 2).is_allowed for _ in range(4)] == [True, True, True, False]
        for _ in range(10):  # half a second for each
            clock.now += 0.5
            assert [buckets.take("a", 2).is_allowed for _ in range(2)] == [True, False]

    def test_no_more_than_a_burst_is_saved(self) -> None:
        clock = Clock()
        buckets = TokenBuckets(3, clock=clock)
        buckets.take("a", 2)
        clock.now += 1e6
        assert sum(buckets.take("a", 2).is_allowed for _ in range(10)) == 3

    @pytest.mark.parametrize("rate", [0.01, 0.3, 1, 3, 7.5, 1000])
    def test_retry_after_is_long_enough_and_not_a_second_longer(self, rate: float) -> None:
        clock = Clock()
        buckets = TokenBuckets(2, clock=clock)
        while (refused := buckets.take("a", rate)).is_allowed:
            pass
        clock.now += refused.retry_after - 1.001
        too_early = buckets.take("a", rate)
        assert not too_early.is_allowed or refused.retry_after == 1
        clock.now += 1.002
        assert buckets.take("a", rate).is_allowed

    def test_what_is_left_and_when_all_is_back(self) -> None:
        clock = Clock()
        buckets = TokenBuckets(4, clock=clock)
        first, second = buckets.take("a", 0.5), buckets.take("a", 0.5)
        assert (first.remaining, first.full_in) == (3, 2)
        assert (second.remaining, second.full_in) == (2, 4)

    def test_each_name_has_its_own(self) -> None:
        buckets = TokenBuckets(1, clock=Clock())
        assert [buckets.take(name, 1).is_allowed for name in "abab"] == [True, True, False, False]

    def test_they_are_not_more_than_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MAX_BUCKETS", 3)
        buckets = TokenBuckets(1, clock=Clock())
        for name in "abacd":  # b was used longest ago
            buckets.take(name, 1)
        assert list(buckets._buckets) == ["a", "c", "d"]


@pytest.fixture
def slow_api(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    """A request a second at most on average, and three at once."""
    with serving(settings_for(sqlite_url, tmp_path, rate_per_second=0.01, rate_burst=3)) as running:
        yield running


class TestRate:
    def test_what_is_over_it_is_told_when_to_come_again(self, slow_api: Api) -> None:
        answers = [slow_api.http.get("/v1/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert_problem(answers[3], 429, "rate_limited", "3 at once")
        assert 99 <= int(answers[3].headers["retry-after"]) <= 100  # one in a hundred seconds
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"default";q=3;w=300'}
        left = [int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]) for answer in answers]
        assert left == [2, 1, 0, 0, 0]
        assert answers[0].headers["ratelimit"] == '"default";r=2;t=100'

    def test_health_and_documentation_are_never_refused(self, slow_api: Api) -> None:
        for _ in range(5):
            for path in ("/livez", "/openapi.json", "/metrics", "/health"):
                answer = slow_api.http.get(path)
                assert answer.status_code == 200
                assert "ratelimit" not in answer.headers

    def test_a_refused_post_makes_nothing(self, slow_api: Api) -> None:
        statuses = [slow_api.http.post("/v1/jobs", files={"file": PHOTO}).status_code for _ in range(5)]
        assert statuses == [202, 202, 202, 429, 429]
        assert slow_api.count_jobs() == 3

    def test_each_key_has_its_own_rate(self, slow_api: Api) -> None:
        _, slow = make_key(slow_api, "slow")
        _, fast = make_key(slow_api, "fast", rate=1e6)
        wait_for_the_guard(slow_api)

        def statuses(secret: str) -> list[int]:
            return [slow_api.http.get("/v1/jobs", headers=bearer(secret)).status_code for _ in range(4)]

        assert statuses(fast) == [200, 200, 200, 200]
        assert statuses(slow) == [200, 200, 200, 429]
        # Who has no key is told so, and takes nothing from anybody.
        assert slow_api.http.get("/v1/jobs").status_code == 401

    def test_without_a_limit_no_header_speaks_of_one(self, sqlite_api: Api) -> None:
        assert "ratelimit" not in sqlite_api.http.get("/v1/jobs").headers


@pytest.fixture
def small_api(database_url: str, tmp_path: Path) -> Iterator[Api]:
    """At most three jobs may wait in a queue."""
    with serving(settings_for(database_url, tmp_path, max_queue=3)) as running:
        yield running


class TestFullQueue:
    def test_it_refuses_until_there_is_room(self, small_api: Api) -> None:
        for _ in range(3):
            small_api.post()
        refused = small_api.http.post("/v1/jobs", files={"file": PHOTO})
        assert_problem(refused, 503, "queue_full", "Nothing was accepted")
        assert int(refused.headers["retry-after"]) == limits.UNKNOWN_THROUGHPUT_SECONDS
        assert (refused.json()["queue"], refused.json()["waiting"]) == ("predict", 3)
        assert_problem(small_api.http.post("/predict", files={"file": PHOTO}), 503, "queue_full")
        assert small_api.count_jobs() == 3
        small_api.post_url()  # downloads wait in another queue
        small_api.work()

        def accepted() -> bool:
            return small_api.http.post("/v1/jobs", files={"file": PHOTO}).status_code == 202

        eventually(accepted, what="room for a job")

    def test_many_at_once_do_not_overrun_it(self, small_api: Api) -> None:
        def post(_: int) -> int:
            return small_api.http.post("/v1/jobs", json={"image": {"url": PUBLIC_URL}}).status_code

        with ThreadPoolExecutor(8) as threads:
            statuses = sorted(threads.map(post, range(24)))
        assert set(statuses) == {202, 503}
        # Only the eight that were under way when the depth was read again may have been overlooked.
        assert 3 <= statuses.count(202) <= 3 + 8
        assert small_api.count_jobs() == statuses.count(202)


class TestThroughput:
    def test_retry_after_is_the_excess_over_the_measured_pace(self, database: Database) -> None:
        for _ in range(3):
            ended(database, JobState.SUCCEEDED)
        for _ in range(5):
            submitted(database)
        throughput = Throughput(database, max_queue=2)
        with pytest.raises(QueueFull) as refused:
            throughput.accept(Queue.PREDICT)
        # Four must go until there is room for one, and three went in the last minute.
        assert int(refused.value.headers["Retry-After"]) == math.ceil(4 * 60 / 3)
        throughput.accept(Queue.EXPLAIN, 2)
        with pytest.raises(QueueFull):
            throughput.accept(Queue.EXPLAIN)

    def test_it_is_never_longer_than_an_hour(self, database: Database) -> None:
        ended(database, JobState.SUCCEEDED)
        throughput = Throughput(database, max_queue=10)
        with pytest.raises(QueueFull) as refused:
            throughput.accept(Queue.PREDICT, 10_000)
        assert refused.value.headers["Retry-After"] == "3600"

    def test_a_batch_fits_whole_or_not_at_all(self, sqlite_database: Database) -> None:
        throughput = Throughput(sqlite_database, max_queue=10)
        throughput.accept(Queue.PREDICT, 8)
        with pytest.raises(QueueFull):
            throughput.accept(Queue.PREDICT, 3)
        throughput.accept(Queue.PREDICT, 2)

    def test_the_estimated_start(self, database: Database) -> None:
        throughput = Throughput(database, 9)
        assert throughput.start_of(Queue.PREDICT, 1) is None
        throughput.refresh()
        assert throughput.start_of(Queue.PREDICT, 1) is None
        for _ in range(6):
            ended(database, JobState.SUCCEEDED)
        job_id = submitted(database)
        throughput = Throughput(database, 9)
        throughput.refresh()
        start = throughput.start_of(Queue.PREDICT, 2)
        assert start is not None
        ahead = (start - job(database, job_id).created_at).total_seconds()
        assert ahead == pytest.approx(2 * 60 / 6, abs=5)
        assert throughput.start_of(Queue.PREDICT, LAST_POSITION) is None  # or any one behind it
