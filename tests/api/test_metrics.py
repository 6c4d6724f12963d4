"""``/metrics`` as Prometheus reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from api import metrics
from api.metrics import ServiceState
from core.database import Database
from core.jobs import claims
from core.jobs.states import Queue
from tests.api.conftest import Api, serving, settings_for
from tests.processes import eventually

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "KEEP_SECONDS", -1.0)


def scrape(api: Api) -> Samples:
    answer = api.http.get("/metrics")
    assert answer.status_code == 200
    samples: Samples = {}
    for family in parse(answer.text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, "a series is there once"
            samples[key] = sample.value
    return samples


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"pawlens_{name}", tuple(sorted(labels.items()))))


def test_it_is_in_the_text_format_and_keeps_to_the_conventions(sqlite_api: Api) -> None:
    """https://prometheus.io/docs/practices/naming"""
    sqlite_api.post()
    sqlite_api.work()
    answer = sqlite_api.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    families = list(parse(answer.text))
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"(pawlens|process)_[a-z0-9_]+", family.name)
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        assert not re.search(r"_(ms|milliseconds|minutes|percent)$", family.name)
        for sample in family.samples:
            is_total = sample.name.endswith("_total")
            assert is_total == (family.type == "counter"), sample.name
            assert "le" not in sample.labels or family.type == "histogram"


def test_openmetrics_for_those_who_ask(sqlite_api: Api) -> None:
    accept = "application/openmetrics-text; version=1.0.0, text/plain; q=0.5"
    answer = sqlite_api.http.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(answer.text)}
    assert {"pawlens_jobs_waiting", "pawlens_http_requests"} <= names


def test_an_idle_service_has_zeros_where_there_can_be_a_number(api: Api) -> None:
    samples = scrape(api)
    assert of(samples, "database_up") == 1
    for queue in Queue:
        for name in ("jobs_waiting", "jobs_running", "oldest_waiting_job_seconds", "workers_alive"):
            assert of(samples, name, queue=queue) == 0
    assert of(samples, "jobs_finished_last_minute", queue="predict", status="failed") == 0
    assert of(samples, "methods_finished_last_minute", method="occlusion", status="skipped") == 0
    for state in ("pending", "delivered", "failed"):
        assert of(samples, "webhook_deliveries_last_hour", state=state) == 0
    assert of(samples, "webhook_deliveries_pending") == 0
    # A time that nobody took is absent: 0 would be a lie.
    assert not [name for name, _ in samples if name in ("pawlens_stage_seconds", "pawlens_method_seconds")]


def test_jobs_from_waiting_to_ended(api: Api) -> None:
    for _ in range(3):
        api.post()
    api.post_url()
    waiting = scrape(api)
    assert of(waiting, "jobs_waiting", queue="predict") == 3
    assert of(waiting, "jobs_waiting", queue="io") == 1
    assert (of(waiting, "oldest_waiting_job_seconds", queue="predict") or 0) > 0
    with api.database.write() as session:
        (claim,) = claims.claim(session, Queue.PREDICT, owner="other", limit=1, lease_seconds=60)
    running = scrape(api)
    assert of(running, "jobs_waiting", queue="predict") == 2
    assert of(running, "jobs_running", queue="predict") == 1
    api.http.post(f"/v1/jobs/{claim.job_id}/cancel")
    api.work()
    ended = scrape(api)
    assert of(ended, "jobs_finished_last_minute", queue="predict", status="succeeded") == 2
    assert of(ended, "jobs_waiting", queue="predict") == 0
    assert of(ended, "workers_alive", queue="predict") == 1
    for stage in ("queued", "decode", "inference", "total"):
        seconds = [
            of(ended, "stage_seconds", queue="predict", stage=stage, quantile=quantile)
            for quantile in ("0.5", "0.9", "0.99")
        ]
        assert None not in seconds
        assert seconds == sorted(seconds)  # type: ignore[type-var]
    assert of(ended, "micro_batch_pictures", queue="predict", quantile="0.5") == 2


def test_requests_are_counted_by_route_and_not_by_path(sqlite_server: Api) -> None:
    def counted(route: str, status: str, method: str = "GET") -> float:
        samples = scrape(sqlite_server)
        return of(samples, "http_requests_total", method=method, route=route, status=status) or 0

    http = sqlite_server.http
    before = counted("/v1/jobs/{job_id}", "404"), counted("none", "404"), counted("none", "405", "other")
    for i in range(4):
        http.get(f"/v1/jobs/job_{i}")
        http.get(f"/nothing/{i}")
    after = eventually(
        lambda: (now := counted("/v1/jobs/{job_id}", "404")) == before[0] + 4 and now, what="counts"
    )
    assert after
    assert counted("none", "404") == before[1] + 4
    http.request("BREW", "/livez")
    labels = {
        dict(labels)["method"]
        for name, labels in scrape(sqlite_server)
        if name == "pawlens_http_requests_total"
    }
    assert labels <= {"GET", "POST", "other"}
    seconds = scrape(sqlite_server)
    buckets = [
        value
        for (name, labels), value in seconds.items()
        if name == "pawlens_http_request_duration_seconds_bucket"
        and dict(labels) | {"le": ""} == {"method": "GET", "route": "/v1/jobs/{job_id}", "le": ""}
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == after


def test_a_database_that_is_away_is_said_and_the_rest_stays(tmp_path: Path) -> None:
    with serving(settings_for(f"sqlite:///{tmp_path / 'missing' / 'pawlens.db'}", tmp_path)) as running:
        running.http.get("/livez")
        samples = scrape(running)
    assert of(samples, "database_up") == 0
    assert of(samples, "jobs_waiting", queue="predict") is None
    assert of(samples, "http_requests_total", method="GET", route="/livez", status="200") == 1


def test_the_database_is_read_once_a_second_at_most(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "KEEP_SECONDS", 1e9)
    state = ServiceState(sqlite_database, silent_seconds=1)
    first = state.collect()
    sqlite_database.dispose()
    monkeypatch.setattr(state, "_database", None)
    assert state.collect() is first


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.5, 5.0), (0.9, 9.0), (0.99, 10.0), (0.01, 1.0), (1, 10.0)]
)
def test_quantiles_are_measured_values(quantile: float, expected: float) -> None:
    assert metrics._quantile([float(i) for i in range(1, 11)], quantile) == expected
    assert metrics._quantile([7.0], quantile) == 7.0
