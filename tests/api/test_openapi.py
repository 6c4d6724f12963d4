"""The document against the code: it validates, and it says what the service does."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.api.conftest import PHOTO, PUBLIC_URL, Api

METHODS = ("get", "post", "delete")


@pytest.fixture
def document(sqlite_api: Api) -> dict[str, Any]:
    return dict(sqlite_api.http.get("/openapi.json").json())


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


def validator(document: dict[str, Any], schema: dict[str, Any]) -> OAS31Validator:
    """Of values that are as ``schema`` says, which may refer to the document's components."""
    whole = {**schema, "components": document["components"]}
    return OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER)


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_call_of_the_contract_is_there(document: dict[str, Any]) -> None:
    calls = {(method, path) for method, path, _ in operations(document)}
    assert {
        *[("post", "/v1/jobs"), ("get", "/v1/jobs"), ("get", "/v1/jobs/{job_id}")],
        *[("post", "/v1/jobs/{job_id}/cancel"), ("get", "/v1/jobs/{job_id}/image")],
        *[("get", "/v1/model"), ("get", "/v1/queue"), ("get", "/livez"), ("get", "/readyz")],
        *[("post", "/predict"), ("get", "/health")],
        *[("post", "/v1/batches"), ("get", "/v1/batches"), ("get", "/v1/batches/{batch_id}")],
        *[("get", "/v1/batches/{batch_id}/results"), ("get", "/v1/batches/{batch_id}/events")],
        *[("post", "/v1/batches/{batch_id}/cancel"), ("post", "/v1/batches/{batch_id}/retry")],
        ("delete", "/v1/batches/{batch_id}"),
    } <= calls


def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    """And none is described as what FastAPI would have answered."""
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or (path, status) == ("/readyz", "503"):
                continue
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, f"{method} {path} {status}"
            assert list(answer["content"]) == ["application/problem+json"]
            assert answer["description"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"#/components/schemas/([A-Za-z]+)", str(document)))
    assert references == set(document["components"]["schemas"])


