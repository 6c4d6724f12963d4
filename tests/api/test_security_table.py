"""What strangers may send: each row of the table is refused with a status and a sentence that helps."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem
from tests.core.vision.pictures import PNG_SIGNATURE, encoded, photo, png_chunk

BY_URL = {"image": {"url": PUBLIC_URL}}


def png_of(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A whole one-bit PNG, black."""
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + rows.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return PNG_SIGNATURE + header + extra + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


REFUSED_PICTURES = {
    "text named .png": (415, b"just text"),
    "SVG": (415, b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "EPS": (415, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "PSD": (415, b"8BPS\0\x01" + bytes(40)),
    "GIF": (415, encoded(Image.new("RGB", (8, 8)), "GIF")),
    "zero bytes": (422, b""),
    "truncated JPEG": (422, PHOTO[: len(PHOTO) // 2]),
    "900 million pixels": (422, png_of(30_000, 30_000)),
    "100 MB of text in a PNG": (
        422,
        png_of(8, 8, extra=png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))),
    ),
}


@pytest.mark.parametrize("row", REFUSED_PICTURES)
def test_refused_pictures(sqlite_api: Api, row: str) -> None:
    status, data = REFUSED_PICTURES[row]
    code = {415: "unsupported_media_type", 422: "invalid_image"}[status]
    answer = sqlite_api.http.post("/v1/jobs", files={"file": ("cat.png", data, "image/png")})
    assert_problem(answer, status, code)
    assert sqlite_api.count_jobs() == 0


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif.tobytes())


def _animated() -> bytes:
    file = io.BytesIO()
    first, second = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (40, 20), "blue")
    first.save(file, "WEBP", save_all=True, append_images=[second])
    return file.getvalue()


ACCEPTED_PICTURES = {
    "CMYK": (encoded(photo().convert("CMYK"), "JPEG"), (500, 333)),
    "16 bit": (encoded(Image.fromarray(np.zeros((20, 40), np.uint16)), "PNG"), (40, 20)),
    "palette with alpha": (encoded(Image.new("P", (40, 20)), "PNG", transparency=0), (40, 20)),
    "EXIF orientation": (_turned(6), (20, 40)),
    "animated WebP": (_animated(), (40, 20)),
    "24 million pixels": (png_of(6000, 4000), (6000, 4000)),
}


@pytest.mark.parametrize("row", ACCEPTED_PICTURES)
def test_accepted_pictures(sqlite_api: Api, row: str) -> None:
    data, size = ACCEPTED_PICTURES[row]
    image = sqlite_api.post(data)["image"]
    assert (image["width"], image["height"]) == size


URLS = [
    *("http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.0.0.1/"),
    *("http://[::ffff:169.254.169.254]/", "http://[64:ff9b:1::a9fe:a9fe]/", "http://[2002:7f00:1::]/"),
    *("http://[::127.0.0.1]/", "http://100.64.0.1/", "http://0.0.0.0/", "http://192.0.0.192/"),
    *("http://[fd00:ec2::254]/", "http://localhost/", "http://printer.local/", "http://intranet/"),
    *("file:///etc/passwd", "gopher://example.com/", "ftp://example.com/", "data:image/png;base64,AA=="),
    *("http://user@example.com/", "http://user:word@example.com/", "http://example.com:22/"),
    *(
        "http://example.com:65536/",
        "http://example.com/\r\nX: y",
        "http://example.com/\0",
        "http://exa mple.com/",
    ),
    *("//example.com/cat.jpg", "cat.jpg", "http://", "", "http://[::1/", f"http://example.com/{'x' * 3000}"),
    "http://example.com/\ud800",
]


@pytest.mark.parametrize("url", URLS)
def test_refused_urls(sqlite_api: Api, url: str) -> None:
    body = json.dumps({"image": {"url": url}})
    answer = sqlite_api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "url_blocked")
    if url and url.isascii() and "\0" not in url:
        answer = sqlite_api.http.post("/v1/jobs", data={"url": url})
        assert_problem(answer, 422, "url_blocked")
    assert sqlite_api.count_jobs() == 0


def nested(levels: int, opening: str, closing: str) -> str:
    return '{"image": {"url": "%s"}, "metadata": {"a": %s}}' % (  # noqa: UP031 - braces
        PUBLIC_URL,
        opening * levels + "1" + closing * levels,
    )


JSON_BODIES: dict[str, tuple[int, Any]] = {
    "nothing": (400, ""),
    "not JSON": (400, "{"),
    "not UTF-8": (400, b'{"image": "\xff"}'),
    "NaN": (400, '{"image": {"url": "https://example.com/"}, "metadata": {"a": NaN}}'),
    "Infinity": (400, '{"image": {"url": "https://example.com/"}, "deadline_seconds": -Infinity}'),
    "a number that becomes infinite": (422, nested(1, "[1e999,", "]")),
    "a deadline that becomes infinite": (422, json.dumps(BY_URL)[:-1] + ', "deadline_seconds": 1e999}'),
    "a number with 5,000 digits": (400, nested(1, f"[{'9' * 5000},", "]")),
    "33 levels of lists": (422, nested(33, "[", "]")),
    "33 levels of objects": (422, nested(33, '{"a":', "}")),
    "500 levels": (422, nested(500, "[", "]")),
    "950 levels": (422, nested(950, "[", "]")),
    "20,000 levels": (400, nested(20_000, "[", "]")),
    "100,000 levels": (422, nested(100_000, "[", "]")),
    "a list": (422, [BY_URL]),
    "null": (422, None),
    "no picture": (422, {"custom_id": "1"}),
    "a picture of no kind": (422, {"image": {}}),
    "a picture twice": (422, {"image": {"url": PUBLIC_URL, "base64": "AAAA"}}),
    "a picture as text": (422, {"image": PUBLIC_URL}),
    "no base64": (422, {"image": {"base64": "***"}}),
    "base64 of nothing": (422, {"image": {"base64": ""}}),
    "base64 of text": (415, {"image": {"base64": "anVzdCB0ZXh0"}}),
    "an unknown field": (422, BY_URL | {"priorty": 5}),
    "an unknown field beside the URL": (422, {"image": {"url": PUBLIC_URL, "size": 5}}),
    "50,000 unknown fields": (422, BY_URL | {f"field{i}": 0 for i in range(50_000)}),
    "an unknown field with a long name": (422, BY_URL | {"x" * 1_000_000: 0}),
    "a priority above 9": (422, BY_URL | {"priority": 10}),
    "a priority below 0": (422, BY_URL | {"priority": -1}),
    "a priority with a fraction": (422, BY_URL | {"priority": 1.5}),
    "a priority as a word": (422, BY_URL | {"priority": "high"}),
    "a priority with 400 digits": (422, BY_URL | {"priority": 10**400}),
    "a deadline in the past": (422, BY_URL | {"deadline_seconds": -1}),
    "a deadline of now": (422, BY_URL | {"deadline_seconds": 0}),
    "a deadline in a year": (422, BY_URL | {"deadline_seconds": 366 * 86400}),
    "an empty custom_id": (422, BY_URL | {"custom_id": ""}),
    "a custom_id of 256 characters": (422, BY_URL | {"custom_id": "x" * 256}),
    "a custom_id that is a number": (422, BY_URL | {"custom_id": 5}),
    "NUL in custom_id": (422, BY_URL | {"custom_id": "a\0b"}),
    "a new line in custom_id": (422, BY_URL | {"custom_id": "a\nb"}),
    "a lone surrogate in custom_id": (422, BY_URL | {"custom_id": "\ud800"}),
    "metadata that are a list": (422, BY_URL | {"metadata": [1]}),
    "metadata of 17 kB": (422, BY_URL | {"metadata": {"a": "x" * 17_000}}),
    "NUL in metadata": (422, BY_URL | {"metadata": {"a": ["\0"]}}),
    "NUL in a key of the metadata": (422, BY_URL | {"metadata": {"\0": 1}}),
    "a lone surrogate in metadata": (422, BY_URL | {"metadata": {"a": "\udc00"}}),
    "a lone surrogate in a key": (422, BY_URL | {"metadata": {"a": {"\ud800": 1}}}),
    "a lone surrogate in a field's name": (422, BY_URL | {"\ud800": 1}),
    "NUL in a name": (422, {"image": {"base64": "AAAA", "name": "a\0"}}),
    "an unknown method": (422, BY_URL | {"methods": ["tarot"]}),
    "a method with a long name": (422, BY_URL | {"methods": ["x" * 1_000_000]}),
    "50,000 methods": (422, BY_URL | {"methods": ["tarot"] * 50_000}),
    "a method as text": (422, BY_URL | {"methods": "grad_cam"}),
    "a lone surrogate as a method": (422, BY_URL | {"methods": ["\ud800"]}),
    "an unknown option": (422, BY_URL | {"options": {"depth": 5}}),
    "NUL in an option": (422, BY_URL | {"options": {"target": "\0"}}),
    "a class that does not exist": (422, BY_URL | {"methods": ["all"], "options": {"target": "x" * 500_000}}),
}


