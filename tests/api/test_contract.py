"""The whole OpenAPI document against the running service: no answer of 5xx, and none that is not documented.

schemathesis makes requests from the document, right ones and wrong ones, the same in each run. Half of them
go to jobs, batches and webhooks that exist. A worker answers what waits for it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from api.app import create_app
from core.jobs.states import Queue
from core.settings import Settings
from tests.api.conftest import PHOTO, Api, served_over_sqlite
from worker.runtime import Runtime

EXAMPLES = 10
"""Of right requests, and as many of wrong ones, for each call."""
SLOW = {"wait", "Prefer"}  # what would have the answer wait for something to happen
NOT_FUZZED = {
    "/metrics",  # text, which test_metrics.py parses
    "/v1/batches/{batch_id}/events",  # streams without an end while the batch runs: test_events.py
    "/v1/jobs/{job_id}/events",
}


@pytest.fixture(scope="module")
def fuzzed(migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service of its own, with a worker for predictions and explanations."""
    with served_over_sqlite(migrated_sqlite_file, tmp_path_factory.mktemp("contract")) as api:
        runtime, done = Runtime(api.settings, [Queue.PREDICT, Queue.EXPLAIN], "worker"), threading.Event()

        def work() -> None:
            while not done.wait(0.02):
                for queue in (Queue.PREDICT, Queue.EXPLAIN):
                    runtime.drain(queue, "worker/task")

        thread = threading.Thread(target=work)
        thread.start()
        yield api
        done.set()
        thread.join()
        runtime.stop()


@pytest.fixture
def ids(fuzzed: Api) -> Iterator[dict[str, list[str]]]:
    yield existing(fuzzed)
    fuzzed.clear()


def existing(api: Api) -> dict[str, list[str]]:
    """Ids of things that are there, by the name of the path's parameter."""
    waiting = api.post_url()["id"]  # nobody downloads here
    ended = api.post(methods="grad_cam")["id"]
    api.http.get(f"/v1/jobs/{ended}", params={"wait": 30})
    batch = api.http.post("/v1/batches", files={"files": PHOTO}).json()["id"]
    hook = api.http.post("/v1/webhooks", json={"url": "https://example.com/hook"}).json()["id"]
    api.http.post(f"/v1/webhooks/{hook}/test")
    sent = api.http.get("/v1/deliveries").json()["deliveries"][0]["id"]
    return {
        "job_id": [waiting, ended],
        "batch_id": [batch],
        "webhook_id": [hook],
        "delivery_id": [sent],
        "method": ["grad_cam"],
        "name": ["panel.png"],
    }


def calls() -> list[tuple[str, str, GenerationMode]]:
    """Each call with right requests, and with wrong ones if there is anything to get wrong but an id."""
    document = create_app(Settings(engine="stand-in")).openapi()
    found = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if path not in NOT_FUZZED:
                given = {parameter["in"] for parameter in operation.get("parameters", [])}
                wrong = "query" in given or "requestBody" in operation
                modes = list(GenerationMode) if wrong else [GenerationMode.POSITIVE]
                found += [(method.upper(), path, mode) for mode in modes]
    return found


@pytest.mark.parametrize(("method", "path", "mode"), calls(), ids=str)
def test_answers_are_as_documented_whatever_is_asked(
    fuzzed: Api, ids: dict[str, list[str]], method: str, path: str, mode: GenerationMode
) -> None:
    load_all_checks()
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    checks: Any = CHECKS.get_by_names([*names, "response_schema_conformance", "response_headers_conformance"])
    chance = random.Random(f"{method} {path}")
    statuses: Counter[int] = Counter()
    schema = schemathesis.openapi.from_url(f"{fuzzed.http.base_url}/openapi.json")
    operation = schema[path][method]

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        for name in case.path_parameters or {}:
            if chance.random() < 0.5 and name in ids:
                case.path_parameters[name] = chance.choice(ids[name])
        for parameters in (case.query, case.headers):
            for name in SLOW & set(parameters or {}):
                parameters.pop(name)
        with requests.Session() as session:
            session.trust_env = False
            answer = case.call(base_url=str(fuzzed.http.base_url), session=session, timeout=30)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=checks)

    ask()
    assert statuses
