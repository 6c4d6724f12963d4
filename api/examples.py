"""Answers as the documentation shows them. A test compares each with the schema that it is an example of."""

from __future__ import annotations

from typing import Any

JOB_ID = "job_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"
BATCH_ID = "batch_0192f3a1b2c37d4e8f90a1b2c3d4e5f6"

JOB: dict[str, Any] = {
    "id": JOB_ID,
    "kind": "predict",
    "status": "succeeded",
    "created_at": "2026-11-23T18:47:20.012000Z",
    "started_at": "2026-11-23T18:47:20.024000Z",
    "finished_at": "2026-11-23T18:47:20.071000Z",
    "name": "cat.jpg",
    "custom_id": "42",
    "metadata": {"album": "2026"},
    "options": None,
    "batch_id": None,
    "batch_index": None,
    "image": {
        "sha256": "d2b5256b7b142250cfd2879c5d8c3b2a796709ad4205d998e12daf941effe2ef",
        "width": 500,
        "height": 357,
        "media_type": "image/jpeg",
    },
    "source_url": None,
    "model": {
        "name": "resnet101-cat-dog",
        "version": "1.0",
        "digest": "e0cb98e1e1e3551c4eed4bce6ee8f7fa6741ed8f087ae0d94db5f8165cda18fb",
    },
    "prediction": {"label": "cat", "scores": {"cat": 0.998, "dog": 0.002}, "margin": 4.74},
    "timings": {"queued_ms": 12.1, "decode_ms": 3.2, "inference_ms": 41.7, "batch_size": 1},
    "methods": [],
    "progress": {"done": 1, "total": 1},
    "queue": None,
    "error": None,
    "attempt": 1,
    "event_seq": 3,
    "links": {
        "self": f"/v1/jobs/{JOB_ID}",
        "events": f"/v1/jobs/{JOB_ID}/events",
        "image": f"/v1/jobs/{JOB_ID}/image",
        "cancel": f"/v1/jobs/{JOB_ID}/cancel",
    },
}

METHOD: dict[str, Any] = {
    "name": "integrated_gradients",
    "status": "succeeded",
    "progress": {"done": 24, "total": 24},
    "seconds": 2.1,
    "cached": False,
    "quality": {"completeness_error": 0.006, "converged": True},
    "provenance": {
        "target": "cat",
        "margin": 4.73,
        "probability": 0.998,
        "baseline": "mean",
        "baseline_margin": 0.31,
        "tolerance": 0.01,
        "precision": "bf16",
        "device": "cpu",
    },
    "artifacts": [
        {
            "name": "panel.png",
            "media_type": "image/png",
            "bytes": 187342,
            "url": f"/v1/jobs/{JOB_ID}/artifacts/integrated_gradients/panel.png",
        }
    ],
    "error": None,
}

BATCH: dict[str, Any] = {
    "id": BATCH_ID,
    "status": "running",
    "kind": "predict",
    "methods": [],
    "created_at": "2026-11-23T18:47:20.012000Z",
    "finished_at": None,
    "metadata": {},
    "total": 14,
    "counts": {
        "fetching": 0,
        "queued": 8,
        "running": 2,
        "canceling": 0,
        "succeeded": 3,
        "partial": 0,
        "failed": 1,
        "canceled": 0,
        "expired": 0,
    },
    "progress": {"done": 4, "total": 14},
    "rejected": 1,
    "errors": [
        {
            "index": 5,
            "name": "notes.txt",
            "custom_id": None,
            "code": "unsupported_media_type",
            "detail": "The data are no JPEG, PNG or WebP picture; these three formats are accepted.",
        }
    ],
    "retry_of": None,
    "event_seq": 2,
    "links": {
        "self": f"/v1/batches/{BATCH_ID}",
        "events": f"/v1/batches/{BATCH_ID}/events",
        "results": f"/v1/batches/{BATCH_ID}/results",
        "cancel": f"/v1/batches/{BATCH_ID}/cancel",
        "retry": f"/v1/batches/{BATCH_ID}/retry",
        "jobs": f"/v1/jobs?batch_id={BATCH_ID}",
    },
}

PROBLEM: dict[str, Any] = {
    "type": "urn:pawlens:problem:invalid_request",
    "title": "Invalid request",
    "status": 422,
    "detail": "priority: Input should be less than or equal to 9",
    "instance": "/v1/jobs",
    "code": "invalid_request",
    "correlation_id": "01a2164c66e675a985cd853ef37de274",
    "errors": [{"field": "priority", "message": "Input should be less than or equal to 9"}],
}

EXAMPLES = {"JobOut": JOB, "MethodOut": METHOD, "BatchOut": BATCH, "Problem": PROBLEM}
"""By the names of their schemas."""
