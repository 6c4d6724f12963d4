"""Whether the service answers, asked from outside as any client would."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def address_of(host: str, port: int) -> str:
    """The URL under which this machine reaches a server that listens on ``host``."""
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def readiness(address: str, *, timeout: float = 1.0) -> dict[str, Any] | None:
    """What ``/readyz`` says, whatever its status; None when nothing that reads so answers in time.

    By http.client, because ``pawlens up`` asks ten times a second while everything starts, and keeps what it
    has imported: an httpx.Client reads the machine's certificates each time, for plain HTTP too. Nor does
    http.client look for a proxy, which would not find our loopback.
    """
    url = urlsplit(address)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        report = json.loads(connection.getresponse().read())
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    is_report = isinstance(report, dict) and isinstance(report.get("checks"), dict)
    return report if is_report and "status" in report else None


def alive_workers(report: dict[str, Any]) -> dict[str, int]:
    """How many workers of each queue have been seen lately."""
    return dict((report["checks"].get("workers") or {}).get("alive") or {})


def complaint(report: dict[str, Any] | None) -> str:
    """What is not in order, in one sentence."""
    if report is None:
        return "The API does not answer."
    bad = [
        f"{name} is {check.get('status')}" + (f" ({check['detail']})" if check.get("detail") else "")
        for name, check in report["checks"].items()
        if check.get("status") != "ok"
    ]
    return f"/readyz says {report['status']}: {', '.join(bad)}."
