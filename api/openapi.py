"""What FastAPI cannot derive from the code: bodies in several forms, and problem documents."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.auth import is_protected
from api.batch_schemas import BatchRequest, ResultOut
from api.examples import EXAMPLES
from api.job_fields import JobRequest
from api.problems import MEDIA_TYPE
from api.schemas import Problem
from api.webhook_schemas import WebhookRequest

_MEANINGS = {
    400: "The request does not parse.",
    401: "An API key is needed, or this one is not in force.",
    403: "The service is open to its own machine alone, and this came from a page of another site.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "Its state does not allow that.",
    413: "The body or the picture is too large.",
    415: "Not a JPEG, PNG or WebP picture, or a body in another form than those described.",
    422: "A value cannot be accepted; `detail` says which and why.",
    429: "More requests than the caller may make; Retry-After says when the next one is answered.",
    500: "The job failed by an error of the service; its id is in the answer.",
    503: "The database cannot be reached, or the queue is full; Retry-After says when to try again.",
    504: "The job has not ended in time; it goes on, and its id is in the answer.",
    507: "The disk is full.",
}


_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer` (RFC 6750).", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int, **others: dict[str, Any]) -> Responses:
    """The ``responses`` of an endpoint that may refuse in these ways.

    Answers that are not refusals are added by name: ``http_304={...}``.
    """
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    added: Responses = {int(name.removeprefix("http_")): answer for name, answer in others.items()}
    refusals = {status: {"description": _MEANINGS[status], "content": content} for status in statuses}
    for status, headers in _HEADERS.items():
        if status in refusals:
            refusals[status]["headers"] = headers
    return added | refusals


def _inlined(model: type[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema(ref_template="#/components/schemas/{model}")
    EXTRA_SCHEMAS.update(schema.pop("$defs", {}))
    EXTRA_SCHEMAS[model.__name__] = schema
    return {"$ref": f"#/components/schemas/{model.__name__}"}


EXTRA_SCHEMAS: dict[str, Any] = {}

_FORM: dict[str, Any] = {
    "type": "object",
    "description": "Exactly one of file and url.",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP picture."},
        "url": {"type": "string", "description": "Where to download one."},
        "methods": {"type": "string", "description": "Names, separated by commas: `grad_cam,occlusion`."},
        "options": {"type": "string", "description": 'A JSON object: `{"target": "cat"}`.'},
        "priority": {"type": "integer", "minimum": 0, "maximum": 9, "default": 5},
        "deadline_seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 604800},
        "custom_id": {"type": "string", "minLength": 1, "maxLength": 255},
        "metadata": {"type": "string", "description": 'A JSON object: `{"album": "2026"}`.'},
        "webhook_url": {"type": "string", "description": "Told of the job's end, signed."},
        "webhook_events": {"type": "string", "description": "The ends it is told of, separated by commas."},
    },
    "additionalProperties": False,
}

_URL_FORM = {
    "type": "object",
    "properties": {name: schema for name, schema in _FORM["properties"].items() if name != "file"},
    "required": ["url"],
    "additionalProperties": False,
}

JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/x-www-form-urlencoded": {"schema": _URL_FORM},
            "application/json": {
                "schema": _inlined(JobRequest),
                "examples": {
                    "url": {"value": {"image": {"url": "https://example.com/cat.jpg"}, "custom_id": "42"}}
                },
            },
        },
    }
}

WEBHOOK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _inlined(WebhookRequest)}},
    }
}

_BATCH_FORM: dict[str, Any] = {
    "type": "object",
    "description": "Exactly one of files, archive and manifest.",
    "properties": {
        "files": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "JPEG, PNG or WebP pictures, each in a part of its own.",
        },
        "archive": {"type": "string", "format": "binary", "description": "A zip with pictures."},
        "manifest": {
            "type": "string",
            "format": "binary",
            "description": "CSV with a header, or JSON Lines, with `url`, `custom_id` and `name`.",
        },
        **{name: _FORM["properties"][name] for name in ("methods", "options", "priority", "metadata")},
        "deadline_seconds": _FORM["properties"]["deadline_seconds"],
        "webhook_url": {"type": "string", "description": "Told of the batch's end, signed."},
        "webhook_events": {
            "type": "string",
            "description": "`batch.completed`, `batch.canceled` or, separated by a comma, both.",
        },
    },
    "additionalProperties": False,
}

BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _BATCH_FORM,
                "encoding": {
                    "archive": {"contentType": "application/zip"},
                    "manifest": {"contentType": "text/csv, application/x-ndjson"},
                },
            },
            "application/json": {
                "schema": _inlined(BatchRequest),
                "examples": {
                    "urls": {
                        "value": {
                            "items": [
                                {"url": "https://example.com/1.jpg", "custom_id": "1"},
                                {"url": "https://example.com/2.jpg", "custom_id": "2"},
                            ]
                        }
                    }
                },
            },
        },
    }
}


def _one_picture(**fields: dict[str, Any]) -> dict[str, Any]:
    properties = {name: _FORM["properties"][name] for name in ("file", "url")} | fields
    schema = {"type": "object", "description": "Exactly one of file and url.", "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


PREDICT_BODY = _one_picture()
EXPLAIN_BODY = _one_picture(
    what={"type": "string", "default": "all", "description": "`all`, or names separated by commas."}
)

_API_KEY = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "pk_ and 43 characters",
    "description": "Made by `pawlens keys create NAME`. Not needed on loopback while there is no key.",
}

_inlined(Problem)
_inlined(ResultOut)  # a line of a batch's results


def complete(app: FastAPI) -> None:
    """Let the app's OpenAPI document contain the schemas that only bodies and problems refer to, and what
    holds for every call that the middleware protects: the API key and its refusals.
    """
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        document = derive()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name, schema in EXTRA_SCHEMAS.items():
            schemas.setdefault(name, schema)
        for name, example in EXAMPLES.items():  # here, because FastAPI leaves out what is null in one
            schemas[name]["examples"] = [example]
        document["components"]["securitySchemes"] = {"api_key": _API_KEY}
        for path, item in document["paths"].items():
            if is_protected(path):
                for operation in item.values():
                    operation["security"] = [{"api_key": []}, {}]  # the second: where the service is open
                    refusals = problems(401, 403, 429, *([408] if "requestBody" in operation else []))
                    operation["responses"] |= {str(code): said for code, said in refusals.items()}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