def test_what_calls_and_bodies_mean_is_written_down(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation.get("description"), f"{method} {path}"
    bodies = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(bodies) == {
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "application/json",
    }


def test_what_is_shown_as_an_example_is_one(document: dict[str, Any]) -> None:
    """With every field that there is, so that none is missing from what a reader sees."""
    shown = {
        name: schema for name, schema in document["components"]["schemas"].items() if "examples" in schema
    }
    assert {"JobOut", "MethodOut", "BatchOut", "Problem"} <= set(shown)
    for schema in shown.values():
        for example in schema["examples"]:
            validator(document, schema).validate(example)
            assert set(example) == set(schema["properties"])


def test_it_says_when_to_come_back(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status in {"429", "503"} & set(operation["responses"]):
            if (path, status) != ("/readyz", "503"):
                assert "Retry-After" in operation["responses"][status]["headers"], f"{method} {path}"


CALLS: list[tuple[str, str, dict[str, Any], int]] = [
    ("post", "/v1/jobs", {"files": {"file": PHOTO}}, 202),
    ("post", "/v1/jobs", {"json": {"image": {"url": PUBLIC_URL}}}, 202),
    ("post", "/v1/jobs", {"data": {"url": PUBLIC_URL}}, 202),
    ("post", "/v1/jobs", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    ("post", "/v1/jobs", {"content": bytes(3 << 20)}, 413),
    ("post", "/v1/jobs", {"content": b"x"}, 415),
    ("post", "/v1/jobs", {"data": {}, "files": {"file": b""}}, 422),
    ("get", "/v1/jobs", {}, 200),
    ("get", "/v1/jobs", {"params": {"limit": 0}}, 422),
    ("get", "/v1/jobs/{job_id}", {}, 200),
    ("get", "/v1/jobs/{job_id}", {"params": {"wait": -1}}, 422),
    ("get", "/v1/jobs/job_0", {}, 404),
    ("get", "/v1/jobs/{job_id}/image", {}, 200),
    ("get", "/v1/jobs/job_0/image", {}, 404),
    ("get", "/v1/jobs/%00/image", {}, 422),
    ("post", "/v1/jobs/{job_id}/cancel", {}, 200),
    ("post", "/v1/jobs/{job_id}/cancel", {}, 409),
    ("post", "/v1/jobs/job_0/cancel", {}, 404),
    ("post", "/v1/jobs/%00/cancel", {}, 422),
    ("get", "/v1/model", {}, 200),
    ("get", "/v1/methods", {}, 200),
    ("get", "/v1/queue", {}, 200),
    ("get", "/livez", {}, 200),
    ("get", "/readyz", {}, 200),
    ("get", "/health", {}, 200),
    ("post", "/predict", {"data": {"other": "1"}}, 400),
    ("post", "/predict", {"content": bytes(3 << 20)}, 413),
    ("post", "/predict", {"content": b"x"}, 415),
    ("post", "/predict", {"data": {"url": "http://127.0.0.1/"}}, 422),
]


def test_answers_are_as_documented(sqlite_api: Api, document: dict[str, Any]) -> None:
    """Status, media type and body of real answers, one after the other on one job."""
    job = sqlite_api.post(custom_id="1")
    for method, path, arguments, status in CALLS:
        answer = sqlite_api.http.request(method, path.format(job_id=job["id"]), **arguments)
        assert answer.status_code == status, (method, path, answer.text)
        template = re.sub(r"/jobs/(?:job_0|%00)", "/jobs/{job_id}", path)
        described = document["paths"][template][method]["responses"][str(status)]
        kind = answer.headers["content-type"]
        assert kind in described["content"], (method, path, status, kind)
        if kind != "image/jpeg":
            validator(document, described["content"][kind]["schema"]).validate(answer.json())


BATCH_CALLS: list[tuple[str, str, dict[str, Any], int]] = [
    ("post", "/v1/batches", {"files": {"files": PHOTO}}, 202),
    ("post", "/v1/batches", {"json": {"items": [{"url": PUBLIC_URL}, {}]}}, 202),
    ("post", "/v1/batches", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    ("post", "/v1/batches", {"json": {"items": ["x" * (3 << 20)]}}, 413),
    ("post", "/v1/batches", {"content": b"x"}, 415),
    ("post", "/v1/batches", {"files": {"files": b"x"}}, 422),
    ("get", "/v1/batches", {}, 200),
    ("get", "/v1/batches", {"params": {"limit": 0}}, 422),
    ("get", "/v1/batches/{batch_id}", {}, 200),
    ("get", "/v1/batches/batch_0", {}, 404),
    ("get", "/v1/batches/{batch_id}/results", {}, 200),
    ("get", "/v1/batches/{batch_id}/results", {"params": {"format": "csv"}}, 200),
    ("get", "/v1/batches/{batch_id}/results", {"params": {"format": "zip"}}, 200),
    ("get", "/v1/batches/{batch_id}/results", {"params": {"format": "xls"}}, 422),
    ("post", "/v1/batches/{batch_id}/retry", {}, 409),
    ("delete", "/v1/batches/{batch_id}", {}, 409),
    ("post", "/v1/batches/{batch_id}/cancel", {}, 200),
    ("post", "/v1/batches/{batch_id}/cancel", {}, 409),
    ("get", "/v1/batches/{batch_id}/events", {}, 200),
]


def test_answers_about_batches_are_as_documented(sqlite_api: Api, document: dict[str, Any]) -> None:
    batch = sqlite_api.http.post("/v1/batches", files={"files": PHOTO}).json()
    for method, path, arguments, status in BATCH_CALLS:
        answer = sqlite_api.http.request(method, path.format(batch_id=batch["id"]), **arguments)
        assert answer.status_code == status, (method, path, answer.text)
        template = path.replace("batch_0", "{batch_id}")
        described = document["paths"][template][method]["responses"][str(status)]["content"]
        kind = answer.headers["content-type"]
        assert kind in described or kind.partition(";")[0] in described, (method, path, status, kind)
        if kind.endswith("json"):
            if kind == "application/x-ndjson":
                row = validator(document, {"$ref": "#/components/schemas/ResultOut"})
                for line in answer.text.splitlines():
                    row.validate(json.loads(line))
            else:
                validator(document, described[kind]["schema"]).validate(answer.json())


def test_a_result_is_as_documented(sqlite_api: Api, document: dict[str, Any]) -> None:
    jobs = validator(document, {"$ref": "#/components/schemas/JobOut"})
    job_id = sqlite_api.post()["id"]
    sqlite_api.work()
    job = sqlite_api.job(job_id)
    assert job["status"] == "succeeded"
    jobs.validate(job)
    assert not jobs.is_valid(job | {"status": "done"})
