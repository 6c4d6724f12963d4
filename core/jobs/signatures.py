"""Webhook secrets and signatures, as Standard Webhooks 1.0 has them (https://www.standardwebhooks.com).

A signature covers the message's id, the time of the attempt, and the very bytes of the body:
``HMAC-SHA256(secret, "{id}.{timestamp}.{body}")`` in base64, behind the version ``v1``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

PREFIX = "whsec_"
SECRET_BYTES = 32  # the specification asks for 24 to 64


def new_secret() -> str:
    """``whsec_`` and the base64 of random bytes. What signs are the bytes, not this text."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature: ``v1,`` and base64. ``timestamp`` counts seconds since 1970."""
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii")


def headers(keys: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt, signed with each of the secrets: a receiver needs any one of them."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }
