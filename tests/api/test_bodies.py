"""Every form in which a job may be posted, and what becomes of bodies that are broken or endless."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest

from api import bodies, middleware, submissions
from tests.api.conftest import PHOTO, PUBLIC_URL, Api, assert_problem
from tests.processes import eventually

IN_BASE64 = base64.b64encode(PHOTO).decode()
FIELDS = {"custom_id": "7", "priority": 0, "deadline_seconds": 60.5, "metadata": {"a": [1, None, {"b": "ü"}]}}
TEXT_FIELDS = {
    name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in FIELDS.items()
}
FORMS: dict[str, dict[str, Any]] = {
    "file": {"files": {"file": ("cat.jpg", PHOTO, "text/plain")}, "data": TEXT_FIELDS},
    "url in multipart": {"files": {n: (None, v) for n, v in (TEXT_FIELDS | {"url": PUBLIC_URL}).items()}},
    "url in a form": {"data": TEXT_FIELDS | {"url": PUBLIC_URL}},
    "url in JSON": {"json": FIELDS | {"image": {"url": PUBLIC_URL}}},
    "base64": {"json": FIELDS | {"image": {"base64": IN_BASE64, "name": "cat.jpg"}}},
    "base64 in lines": {
        "json": FIELDS | {"image": {"base64": "\r\n".join([IN_BASE64[:76], IN_BASE64[76:]])}}
    },
    "data URL": {"json": FIELDS | {"image": {"base64": f"data:image/jpeg;base64,{IN_BASE64}"}}},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_makes_the_same_job(api: Api, form: str) -> None:
    answer = api.http.post("/v1/jobs", **FORMS[form])
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["custom_id"], job["metadata"]) == ("7", FIELDS["metadata"])
    if "url" in form.split():
        assert (job["status"], job["source_url"]) == ("fetching", PUBLIC_URL)
    else:
        assert job["status"] == "queued"
        assert api.http.get(job["links"]["image"]).content == PHOTO


def test_a_charset_or_a_case_in_the_content_type_changes_nothing(sqlite_api: Api) -> None:
    body = json.dumps({"image": {"url": PUBLIC_URL}})
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        answer = sqlite_api.http.post("/v1/jobs", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 202, answer.text


def test_priority_decides_who_is_next(sqlite_api: Api) -> None:
    low, high = sqlite_api.post(priority="0"), sqlite_api.post(priority="9")
    positions = [sqlite_api.job(job["id"])["queue"]["position"] for job in (low, high)]
    assert positions == [2, 1]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "C:\\pictures\\passwd", "pass\0wd", "p\x1bass\nwd", "/passwd"]
)
def test_a_file_name_keeps_nothing_but_its_last_part(api: Api, name: str) -> None:
    part = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    answer = raw_form(api, part.encode() + PHOTO + b"\r\n--b--\r\n")
    if answer.status_code == 400:  # the parser does not take control characters in a header at all
        assert not name.isprintable()
        assert_problem(answer, 400)
    else:
        assert answer.json()["name"] == "passwd"


@pytest.mark.parametrize("custom_id", ["a\u00a0b", "\u6771\u3000京", "a\u200db"])
def test_an_id_may_have_any_space(sqlite_api: Api, custom_id: str) -> None:
    assert sqlite_api.post(custom_id=custom_id)["custom_id"] == custom_id


@pytest.mark.parametrize("custom_id", ["a\nb", "a\x1bb", "a\u2028b", "a\u202eb"])
def test_an_id_stays_on_its_line_and_in_its_place(sqlite_api: Api, custom_id: str) -> None:
    answer = sqlite_api.http.post(
        "/v1/jobs", json={"image": {"url": "https://a.b/c"}, "custom_id": custom_id}
    )
    assert_problem(answer, 422, "invalid_request", "control characters")


def test_a_number_without_end(sqlite_api: Api) -> None:
    body = b'{"priority": ' + b"1" * 5000 + b"}"
    answer = sqlite_api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "bad_request", "1000 digits")


def raw_form(api: Api, body: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx.Response:
    return api.http.post("/v1/jobs", content=body, headers={"Content-Type": kind})


def part(disposition: str, body: bytes = b"x") -> bytes:
    return f"--b\r\n{disposition}\r\n\r\n".encode("latin-1") + body + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        (f"multipart/form-data; boundary={'b' * 1000}", b"x"),
        ("multipart/form-data; boundary=b", b"\0\1\2 no form"),
        ("multipart/form-data; boundary=b", part("Content-Disposition: form-data")),
        ("multipart/form-data; boundary=b", part("X-Other: 1")),
        ("multipart/form-data; boundary=b", part("\xff\xfe : \0")),
        ("multipart/form-data; boundary=b", part(f"X-{'y' * 100_000}: 1")),
        ("multipart/form-data; boundary=b", part("\r\n".join(f"X-{i}: 1" for i in range(2000)))),
        # It ends within its file.
        (
            "multipart/form-data; boundary=b",
            part('Content-Disposition: form-data; name="file"; filename="a"', PHOTO)[:-1000],
        ),
    ],
)
def test_a_form_that_does_not_parse(sqlite_api: Api, kind: str, body: bytes) -> None:
    assert_problem(raw_form(sqlite_api, body, kind), 400)
    assert sqlite_api.count_jobs() == 0


def test_a_charset_of_a_form_is_not_asked(sqlite_api: Api) -> None:
    """Its text is UTF-8 (RFC 7578, 5.1.2); this is a codec that Python has and that decodes nothing."""
    whole = part('Content-Disposition: form-data; name="file"; filename="a"', PHOTO)
    answer = raw_form(sqlite_api, whole, "multipart/form-data; boundary=b; charset=undefined")
    assert (answer.status_code, answer.json()["name"]) == (202, "a")


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("ü.jpg", "ü.jpg"),
        (b"\xfc.jpg", "ü.jpg"),  # of clients that send Latin-1
        ("%22a%22.jpg", '"a".jpg'),  # as browsers write quotes
        (r"\"a\".jpg", '"a".jpg'),  # as others do
        ("50%.jpg", "50%.jpg"),
        (r"C:\pets\a.jpg", "a.jpg"),
        ("pets/a.jpg", "a.jpg"),
    ],
)
def test_names_of_files(sqlite_api: Api, sent: str | bytes, name: str) -> None:
    written = sent if isinstance(sent, bytes) else sent.encode()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + written + b'"\r\n\r\n'
    answer = raw_form(sqlite_api, head + PHOTO + b"\r\n--b--\r\n")
    assert (answer.status_code, answer.json()["name"]) == (202, name)


@pytest.mark.parametrize("kind", ["text/plain", "image/jpeg", "application/octet-stream", "x" * 5000, ""])
def test_other_kinds_of_bodies(sqlite_api: Api, kind: str) -> None:
    assert_problem(raw_form(sqlite_api, PHOTO, kind), 415, "unsupported_media_type", "multipart/form-data")


FILE_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


class TestTooMuch:
    def test_files_or_fields(self, sqlite_api: Api) -> None:
        files = [("file", ("a.jpg", PHOTO)), ("file", ("b.jpg", PHOTO))]
        assert_problem(sqlite_api.http.post("/v1/jobs", files=files), 400, detail="more than one file")
        fields = {f"field{i}": "x" for i in range(21)}
        answer = sqlite_api.http.post("/v1/jobs", data=fields, files={"file": PHOTO})
        assert_problem(answer, 400, detail="more than 20 fields")
        answer = sqlite_api.http.post("/v1/jobs", data=fields)
        assert_problem(answer, 400, detail="more than 20 fields")

    def test_text_in_a_field(self, sqlite_api: Api) -> None:
        text = {"custom_id": "x" * 1_500_000}
        answer = sqlite_api.http.post("/v1/jobs", data=text, files={"file": b"x"})
        assert_problem(answer, 400, detail="65,536 bytes at most")
        assert_problem(sqlite_api.http.post("/v1/jobs", data=text), 400, detail="form is too long")
        answer = sqlite_api.http.post("/v1/jobs", data={"custom_id": "x" * 70_000})
        assert_problem(answer, 400, detail="custom_id: a text field has 65,536 bytes at most")

    def test_a_picture(self, sqlite_api: Api) -> None:
        picture = PHOTO + bytes(1 << 20)
        answer = sqlite_api.http.post("/v1/jobs", files={"file": picture})
        assert_problem(answer, 413, "payload_too_large", "1,048,576 bytes")
        document = {"image": {"base64": base64.b64encode(picture).decode()}}
        answer = sqlite_api.http.post("/v1/jobs", json=document)
        assert_problem(answer, 413, "payload_too_large", "1,048,576 bytes")

    @pytest.mark.parametrize("path", ["/v1/jobs", "/predict"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body(self, sqlite_api: Api, path: str, chunked: bool) -> None:
        """Refused as soon as it is known to be too large, and not when it ends."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        with sqlite_api.connect() as connection:
            if chunked:
                connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                send_chunks(connection, FILE_PART, sqlite_api.settings.max_body_bytes)
                connection.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(30)
                connection.sendall(b"1\r\nx\r\n")  # one byte too many
            else:
                connection.sendall(f"{head}Content-Length: {3 << 20}\r\n\r\n".encode())
            status, headers, body = read_answer(connection)
        assert status == 413
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert json.loads(body)["detail"].startswith("The request's body is larger than 2,097,152 bytes")
        assert sqlite_api.count_jobs() == 0

    @pytest.mark.parametrize("version", ["1.1\r\nConnection: Close, TE", "1.0"])
    @pytest.mark.parametrize(("kind", "status"), [("text/plain", 415), ("application/json", 413)])
    def test_nor_is_it_lost_where_the_request_ends_the_connection(
        self, sqlite_api: Api, version: str, kind: str, status: int
    ) -> None:
        size = 16 << 20 if status == 413 else sqlite_api.settings.max_body_bytes
        first, *more = version.split("\r\n")
        lines = [f"POST /v1/jobs HTTP/{first}", "Host: localhost", *more, f"Content-Type: {kind}"]
        for _ in range(3):  # it is a race, which the answer may win by chance
            with sqlite_api.connect() as connection:
                connection.sendall("\r\n".join([*lines, f"Content-Length: {size}\r\n\r\n"]).encode())
                time.sleep(0.05)  # the answer is there before the body is
                for _ in range(size >> 18):
                    connection.sendall(bytes(1 << 18))
                assert read_answer(connection)[0] == status
                assert connection.recv(1) == b""

    @pytest.mark.parametrize("chunked", [False, True])
    def test_the_answer_reaches_a_client_that_first_sends_everything(
        self, sqlite_api: Api, chunked: bool
    ) -> None:
        size = 16 << 20  # far more than lies in the buffers of a connection
        head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with sqlite_api.connect() as connection:
            if chunked:
                connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                send_chunks(connection, b"{", size)
                connection.sendall(b"0\r\n\r\n")
            else:
                connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + bytes(size))
            status, headers, _ = read_answer(connection)
            assert connection.recv(1) == b""  # closed, as it says
        assert (status, headers["connection"]) == (413, "close")

    @pytest.mark.parametrize("piece", ["{}", "[]", '{"a":1}', "0"])
    def test_values_in_json(self, sqlite_api: Api, piece: str) -> None:
        """They would take many times the memory of their text, and keep all others waiting meanwhile."""
        body = f'{{"image": [{",".join([piece] * (bodies.MAX_PIECES + 1))}]}}'
        answer = sqlite_api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, "invalid_request", "more than 30,000 values")

    def test_as_many_values_as_metadata_may_have(self, sqlite_api: Api) -> None:
        document = {"image": {"url": f"https://example.com/{',' * 2000}"}, "metadata": {"a": [0] * 5000}}
        assert sqlite_api.http.post("/v1/jobs", json=document).status_code == 202

    def test_a_call_that_needs_few_words_takes_no_more(self, sqlite_api: Api) -> None:
        answer = sqlite_api.http.post("/v1/webhooks", json={"url": PUBLIC_URL, "x" * 65_536: 1})
        assert_problem(answer, 413, "payload_too_large", "65,536 bytes")

    @pytest.mark.parametrize("size", [1000, 100_000])
    def test_large_json_is_read_beside_the_event_loop(
        self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        """A million fields take seconds, in which others are answered."""
        read, loops = submissions._from_json, []

        def watched(body: bytes) -> submissions.Asked:
            with suppress(RuntimeError):  # there is none in this thread
                loops.append(asyncio.get_running_loop())
            return read(body)

        monkeypatch.setattr(submissions, "_from_json", watched)
        sqlite_api.http.post("/v1/jobs", json={"image": {"base64": "A" * size}})
        assert len(loops) == (size == 1000)

    def test_a_body_of_exactly_the_limit_is_read(self, sqlite_api: Api) -> None:
        limit = sqlite_api.settings.max_body_bytes
        start, end = b'{"image": {"url": "' + PUBLIC_URL.encode() + b'"}', b"}"
        for size, status in ((limit, 202), (limit + 1, 413)):
            body = start + b" " * (size - len(start) - len(end)) + end
            headers = {"Content-Type": "application/json"}
            for content in (body, iter([body[:1000], body[1000:]])):  # the second is sent in chunks
                try:
                    answer = sqlite_api.http.post("/v1/jobs", content=content, headers=headers)
                except httpx.WriteError:  # it was refused while it was still being sent
                    assert status == 413
                else:
                    assert answer.status_code == status


def send_chunks(connection: socket.socket, opening: bytes, size: int) -> None:
    """``size`` bytes of a body that has not ended."""
    left = size
    chunk = opening
    while left:
        connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        left -= len(chunk)
        chunk = bytes(min(left, 1 << 16))


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received or len(received) < _whole_length(received):
        more = connection.recv(65536)
        assert more, f"the connection was closed after {received!r}"
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split(" ")[1]), headers, body


