import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from api import connection
from api.client import ApiError, NoServer, PawlensClient
from api.connection import InvalidKey
from tests.api.scripted_server import job, problem, serve
from worker.preflight import listen

ID = job()["id"]


@contextmanager
def hanging_up() -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request and closes the connection without an answer."""
    heard: list[bytes] = []
    with listen("127.0.0.1", 0) as listener:

        def run() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(7) == b"THE END":
                        return
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=run)
        thread.start()
        host, port = listener.getsockname()
        try:
            yield f"http://{host}:{port}", heard
        finally:
            with socket.create_connection((host, port)) as last:
                last.sendall(b"THE END")
            thread.join()


@pytest.fixture
def three_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_ATTEMPTS", 3)


def test_submit_sends_a_file_with_every_field(tmp_path: Path) -> None:
    picture = tmp_path / "Ünser Kätzchen.jpg"
    picture.write_bytes(b"\xff\xd8picture")
    with (
        serve({"POST /v1/jobs": [JSONResponse(job(), 202)]}) as server,
        PawlensClient(server.address + "/", "secret") as client,
    ):
        posted = client.submit(
            picture,
            methods=["grad_cam", "occlusion"],
            options={"occlusion": {"stride": 8}},
            priority=0,
            custom_id="ä",
            metadata={"album": "ö"},
            deadline_seconds=1.5,
        )
    assert posted == job()
    asked = server.last("POST /v1/jobs")
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.filename == "Ünser Kätzchen.jpg"
    assert asked.form["file"] == b"\xff\xd8picture"
    assert json.loads(asked.form["options"]) == {"occlusion": {"stride": 8}}
    assert json.loads(asked.form["metadata"]) == {"album": "ö"}
    plain = {name: asked.form[name] for name in ("methods", "priority", "custom_id", "deadline_seconds")}
    assert plain == {
        "methods": "grad_cam,occlusion",
        "priority": "0",
        "custom_id": "ä",
        "deadline_seconds": "1.5",
    }


def test_submit_sends_bytes_or_a_url_and_nothing_that_was_not_given() -> None:
    with (
        serve({"POST /v1/jobs": [JSONResponse(job(), 202)]}) as server,
        PawlensClient(server.address) as client,
    ):
        client.submit(b"bytes")
        assert server.last("POST /v1/jobs").form == {"file": b"bytes"}
        client.submit("https://example.com/cat.jpg")
        asked = server.last("POST /v1/jobs")
        assert asked.form == {"url": "https://example.com/cat.jpg"}
        assert asked.headers["content-type"].startswith("multipart/form-data")
        assert "authorization" not in asked.headers


def test_names_that_are_not_utf_8_are_sent_as_well_as_they_can_be(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    picture = tmp_path / odd
    picture.write_bytes(b"picture")
    script = {path: [JSONResponse(job(), 202)] for path in ("POST /v1/jobs", "POST /v1/batches")}
    with serve(script) as server, PawlensClient(server.address) as client:
        client.submit(picture)
        assert server.last("POST /v1/jobs").filename == "caf%E9.jpg"
        client.submit(f"https://example.com/{odd}")
        assert server.last("POST /v1/jobs").form == {"url": "https://example.com/caf%E9.jpg"}
        client.batches.submit(files=[picture])
        assert server.last("POST /v1/batches").filename == "caf%E9.jpg"


@pytest.mark.parametrize("key", ["ключ", "pk_1\r", os.fsdecode(b"\xff")])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(InvalidKey, match="looks like pk_"):
        PawlensClient("http://127.0.0.1", key)


def test_a_problem_document_becomes_an_error() -> None:
    refusal = problem(422, "invalid_image", "Invalid image", "It ends too early.")
    with (
        serve({"POST /v1/jobs": [refusal]}) as server,
        PawlensClient(server.address) as client,
        pytest.raises(ApiError, match=r"^Invalid image: It ends too early\.$") as raised,
    ):
        client.submit(b"")
    assert (raised.value.status, raised.value.code, raised.value.title) == (
        422,
        "invalid_image",
        "Invalid image",
    )
    assert server.count("POST /v1/jobs") == 1


def test_an_error_page_of_a_proxy_is_an_error_too() -> None:
    page = PlainTextResponse("<h1>Bad gateway</h1>", 502)
    with (
        serve({"GET /v1/model": [page]}) as server,
        PawlensClient(server.address) as client,
        pytest.raises(ApiError, match="Bad gateway") as raised,
    ):
        client.model()
    assert (raised.value.status, raised.value.code) == (502, "http_502")


@pytest.mark.parametrize(
    "busy",
    [
        problem(503, "queue_full", "Full", "", Retry_After="0"),
        problem(429, "too_many", "Slow down", "", Retry_After="0.2"),
        problem(503, "away", "Away", "", Retry_After=formatdate(0, usegmt=True)),
        problem(503, "away", "Away", "", Retry_After="soon"),
        problem(503, "away", "Away", ""),
    ],
)
def test_busy_servers_are_asked_again_also_with_a_post(busy: Response) -> None:
    with (
        serve({"POST /v1/jobs": [busy, JSONResponse(job(), 202)]}) as server,
        PawlensClient(server.address) as client,
    ):
        assert client.submit(b"picture") == job()
        assert server.count("POST /v1/jobs") == 2
        assert server.last("POST /v1/jobs").form == {"file": b"picture"}


@pytest.mark.usefixtures("three_attempts")
def test_patience_ends() -> None:
    busy = problem(503, "queue_full", "Queue full", "Try later.", Retry_After="0")
    with serve({"POST /v1/jobs": [busy]}) as server, PawlensClient(server.address) as client:
        with pytest.raises(ApiError, match="Queue full"):
            client.submit(b"picture")
        assert server.count("POST /v1/jobs") == 3


def test_a_retry_after_of_hours_is_told_at_once() -> None:
    busy = problem(429, "quota", "Quota used up", "", Retry_After="3600")
    with serve({"GET /v1/model": [busy]}) as server, PawlensClient(server.address) as client:
        with pytest.raises(ApiError, match="Quota used up"):
            client.model()
        assert server.count("GET /v1/model") == 1


def test_a_date_that_no_calendar_has_is_none() -> None:
    busy = problem(429, "quota", "Quota", "", Retry_After="Mon, 01 Jan 99999999999 00:00:00 GMT")
    script = {"GET /v1/model": [busy, JSONResponse({"name": "x"})]}
    with serve(script) as server, PawlensClient(server.address) as client:
        assert client.model() == {"name": "x"}


def test_a_problem_of_another_form_is_an_error_too() -> None:
    odd = JSONResponse({"title": None, "code": None, "detail": None, "errors": 5}, 500)
    with (
        serve({"GET /v1/model": [odd]}) as server,
        PawlensClient(server.address) as client,
        pytest.raises(ApiError, match=r"^Internal Server Error$") as raised,
    ):
        client.model()
    assert (raised.value.code, raised.value.errors) == ("http_500", [])


def test_an_answer_that_cannot_be_decoded() -> None:
    broken = Response(b"no gzip", headers={"Content-Encoding": "gzip"})
    calls = ("/v1/model", "/livez", "/v1/batches/b/results", "/v1/jobs/j/events")
    script = {f"GET {path}": [broken] for path in calls}
    with serve(script) as server, PawlensClient(server.address) as client:
        for ask in (
            *(client.model, client.ping),
            *(lambda: list(client.batches.results("b")), lambda: list(client.events("j"))),
        ):
            with pytest.raises(NoServer):
                ask()


def test_results_that_are_none() -> None:
    script = {"GET /v1/batches/b/results": [PlainTextResponse('{"index": 0}\n{"index"')]}
    with serve(script) as server, PawlensClient(server.address) as client:
        results = client.batches.results("b")
        assert next(results) == {"index": 0}
        with pytest.raises(NoServer, match="no Pawlens"):
            next(results)


@pytest.mark.parametrize("odd", ["../../v1/batches/x", "a/b c", "%2e", "ä \udce9"])
def test_an_id_stays_in_its_place(odd: str) -> None:
    with serve({}) as server, PawlensClient(server.address) as client:
        batches = client.batches
        calls = [client.job, client.image, client.cancel, client.delete, lambda id_: list(client.events(id_))]
        calls += [batches.get, batches.cancel, batches.retry, batches.delete]
        calls += [lambda id_: list(batches.events(id_)), lambda id_: list(batches.results(id_))]
        for call in calls:
            with pytest.raises(ApiError):
                call(odd)
        whole = odd.encode(errors="surrogateescape").decode(errors="replace")
        assert len(server.asked) == len(calls)
        for asked in server.asked:
            assert asked.path.startswith((f"/v1/jobs/{whole}", f"/v1/batches/{whole}"))


@pytest.mark.usefixtures("three_attempts")
def test_a_broken_connection_is_tried_again_where_that_does_no_harm() -> None:
    with hanging_up() as (address, heard), PawlensClient(address) as client:
        with pytest.raises(NoServer):
            client.cancel(ID)  # it may have been done
        assert len(heard) == 1
        with pytest.raises(NoServer):
            client.model()
        assert len(heard) == 1 + 3
        with pytest.raises(NoServer):
            client.submit(b"picture")
        assert len(heard) == 1 + 3 + 3
        keys = {line for part in heard for line in part.split(b"\r\n") if line.startswith(b"Idempotency-Key")}
        assert len(keys) == 1  # the server knows the second and third as the first


def test_every_submit_has_a_key_of_its_own() -> None:
    with (
        serve({"POST /v1/jobs": [JSONResponse(job(), 202)]}) as server,
        PawlensClient(server.address) as client,
    ):
        client.submit(b"bytes")
        client.submit(b"bytes")
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(set(keys)) == 2


def test_delete() -> None:
    with (
        serve({f"DELETE /v1/jobs/{ID}": [Response(status_code=204)]}) as server,
        PawlensClient(server.address) as client,
    ):
        client.delete(ID)
    assert server.count(f"DELETE /v1/jobs/{ID}") == 1


@pytest.mark.usefixtures("three_attempts")
def test_nobody_there() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with PawlensClient(address) as client:
        for call in (client.ping, client.model, lambda: client.submit(b"")):
            with pytest.raises(NoServer, match=address):
                call()


@pytest.mark.usefixtures("three_attempts")
def test_a_post_that_could_not_connect_is_sent_when_the_server_is_back() -> None:
    with serve({"POST /v1/jobs": [JSONResponse(job(), 202)]}) as server:
        port = int(server.address.rpartition(":")[2])
        with listen("127.0.0.1", 0) as other:
            away = other.getsockname()[1]
        with PawlensClient(f"http://127.0.0.1:{away}") as client:
            # The first attempt finds nobody; then a listener takes the port over and passes bytes on.
            timer = threading.Timer(0.05, lambda: forward(away, port))
            timer.start()
            assert client.submit(b"picture") == job()
            timer.join()
        assert server.count("POST /v1/jobs") == 1


def forward(port: int, target: int) -> None:
    """Accept one connection and carry one request and one answer."""
    with listen("127.0.0.1", port) as listener:
        listener.settimeout(20)
        inward, _ = listener.accept()
        with inward, socket.create_connection(("127.0.0.1", target)) as outward:
            inward.settimeout(0.5)
            try:
                while data := inward.recv(65536):
                    outward.sendall(data)
            except TimeoutError:
                pass  # the whole request has come
            inward.sendall(outward.recv(65536))


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://[::1", "ftp://127.0.0.1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(NoServer), PawlensClient(address) as client:
        client.ping()


def test_another_service_is_not_taken_for_pawlens() -> None:
    script = {"GET /v1/model": [PlainTextResponse("hello")], "GET /livez": [PlainTextResponse("", 404)]}
    with serve(script) as server, PawlensClient(server.address) as client:
        with pytest.raises(NoServer, match="it is no Pawlens"):
            client.model()
        with pytest.raises(NoServer, match="404"):
            client.ping()


def test_wait_polls_until_the_job_is_final_however_it_ended() -> None:
    answers = [JSONResponse(job(status=status)) for status in ("queued", "running", "failed")]
    with serve({f"GET /v1/jobs/{ID}": answers}) as server, PawlensClient(server.address) as client:
        assert client.wait(ID)["status"] == "failed"
    assert server.count(f"GET /v1/jobs/{ID}") == 3
    assert server.last(f"GET /v1/jobs/{ID}").query == [("wait", "30.0")]


def test_wait_gives_up() -> None:
    answers = [JSONResponse(job(status="queued"))]
    with (
        serve({f"GET /v1/jobs/{ID}": answers}) as server,
        PawlensClient(server.address) as client,
        pytest.raises(TimeoutError, match=rf"{ID} is queued"),
    ):
        client.wait(ID, timeout=0.3)


def test_the_other_calls() -> None:
    script: dict[str, list[Response]] = {
        "GET /v1/jobs": [JSONResponse({"jobs": [job()], "next_cursor": None})],
        f"GET /v1/jobs/{ID}": [JSONResponse(job())],
        f"GET /v1/jobs/{ID}/image": [Response(b"\xff\xd8", media_type="image/jpeg")],
        f"POST /v1/jobs/{ID}/cancel": [JSONResponse(job(status="canceled"))],
        "GET /v1/queue": [JSONResponse({"queues": []})],
    }
    with serve(script) as server, PawlensClient(server.address) as client:
        assert client.jobs(status=["queued", "running"], limit=5, kind=None)["jobs"] == [job()]
        assert server.last("GET /v1/jobs").query == [
            ("status", "queued"),
            ("status", "running"),
            ("limit", "5"),
        ]
        client.job(ID, wait=10, after=4)
        assert server.last(f"GET /v1/jobs/{ID}").query == [("wait", "10"), ("after", "4")]
        assert client.image(ID) == b"\xff\xd8"
        assert client.cancel(ID)["status"] == "canceled"
        assert client.queue() == {"queues": []}
        with pytest.raises(ApiError) as raised:
            client.job("job_of_nobody")
        assert raised.value.status == 404
