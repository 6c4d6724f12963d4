"""Forms cut anywhere, against the standard library's parser of MIME."""

from __future__ import annotations

import asyncio
import email.policy
from collections.abc import AsyncIterator
from email.parser import BytesParser
from typing import Any

import httpx
import pytest

from api.forms import FileHead, InMemory, Limits, read_multipart, read_urlencoded
from core.errors import BadRequest, InvalidRequest

PICTURE = bytes(range(256)) * 3 + b"\r\n--not-the-boundary\r\n\r\n"
TEXTS = {"custom_id": "ü", "metadata": '{"a": "--b"}', "empty": ""}
FILES = [("file", ("a cat.jpg", PICTURE, "image/jpeg")), ("other", ("b", b"", "text/plain; charset=utf-8"))]
ROOM = Limits(files=2, fields=3, field_bytes=100)


def form() -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://127.0.0.1/", data=TEXTS, files=FILES)
    return request.headers["content-type"], request.read()


class Arriving:
    """A request whose body comes in such pieces."""

    def __init__(self, kind: str, body: bytes, size: int) -> None:
        self.headers = {"content-type": kind}
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)]

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def read(kind: str, body: bytes, size: int = 1 << 16, limits: Limits = ROOM) -> tuple[Any, InMemory]:
    given = InMemory()
    request: Any = Arriving(kind, body, size)
    too_many = InvalidRequest("too many files")
    return asyncio.run(read_multipart(request, given, limits, too_many_files=too_many)), given


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 1 << 16])
def test_in_whatever_pieces_it_comes_it_is_the_same_form(size: int) -> None:
    kind, body = form()
    texts, given = read(kind, body, size)
    assert texts == list(TEXTS.items())
    assert given.files == [
        (FileHead("file", "a cat.jpg", "image/jpeg"), PICTURE),
        (FileHead("other", "b", "text/plain"), b""),
    ]


def test_the_standard_library_finds_the_same() -> None:
    kind, body = form()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + body
    )
    texts, given = read(kind, body)
    found = [(part.get_param("name", header="content-disposition"), part) for part in message.iter_parts()]
    assert [name for name, _ in found] == [name for name, _ in texts] + [
        head.field for head, _ in given.files
    ]
    contents = [part.get_payload(decode=True) for _, part in found]
    assert contents == [text.encode() for _, text in texts] + [data for _, data in given.files]


@pytest.mark.parametrize(
    ("limits", "error", "says"),
    [
        (Limits(1, 3, 100), InvalidRequest, "too many files"),
        (Limits(2, 2, 100), BadRequest, "more than 2 fields"),
        (Limits(2, 3, 5), BadRequest, "metadata: a text field has 5 bytes at most"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_limits(limits: Limits, error: type[Exception], says: str, size: int) -> None:
    with pytest.raises(error, match=says) as refused:
        read(*form(), size=size, limits=limits)
    assert refused.value.headers["Connection"] == "close"  # type: ignore[attr-defined]


def test_every_end_but_the_last_is_too_early() -> None:
    kind, body = form()
    end = len(body.rstrip(b"\r\n"))
    for cut in [*range(0, end, 11), end - 1]:
        with pytest.raises(BadRequest):
            read(kind, body[:cut])
    assert read(kind, body[:end])[0] == list(TEXTS.items())


URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=K%C3%A4fer+und+Hund&b=", [("a", "Käfer und Hund"), ("b", "")]),
        ("ä=ü".encode(), [("ä", "ü")]),
        (b"a=%fcber", [("a", "über")]),  # of clients that send Latin-1
        (b"a=1&a=2&c", [("a", "1"), ("a", "2"), ("c", "")]),
        (b"", []),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_the_form_without_files(body: bytes, fields: list[tuple[str, str]], size: int) -> None:
    request: Any = Arriving(URLENCODED, body, size)
    assert asyncio.run(read_urlencoded(request, ROOM)) == fields


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"a&b&c&d", "more than 3 fields"),
        (b"a=" + b"x" * 101, "a: a text field has 100 bytes at most"),
        (b"a=" + b"x" * 300, "form is too long"),
    ],
)
def test_limits_of_the_form_without_files(body: bytes, says: str) -> None:
    request: Any = Arriving(URLENCODED, body, 64)
    with pytest.raises(BadRequest, match=says):
        asyncio.run(read_urlencoded(request, ROOM))
