"""The tables. ``migrations`` builds the same ones; a test compares both.

Bytes are stored once, by SHA-256, in ``blobs``; everything else refers to them by digest. A job's events
are numbered from 1 without gaps by ``jobs.event_seq``.
"""

from core.jobs.tables.base import StateName, Table
from core.jobs.tables.jobs import Artifact, Batch, Blob, Event, Image, Job, Method
from core.jobs.tables.service import ApiKey, IdempotencyKey, Worker
from core.jobs.tables.webhooks import WebhookAttempt, WebhookDelivery, WebhookEndpoint

__all__ = [
    "ApiKey",
    "Artifact",
    "Batch",
    "Blob",
    "Event",
    "IdempotencyKey",
    "Image",
    "Job",
    "Method",
    "StateName",
    "Table",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "Worker",
]
