"""Pictures and forms of batches."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from PIL import Image

from tests.api.conftest import Api

CALL = "/v1/batches"


def picture(seed: int, form: str = "PNG") -> bytes:
    """A small picture; no two seeds below 16 million give the same."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (seed >> 16 & 255, seed >> 8 & 255, seed & 255)).save(data, form)
    return data.getvalue()


def zipped(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], **options: Any) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as archive:
        for name, content in dict(members).items():
            archive.writestr(name, content)
    return data.getvalue()


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{i}.png", content)) for i, content in enumerate(contents)]


def sent(api: Api, **request: Any) -> httpx.Response:
    return api.http.post(CALL, **request)


def accepted(api: Api, **request: Any) -> dict[str, Any]:
    answer = sent(api, **request)
    assert answer.status_code == 202, answer.text
    batch = dict(answer.json())
    assert answer.headers["location"] == batch["links"]["self"] == f"{CALL}/{batch['id']}"
    assert sum(batch["counts"].values()) == batch["total"]
    return batch


def of_files(api: Api, count: int = 3, **fields: str) -> dict[str, Any]:
    return accepted(api, files=files(*map(picture, range(count))), data=fields)


def of_zip(api: Api, data: bytes) -> dict[str, Any]:
    return accepted(api, files={"archive": ("pictures.zip", data, "application/zip")})


def of_manifest(api: Api, text: str | bytes, name: str = "manifest") -> dict[str, Any]:
    return accepted(api, files={"manifest": (name, text, "application/octet-stream")})


def results(api: Api, batch: dict[str, Any]) -> list[dict[str, Any]]:
    answer = api.http.get(batch["links"]["results"])
    assert answer.status_code == 200, answer.text
    return [httpx.Response(200, text=line).json() for line in answer.text.splitlines()]