def _whole_length(received: bytes) -> int:
    head, _, _ = received.partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(head) + 4 + int(length.split(b":")[1])


@pytest.mark.parametrize("path", ["/v1/jobs", "/predict"])
@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_client_that_leaves_in_the_middle_of_its_body(sqlite_api: Api, path: str, framing: str) -> None:
    """No job, and nothing in the log that would make somebody get up at night."""
    kind = "multipart/form-data; boundary=b"
    with sqlite_api.connect() as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()
        )
        connection.sendall(b"3\r\n--b\r\n")
    line = eventually(lambda: sqlite_api.lines(message="request", path=path))[0]
    assert line["status"] == 400
    assert not sqlite_api.lines(level="ERROR")
    assert sqlite_api.count_jobs() == 0


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/predict"])
def test_a_body_that_trickles_in_is_not_waited_for_without_end(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """However small the pauses are, which a timeout of each read would allow."""
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.3)
    head = "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n"
    with sqlite_api.connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        send_chunks(connection, FILE_PART, len(FILE_PART))
        connection.settimeout(0.02)
        answer = b""
        while not answer:
            connection.sendall(b"1\r\nx\r\n")
            with suppress(TimeoutError):
                answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too_slow" in answer
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert not sqlite_api.lines(level="ERROR")


