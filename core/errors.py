"""Every refusal and failure that a client can see.

An error knows its HTTP status and a stable ``code``; only the API's edge turns it into a problem
document (RFC 9457), and only :mod:`core.jobs.results` writes it into a job. ``detail`` is a sentence
for the person who reads it: what was wrong and what would be right.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PawlensError(Exception):
    """Base of all errors that are meant to be shown.

    ``retryable`` says whether the same job may succeed on another attempt; a job that fails with an
    error that is not retryable is final at once.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.extensions = extensions

    def as_job_error(self) -> dict[str, Any]:
        """The form in which a job carries it: ``{"code", "title", "detail"}``."""
        return {"code": self.code, "title": self.title, "detail": self.detail}


class BadRequest(PawlensError):
    status, code, title = 400, "bad_request", "Bad request"


class NotFound(PawlensError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(PawlensError):
    status, code, title = 409, "conflict", "Conflict"


class PayloadTooLarge(PawlensError):
    status, code, title = 413, "payload_too_large", "Payload too large"


class UnsupportedMediaType(PawlensError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class InvalidRequest(PawlensError):
    """A well-formed request with values that cannot be accepted; ``errors`` lists each of them."""

    status, code, title = 422, "invalid_request", "Invalid request"


class InvalidImage(PawlensError):
    """Bytes that claim to be a picture of an accepted format and cannot be decoded, or are too large."""

    status, code, title = 422, "invalid_image", "Invalid image"


class UrlBlocked(PawlensError):
    """A URL whose form or address is not allowed: scheme, port, credentials, or a private address."""

    status, code, title = 422, "url_blocked", "URL blocked"


class FetchFailed(PawlensError):
    """The picture's URL could not be downloaded for a reason that will not pass (404, too large, ...)."""

    status, code, title = 422, "fetch_failed", "Download failed"


class FetchUnavailable(FetchFailed):
    """The picture's URL could not be downloaded now (timeout, 5xx, connection refused): worth a retry."""

    retryable = True


class ServiceUnavailable(PawlensError):
    status, code, title = 503, "service_unavailable", "Service unavailable"
    retryable = True


class StorageFull(PawlensError):
    status, code, title = 507, "insufficient_storage", "Insufficient storage"


class DeviceOutOfMemory(PawlensError):
    """One picture alone does not fit into the device's memory."""

    code, title = "device_out_of_memory", "Device out of memory"


class InternalError(PawlensError):
    """A fault of ours. The client is told so; the log has the traceback."""

    @classmethod
    def of_worker(cls) -> InternalError:
        return cls("The worker met an error of its own while it ran this job. Its log has the details.")


class DeviceFailed(PawlensError):
    """The device is in a state that only a new process can leave (an asynchronous CUDA error, say)."""

    code, title = "device_failed", "Device failed"
    retryable = True


class TimedOut(PawlensError):
    """The job ran longer than any job may."""

    code, title = "timed_out", "Timed out"


class WorkerLost(PawlensError):
    """The job's worker died or went silent on every attempt."""

    code, title = "worker_lost", "Worker lost"


class InvalidWeights(PawlensError):
    """A checkpoint or manifest that is missing, damaged, or does not fit the network."""

    code, title = "invalid_weights", "Invalid weights"