@pytest.mark.parametrize("row", JSON_BODIES)
def test_refused_json(api: Api, row: str) -> None:
    status, body = JSON_BODIES[row]
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = api.http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert_problem(answer, status, {400: "bad_request", 422: None, 415: None}[status])
    assert api.count_jobs() == 0
    assert not api.lines(level="ERROR")


EMPTY_FORM = {"content": b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}
FORM_BODIES: dict[str, dict[str, Any]] = {
    "nothing": EMPTY_FORM,
    "both a file and a URL": {"files": {"file": PHOTO}, "data": {"url": PUBLIC_URL}},
    "a file as text": {"data": {"file": "cat.jpg"}},
    "text as a file": {"files": {"custom_id": ("a.txt", b"1")}, "data": {"url": PUBLIC_URL}},
    **{
        what: {"files": {"file": PHOTO}, "data": fields}
        for what, fields in {
            "an unknown field": {"priorty": "5"},
            "metadata that are no JSON": {"metadata": "{"},
            "NaN in metadata": {"metadata": '{"a": NaN}'},
            "NUL in metadata": {"metadata": '{"a": "\\u0000"}'},
            "a lone surrogate in metadata": {"metadata": '{"a": "\\ud800"}'},
            "deep metadata": {"metadata": '{"a":' * 150 + "1" + "}" * 150},
            "deeper metadata": {"metadata": '{"a":' * 9000 + "1" + "}" * 9000},
            "options that are a list": {"options": "[]"},
            "a priority as a word": {"priority": "nine"},
            "an infinite deadline": {"deadline_seconds": "inf"},
            "a deadline that is no number": {"deadline_seconds": "nan"},
            "an empty custom_id": {"custom_id": ""},
            "NUL in custom_id": {"custom_id": "a\0b"},
            "an unknown method": {"methods": "grad_cam,tarot"},
        }.items()
    },
}


@pytest.mark.parametrize("row", FORM_BODIES)
def test_refused_forms(api: Api, row: str) -> None:
    assert_problem(api.http.post("/v1/jobs", **FORM_BODIES[row]), 422, "invalid_request")
    assert api.count_jobs() == 0
    assert not api.lines(level="ERROR")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/deliveries"])
def test_a_giant_page(sqlite_api: Api, path: str) -> None:
    for limit in (0, -1, 101, 10**9):
        assert_problem(sqlite_api.http.get(path, params={"limit": limit}), 422, "invalid_request", "limit")
    assert sqlite_api.http.get(path, params={"limit": 100}).status_code == 200


def test_a_field_given_twice(sqlite_api: Api) -> None:
    answer = sqlite_api.http.post("/v1/jobs", data={"url": [PUBLIC_URL, PUBLIC_URL]})
    assert_problem(answer, 422, "invalid_request", "url: given more than once")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/jobs/job_0", "/v1/jobs/..%2F..%2Fetc%2Fpasswd", f"/v1/jobs/{'x' * 5000}", "/v1/jobs/%FF%FE"),
        *("/v1/jobs/job_0/image", "/v1/jobs/job_0/artifacts/grad_cam/..%2F..%2Fpasswd", "/no/such/path"),
        "/static-offline-docs/..%2F..%2F..%2Fetc%2Fpasswd",
    ],
)
def test_paths_that_lead_nowhere(api: Api, path: str) -> None:
    assert_problem(api.http.get(path), 404)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/jobs/%00", "/v1/jobs/job_%00?wait=9", "/v1/jobs/%00/image", "/v1/jobs/job_0/artifacts/a/%00"),
        *("/v1/jobs/job_0/artifacts/%00/a", "/v1/jobs?custom_id=a%00b"),
        "/static-offline-docs/%00",
    ],
)
def test_nul_in_a_path_or_query(api: Api, path: str) -> None:
    assert_problem(api.http.get(path), 422, "invalid_request", "NUL")
    assert not api.lines(level="ERROR")


def test_nul_in_the_path_of_a_cancel(api: Api) -> None:
    assert_problem(api.http.post("/v1/jobs/%00/cancel"), 422, "invalid_request", "NUL")


def test_numbers_of_any_size_come_back_as_they_were(api: Api) -> None:
    metadata = {"big": 10**400, "small": 5e-324, "deep": json.loads("[" * 31 + "]" * 31)}
    job = api.post_url(metadata=metadata)
    assert api.job(job["id"])["metadata"] == metadata