@pytest.mark.parametrize(("silence", "patience"), [(0.3, 60.0), (30.0, 0.3)])
def test_a_body_that_comes_fast_buys_no_long_silence(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, silence: float, patience: float
) -> None:
    monkeypatch.setattr(middleware, "SILENCE_SECONDS", silence)
    monkeypatch.setattr(middleware, "BODY_SECONDS", patience)
    with sqlite_api.connect() as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + b"Content-Length: 2000000\r\n\r\n"
            + bytes(1_900_000)  # at a kilobyte a second half an hour's
        )
        connection.settimeout(10)
        status, headers, _ = read_answer(connection)
    assert (status, headers["connection"]) == (408, "close")


def test_a_body_that_keeps_the_pace_may_take_longer_than_its_first_minute(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(middleware, "SILENCE_SECONDS", 0.4)
    body = json.dumps({"image": {"url": PUBLIC_URL}}).encode().ljust(10_000)
    began = time.monotonic()
    with sqlite_api.connect() as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for start in range(0, len(body), 1000):
            time.sleep(0.1)
            connection.sendall(body[start : start + 1000])
        assert read_answer(connection)[0] == 202
    assert time.monotonic() - began > 0.9


def test_a_slow_body_is_waited_for(sqlite_api: Api) -> None:
    """Half of it, a pause in which others are served, then the rest."""
    body = json.dumps({"image": {"url": PUBLIC_URL}}).encode()
    with sqlite_api.connect() as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[:10]
        )
        assert sqlite_api.http.get("/livez").status_code == 200
        connection.sendall(body[10:])
        assert read_answer(connection)[0] == 202
