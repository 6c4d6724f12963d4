"""The forms in which a batch may come, and everything that may be wrong with each of them."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.batch_items import PIECES_PER_ITEM
from api.bodies import MAX_PIECES
from core.jobs.tables import Blob, Image
from tests.api.batch_forms import (
    CALL,
    accepted,
    files,
    of_files,
    of_manifest,
    of_zip,
    picture,
    results,
    sent,
    zipped,
)
from tests.api.conftest import LIMITS, PHOTO, PUBLIC_URL, Api, assert_problem, serving, settings_for
from tests.api.test_security_table import png_of
from tests.core.jobs.test_retention import count

URLS = [f"https://example.com/{i}.jpg" for i in range(4)]


def faults(batch: dict[str, Any]) -> dict[int, str]:
    """The codes of refused items by their index."""
    assert batch["rejected"] == len(batch["errors"])
    return {error["index"]: error["code"] for error in batch["errors"]}


def refused(
    api: Api, code: str = "invalid_request", status: int = 422, detail: str = "", **request: Any
) -> None:
    assert_problem(sent(api, **request), status, code, detail)
    assert api.count_jobs() == 0


class TestFiles:
    def test_each_is_a_job_in_order(self, api: Api) -> None:
        batch = of_files(api, 4, priority="8", metadata='{"album": "2026"}', methods="grad_cam, kernels")
        assert (batch["status"], batch["kind"], batch["total"]) == ("running", "explain", 4)
        assert (batch["methods"], batch["metadata"]) == (["grad_cam", "kernels"], {"album": "2026"})
        assert (batch["rejected"], batch["errors"], batch["retry_of"]) == (0, [], None)
        rows = results(api, batch)
        assert [(row["index"], row["name"]) for row in rows] == [(i, f"{i}.png") for i in range(4)]
        for i, row in enumerate(rows):
            job = api.job(row["job_id"])
            assert (job["batch_id"], job["batch_index"], job["kind"]) == (batch["id"], i, "explain")
            assert api.http.get(job["links"]["image"]).content == picture(i)

    def test_a_bad_one_fails_alone(self, api: Api) -> None:
        cut = PHOTO[: len(PHOTO) // 2]
        large = PHOTO + bytes(LIMITS["max_image_bytes"])
        batch = accepted(api, files=files(picture(1), b"", b"hello, world", cut, large, picture(2)))
        assert faults(batch) == {
            1: "invalid_image",
            2: "unsupported_media_type",
            3: "invalid_image",
            4: "payload_too_large",
        }
        assert batch["counts"]["failed"] == 4
        assert [row["status"] for row in results(api, batch)] == ["queued", *["failed"] * 4, "queued"]
        api.work()
        answer = api.http.get(batch["links"]["self"]).json()
        assert (answer["status"], answer["counts"]["succeeded"]) == ("completed", 2)

    def test_one_of_too_many_pixels_fails_alone(self, sqlite_api: Api) -> None:
        batch = accepted(sqlite_api, files=files(picture(1), png_of(30_000, 30_000)))
        assert faults(batch) == {1: "invalid_image"}
        assert "900.0 million pixels" in batch["errors"][0]["detail"]

    def test_without_a_good_one_nothing_is_made(self, api: Api) -> None:
        answer = sent(api, files=files(b"one", b"two"))
        assert_problem(answer, 422, "invalid_request", "None of the 2 items")
        assert [error["index"] for error in answer.json()["errors"]] == [0, 1]
        assert {error["code"] for error in answer.json()["errors"]} == {"unsupported_media_type"}
        assert api.count_jobs() == count(api.database, Blob) == 0

    def test_equal_pictures_are_stored_once(self, api: Api) -> None:
        batch = accepted(api, files=files(picture(1), picture(1), picture(2)))
        assert batch["counts"]["queued"] == 3
        assert count(api.database, Image) == 2

    def test_names_are_for_people(self, sqlite_api: Api) -> None:
        names = ["../../etc/passwd.png", "C:\\cats\\1.png", "\u202ecat.png", "ü" * 300]
        parts = [("files", (name, picture(i))) for i, name in enumerate(names)]
        rows = results(sqlite_api, accepted(sqlite_api, files=parts))
        assert [row["name"] for row in rows][:3] == ["passwd.png", "1.png", "cat.png"]
        assert len(rows[3]["name"]) <= 255

    def test_more_than_a_chunk(self, sqlite_api: Api) -> None:
        batch = of_files(sqlite_api, 120)
        assert [row["index"] for row in results(sqlite_api, batch)] == list(range(120))
        sqlite_api.work()
        assert {row["status"] for row in results(sqlite_api, batch)} == {"succeeded"}

    def test_files_are_gone_when_it_is_answered(
        self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[Any] = []
        really_open = tempfile.TemporaryFile

        def noted() -> Any:
            opened.append(really_open())
            return opened[-1]

        monkeypatch.setattr(tempfile, "TemporaryFile", noted)
        of_files(sqlite_api)
        sent(sqlite_api, files=files(b"bad"))
        sent(sqlite_api, files=files(picture(1)), data={"unknown": "1"})
        sent(sqlite_api, content=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert [file.closed for file in opened] == [True] * 4

    @pytest.mark.parametrize(
        ("fields", "detail"),
        [
            ({"unknown": "1"}, "unknown"),
            ({"priority": "10"}, "priority"),
            ({"methods": "magic"}, "there is no method 'magic'"),
            ({"options": "{"}, "options"),
            ({"options": '{"target": "bird"}'}, "'bird' is no class"),
            ({"metadata": "[]"}, "metadata"),
            ({"custom_id": "1"}, "custom_id"),
            ({"deadline_seconds": "0"}, "deadline_seconds"),
            ({"webhook_events": "batch.completed"}, "webhook_events needs webhook_url"),
            ({"webhook_url": "https://e.com/", "webhook_events": "job.failed"}, "webhook_events"),
        ],
    )
    def test_a_field_that_cannot_be(self, sqlite_api: Api, fields: dict[str, str], detail: str) -> None:
        refused(sqlite_api, detail=detail, files=files(picture(1)), data=fields)

    def test_a_receiver_that_may_not_be_called(self, sqlite_api: Api) -> None:
        data = {"webhook_url": "http://127.0.0.1/"}
        refused(sqlite_api, "url_blocked", files=files(picture(1)), data=data)


class TestForms:
    def test_exactly_one_source(self, sqlite_api: Api) -> None:
        both: dict[str, Any] = {"files": ("1.png", picture(1)), "manifest": ("m.csv", b"url\n")}
        for request in (
            {"files": both},
            {"files": {"file": ("1.png", picture(1))}},
            {"files": {"nothing": (None, "x")}},
            {"files": [("archive", ("a.zip", zipped({"1.png": picture(1)})))] * 2},
            {"data": {"files": "text"}, "files": {"other": (None, "x")}},
        ):
            refused(sqlite_api, **request)

    def test_an_input_without_a_file(self, sqlite_api: Api) -> None:
        """What a browser sends for it: a part with an empty file name and no bytes."""
        body = httpx.Request(
            "POST", "http://x/", files={"files": ("1.png", picture(1)), "archive": ("?", b"")}
        )
        content = body.read().replace(b'filename="?"', b'filename=""')
        batch = accepted(sqlite_api, content=content, headers={"Content-Type": body.headers["content-type"]})
        assert batch["counts"]["queued"] == batch["total"] == 1

    def test_other_bodies(self, sqlite_api: Api) -> None:
        refused(sqlite_api, "unsupported_media_type", 415, content=b"x")
        refused(sqlite_api, "unsupported_media_type", 415, data={"url": PUBLIC_URL})
        for boundary in ("", "; boundary=", "; boundary=x", f"; boundary={'x' * 300}"):
            kind = {"Content-Type": f"multipart/form-data{boundary}"}
            refused(sqlite_api, "bad_request", 400, content=b"--y\r\n\r\n", headers=kind)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"--x\r\n",
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\ncut',
            b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n",
            b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + bytes(70_000) + b"\r\n--x--\r\n",
            b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n1\r\n' * 30 + b"--x--\r\n",
        ],
    )
    def test_a_form_that_does_not_parse(self, sqlite_api: Api, body: bytes) -> None:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        refused(sqlite_api, "bad_request", 400, content=body, headers=kind)

    @pytest.mark.parametrize("field", ["files", "archive", "manifest"])
    def test_a_file_that_is_sent_as_text(self, sqlite_api: Api, field: str) -> None:
        part = f'--b\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nurl\r\n--b--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        refused(sqlite_api, detail=f"{field}: send it as a file part", content=part.encode(), headers=kind)

    def test_a_client_that_leaves_makes_nothing(self, sqlite_api: Api) -> None:
        with sqlite_api.connect() as connection:
            head = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000\r\n"
            connection.sendall(f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n--x\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)
        assert sqlite_api.count_jobs() == 0
        assert not sqlite_api.lines(message="unexpected error")

    def test_a_full_disk(self, sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        full = Path("/dev/full")
        for buffering in (0, -1):  # -1: the disk is met when what was buffered is written, and at the close
            monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full.open("r+b", buffering=buffering))  # noqa: B023
            refused(sqlite_api, "insufficient_storage", 507, files=files(picture(1)))


class TestArchives:
    def test_pictures_in_folders(self, api: Api) -> None:
        data = zipped({"cats/1.png": picture(1), "cats/old/2.png": picture(2), "ü.jpg": picture(3, "JPEG")})
        batch = of_zip(api, data)
        assert [row["name"] for row in results(api, batch)] == ["cats/1.png", "cats/old/2.png", "ü.jpg"]
        api.work()
        assert {row["status"] for row in results(api, batch)} == {"succeeded"}

    def test_what_operating_systems_add_is_left_out(self, sqlite_api: Api) -> None:
        junk = ["__MACOSX/._1.png", ".DS_Store", "a/Thumbs.db", "a/.hidden.png", ".git/1.png", "desktop.ini"]
        data = zipped(dict.fromkeys(junk, b"junk") | {"folder/": b"", "1.png": picture(1)})
        batch = of_zip(sqlite_api, data)
        assert (batch["total"], batch["rejected"]) == (1, 0)

    def test_what_is_no_picture_is_refused_alone(self, sqlite_api: Api) -> None:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        members: Any = {"1.png": picture(1), "notes.txt": b"text", link: picture(2), "empty.png": b""}
        batch = of_zip(sqlite_api, zipped(members))
        assert faults(batch) == {1: "unsupported_media_type", 2: "unsupported_media_type", 3: "invalid_image"}

    def test_names_keep_all_but_what_moves_the_text_around_them(self, sqlite_api: Api) -> None:
        kept = ["写真\u30001.png", "na\u00efve\u202f猫.png", "\U0001f468\u200d\U0001f469.png"]
        data = zipped({name: picture(i) for i, name in enumerate([*kept, "gnp\u202e.evil\x1b.png"])})
        names = [row["name"] for row in results(sqlite_api, of_zip(sqlite_api, data))]
        assert names == [*kept, "gnp.evil.png"]

    def test_names_that_would_escape_are_only_names(self, sqlite_api: Api) -> None:
        data = zipped({"../../evil.png": picture(1), "/abs.png": picture(2), "..\\win.png": picture(3)})
        names = [row["name"] for row in results(sqlite_api, of_zip(sqlite_api, data))]
        assert names == ["../../evil.png", "abs.png", "../win.png"]

    def test_a_damaged_member(self, sqlite_api: Api) -> None:
        data = bytearray(zipped({"1.png": picture(1), "2.png": picture(2), "3.png": picture(3)}))
        data[data.index(picture(2)) + 20] ^= 0xFF  # stored: the check sum no longer agrees
        batch = of_zip(sqlite_api, bytes(data))
        assert faults(batch) == {1: "invalid_image"}
        assert "damaged" in batch["errors"][0]["detail"]

    def test_an_encrypted_member(self, sqlite_api: Api) -> None:
        data = bytearray(zipped({"1.png": picture(1), "2.png": picture(2)}))
        for start, flags in ((data.index(b"PK\x03\x04"), 6), (data.index(b"PK\x01\x02"), 8)):
            data[start + flags] |= 1
        batch = of_zip(sqlite_api, bytes(data))
        assert faults(batch) == {0: "invalid_image"}
        assert "encrypted" in batch["errors"][0]["detail"]

    def test_methods_that_need_much_memory_are_not_read(self, sqlite_api: Api) -> None:
        for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
            data = zipped({"1.png": picture(1)}, compression=method)
            answer = sent(sqlite_api, files={"archive": ("a.zip", data)})
            assert "deflate" in answer.json()["errors"][0]["detail"]

    def test_a_bomb(self, sqlite_api: Api) -> None:
        bombs = {f"{i}.png": bytes(LIMITS["max_image_bytes"]) for i in range(3)}
        data = zipped({"good.png": picture(1), **bombs}, compression=zipfile.ZIP_DEFLATED)
        assert len(data) < 20_000
        batch = of_zip(sqlite_api, data)
        assert faults(batch) == dict.fromkeys((1, 2, 3), "invalid_image")
        assert "times its size" in batch["errors"][0]["detail"]

    def test_a_bomb_that_lies_about_its_size(self, sqlite_api: Api) -> None:
        data = bytearray(zipped({"1.png": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED))
        for start, size in ((data.index(b"PK\x03\x04"), 22), (data.index(b"PK\x01\x02"), 24)):
            data[start + size : start + size + 4] = struct.pack("<I", 100)
        answer = sent(sqlite_api, files={"archive": ("a.zip", bytes(data))})
        assert_problem(answer, 422, "invalid_request", "None of the 1 items")

    @pytest.mark.parametrize(
        "data", [b"", b"PK\x03\x04", b"no zip at all", zipped({"1.png": picture(1)})[:-30]]
    )
    def test_no_zip_at_all(self, sqlite_api: Api, data: bytes) -> None:
        refused(sqlite_api, detail="archive", files={"archive": ("a.zip", data)})

    def test_an_empty_one(self, sqlite_api: Api) -> None:
        for data in (zipped({".DS_Store": b"x"}), zipped({})):
            refused(sqlite_api, detail="no item", files={"archive": ("a.zip", data)})


class TestManifests:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("url,custom_id\n{0},a\n{1},b\n", "m.csv"),
            ("\ufeffcustom_id,URL\r\na,{0}\r\n\r\nb,{1}\r\n", "m.csv"),
            ('custom_id,name,url\na,"one, two",{0}\nb,,{1}', "manifest"),
            ('{{"url":"{0}","custom_id":"a"}}\n\n{{"custom_id":"b","url":"{1}"}}', "m.jsonl"),
            ('\n{{"url":"{0}","custom_id":"a"}}\r\n{{"custom_id":"b","url":"{1}"}}\r\n', "manifest"),
        ],
    )
    def test_each_row_is_a_download(self, api: Api, text: str, name: str) -> None:
        batch = of_manifest(api, text.format(*URLS), name)
        assert (batch["counts"]["fetching"], batch["rejected"]) == (2, 0)
        rows = results(api, batch)
        assert [row["custom_id"] for row in rows] == ["a", "b"]
        assert [api.job(row["job_id"])["source_url"] for row in rows] == URLS[:2]

    def test_a_list_of_urls(self, sqlite_api: Api) -> None:
        assert of_manifest(sqlite_api, "url\n" + "\n".join(URLS), "m.csv")["total"] == 4

    def test_all_faults_at_once_with_their_rows(self, api: Api) -> None:
        text = (
            f"url,custom_id\n{URLS[0]},a\n,b\n\nhttp://127.0.0.1/,c\n{URLS[1]},a\n{URLS[2]},d,e\nfile:///x,\n"
        )
        batch = of_manifest(api, text, "m.csv")
        assert faults(batch) == {
            1: "invalid_request",
            2: "url_blocked",
            3: "invalid_request",
            4: "invalid_request",
            5: "url_blocked",
        }
        rows = [error["detail"].partition(":")[0] for error in batch["errors"]]
        assert rows == ["Row 3", "Row 5", "Row 6", "Row 7", "Row 8"]
        assert [error["custom_id"] for error in batch["errors"]] == ["b", "c", "a", None, None]

    def test_lines_that_are_no_rows(self, sqlite_api: Api) -> None:
        lines = [json.dumps({"url": URLS[0]}), "{", "[]", '{"url": 1}', '{"url": "x", "size": 1}', '"text"']
        batch = of_manifest(sqlite_api, "\n".join(lines), "m.jsonl")
        assert sorted(faults(batch)) == [1, 2, 3, 4, 5]
        assert batch["errors"][0]["detail"].startswith("Row 2: it is not JSON")

    def test_a_line_of_very_many_values(self, sqlite_api: Api) -> None:
        many = "[" + "{}," * 5000 + "{}]"
        batch = of_manifest(sqlite_api, f'{many}\n{{"url": "{URLS[0]}"}}\n', "m.jsonl")
        assert faults(batch) == {0: "invalid_request"}
        assert "more than 3,000 values" in batch["errors"][0]["detail"]
        cells = f"url\n{URLS[0]}\n{',' * 5000}\n".encode()
        sqlite_api.clear()
        refused(sqlite_api, detail="row 3 has more than 3,000 cells", files={"manifest": ("m.csv", cells)})

    @pytest.mark.parametrize(
        ("text", "detail"),
        [
            (b"", "empty"),
            (b"\n\n", "empty"),
            (b"url\n\xff\xfe", "UTF-8"),
            (b"https://example.com/1.jpg\n", "there is no column"),
            (b"url,size,colour\n", "'size', 'colour'"),
            (b"custom_id\n1\n", "'url'"),
            (b"url,url\n", "'url'"),
            (b'url\n"open', "row"),
            (b"url\n", "no item"),
        ],
    )
    def test_one_that_cannot_be_read(self, sqlite_api: Api, text: bytes, detail: str) -> None:
        refused(sqlite_api, detail=detail, files={"manifest": ("m.csv", text)})

    def test_one_that_is_too_large(self, sqlite_api: Api) -> None:
        text = b"url\n" + bytes(LIMITS["max_body_bytes"])
        refused(sqlite_api, "payload_too_large", 413, files={"manifest": ("m.csv", text)})


class TestJson:
    def test_urls_and_pictures(self, api: Api) -> None:
        data = base64.b64encode(picture(1)).decode()
        items = [
            {"url": PUBLIC_URL, "custom_id": "a"},
            {"base64": data, "name": "b.png"},
            {"base64": f"data:image/png;base64,{data}"},
        ]
        batch = accepted(api, json={"items": items, "priority": 3})
        assert (batch["counts"]["fetching"], batch["counts"]["queued"]) == (1, 2)
        rows = results(api, batch)
        assert [row["custom_id"] for row in rows] == ["a", None, None]
        assert [row["name"] for row in rows] == [None, "b.png", None]

    def test_items_that_are_none(self, sqlite_api: Api) -> None:
        items = [
            {"url": PUBLIC_URL, "custom_id": "a"},
            {},
            {"url": PUBLIC_URL, "base64": ""},
            {"url": PUBLIC_URL, "custom_id": "a"},
            {"base64": "!"},
            {"base64": "aGVsbG8="},
            "text",
            None,
            {"url": "http://localhost/"},
            {"url": PUBLIC_URL, "name": "\0"},
        ]
        batch = accepted(sqlite_api, json={"items": items})
        assert faults(batch) == {
            **dict.fromkeys((1, 2, 3, 4, 6, 7, 9), "invalid_request"),
            5: "unsupported_media_type",
            8: "url_blocked",
        }

    def test_whatever_is_among_the_items_is_refused_alone(self, api: Api) -> None:
        """Also what cannot be stored, shown or encoded again."""
        deep = "[" * 900 + "]" * 900
        strange = ['{"\\ud800": 1}', '{"a\\u0000b\\n": 1}', '{"name": "\\ud800"}', "1e999", deep]
        good = json.dumps({"url": PUBLIC_URL, "custom_id": "good"})
        body = f'{{"items": [{", ".join([*strange, good])}]}}'
        headers = {"Content-Type": "application/json", "Idempotency-Key": "strange"}
        batch = accepted(api, content=body, headers=headers)
        assert faults(batch) == dict.fromkeys(range(len(strange)), "invalid_request")
        assert batch["errors"][1]["detail"].startswith("a?b?: ")
        assert [row["status"] for row in results(api, batch)] == ["failed"] * len(strange) + ["fetching"]
        for form in ("csv", "zip"):
            assert api.http.get(batch["links"]["results"], params={"format": form}).status_code == 200
        assert accepted(api, content=body, headers=headers)["id"] == batch["id"]
        assert not api.lines(level="ERROR")

    def test_bodies_that_are_none(self, sqlite_api: Api) -> None:
        kind = {"Content-Type": "application/json"}
        for body in (b"{", b'{"items": [NaN]}', b'{"items": ["\xff"]}'):
            refused(sqlite_api, "bad_request", 400, content=body, headers=kind)
        refused(sqlite_api, json={})
        refused(sqlite_api, json={"items": []})
        refused(sqlite_api, json={"items": {}})
        refused(sqlite_api, json=[])
        refused(sqlite_api, json={"items": [{"url": PUBLIC_URL}], "metadata": {"a": "\0"}})
        large = json.dumps({"items": ["x" * LIMITS["max_body_bytes"]]}).encode()
        refused(sqlite_api, "payload_too_large", 413, content=large, headers=kind)


SMALL = {"max_batch_items": 20, "max_batch_bytes": 4 << 20}


@pytest.fixture
def small(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[Api]:
    """A service with other limits on batches."""
    shutil.copy(migrated_sqlite_file, tmp_path / "pawlens.db")
    with serving(settings_for("", tmp_path, **LIMITS, **SMALL)) as running:
        yield running


class TestLimits:
    def test_a_batch_may_be_larger_than_any_other_body(self, small: Api) -> None:
        parts = files(*[picture(i) + bytes(1 << 19) for i in range(6)])  # the zeros are no part of a PNG
        assert accepted(small, files=parts)["total"] == 6

    def test_larger_than_that_announced_or_not(self, small: Api) -> None:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}

        def endless() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
            while True:
                yield bytes(1 << 20)

        with suppress(httpx.TransportError):  # the server hangs up, perhaps before its answer was read
            assert_problem(sent(small, content=endless(), headers=kind), 413, "payload_too_large")
        assert small.line(message="request", path=CALL)["status"] == 413
        with small.connect() as connection:
            head = f"Content-Type: {kind['Content-Type']}\r\nContent-Length: {1 << 40}\r\n"
            connection.sendall(f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")
        assert small.count_jobs() == 0

    def test_more_items_than_a_batch_may_have(self, small: Api) -> None:
        many = [picture(i) for i in range(21)]
        assert of_files(small, 20)["total"] == 20
        small.clear()
        refused(small, detail="20 files", files=files(*many))
        archive = zipped({f"{i}.png": data for i, data in enumerate(many)})
        refused(small, detail="20 files", files={"archive": ("a.zip", archive)})
        refused(small, detail="20 rows", files={"manifest": ("m.csv", f"url\n{URLS[0]}\n" * 11)})
        refused(small, detail="20 at most", json={"items": [{"url": PUBLIC_URL}] * 21})
        many = MAX_PIECES + 20 * PIECES_PER_ITEM
        refused(small, detail=f"more than {many:,} values", json={"items": [{}] * many})

    def test_more_than_a_zip_may_expand_to(self, small: Api) -> None:
        members = {f"{i}.png": picture(i) + bytes(1 << 19) for i in range(9)}
        archive = zipped(members, compression=zipfile.ZIP_DEFLATED)
        refused(small, "payload_too_large", 413, "expands", files={"archive": ("a.zip", archive)})

    def test_a_directory_that_would_fill_the_memory(self, small: Api) -> None:
        archive = zipped({f".{'x' * 60}{i}": b"" for i in range(12_000)})
        refused(small, detail="directory", files={"archive": ("a.zip", archive)})

    def test_more_than_the_queue_takes(self, migrated_sqlite_file: Path, tmp_path: Path) -> None:
        shutil.copy(migrated_sqlite_file, tmp_path / "pawlens.db")
        with serving(settings_for("", tmp_path, **LIMITS, max_queue=5)) as full:
            of_files(full, 3)
            answer = sent(full, files=files(*map(picture, range(3))))
            assert_problem(answer, 503, "queue_full")
            assert int(answer.headers["retry-after"]) > 0
            assert full.count_jobs() == 3
            assert of_files(full, 2)["total"] == 2


def test_what_is_odd_in_the_text_of_an_item_is_said_of_that_item_alone(api: Api) -> None:
    odd = [
        {"url": "https://\ud800.example/cat.jpg", "custom_id": "host"},
        {"url": "https://example.com/\udc00.jpg", "custom_id": "path"},
        {"url": "https://example.com/\0.jpg", "custom_id": "nul"},
        {"url": "https://example.com/a.jpg", "custom_id": "\ud800"},
        {"url": "https://example.com/b.jpg", "\ud800": "key"},
        {"url": "ftp://\ud800/\0", "custom_id": "scheme"},
        {"url": "https://example.com/cat.jpg", "custom_id": "good", "name": "\U0001f431 \"'\\ é"},
    ]
    lines = "\n".join(map(json.dumps, odd)).encode()
    answer = api.http.post("/v1/batches", files={"manifest": ("odd.jsonl", lines)})
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    rows = api.http.get(f"{batch['links']['self']}/results?format=jsonl").text.splitlines()
    (good,) = [row for row in map(json.loads, rows) if row["custom_id"] == "good"]
    assert good["name"] == "\U0001f431 \"'\\ é"
    assert batch["counts"]["fetching"] == batch["total"] - batch["rejected"]
    assert batch["rejected"] == len(odd) - 1, batch["errors"]
