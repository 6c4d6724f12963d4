"""Ids of things: a prefix that says what it is, and a UUIDv7 (RFC 9562), which sorts by time of making."""

from __future__ import annotations

from typing import Literal

from uuid_utils import uuid7

Prefix = Literal["job", "batch", "whk", "msg"]


def new_id(prefix: Prefix) -> str:
    return f"{prefix}_{uuid7().hex}"
