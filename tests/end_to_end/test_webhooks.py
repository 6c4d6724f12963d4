"""Webhooks through the real service: processes on both databases, receivers on loopback."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook

from core.database import Database, db_now
from core.jobs.tables import WebhookDelivery
from tests.end_to_end.test_jobs import post_many
from tests.processes import PHOTOS, Service, eventually, running
from tests.worker.test_webhook_sender import Receiver, hang

pytestmark = pytest.mark.service


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # short: it holds a socket


@pytest.fixture
def service(folder: Path, database_url: str) -> Iterator[Service]:
    with running(folder, database_url, "predict", "io", allow_private_network=True) as started:
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield started
        started.closing.set()
        started.shutdown()
        thread.join()


def register(service: Service, url: str) -> dict[str, Any]:
    answer = service.http.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def deliveries(service: Service, **parameters: Any) -> list[dict[str, Any]]:
    answer = service.http.get("/v1/deliveries", params={"limit": 100, **parameters})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["deliveries"])


def all_delivered(service: Service) -> bool:
    return {delivery["status"] for delivery in deliveries(service)} == {"delivered"}


def test_fifty_jobs_are_fifty_verified_deliveries(service: Service, receiver: Receiver) -> None:
    secret = register(service, receiver.url())["secret"]
    ids = post_many(service, 50)
    for job_id in ids:
        assert service.wait(job_id)["status"] == "succeeded"
    eventually(lambda: len(receiver.received) >= 50 and all_delivered(service), what="the deliveries")
    payloads = [Webhook(secret).verify(body, headers) for _, headers, body in receiver.received]
    assert Counter(payload["data"]["id"] for payload in payloads) == dict.fromkeys(ids, 1)
    assert {payload["type"] for payload in payloads} == {"job.succeeded"}
    for payload in payloads[:5]:
        job = service.http.get(payload["data"]["links"]["self"]).json()
        assert job["event_seq"] == payload["data"]["sequence"]
        assert job["status"] == payload["data"]["status"]


def test_redelivered_it_has_the_same_id(service: Service, receiver: Receiver) -> None:
    secret = service.http.get("/v1/webhooks/secret").json()["secret"]
    job = service.post(PHOTOS[0], webhook_url=receiver.url())
    eventually(lambda: deliveries(service) and all_delivered(service), what="the delivery")
    (delivery,) = deliveries(service, job_id=job["id"])
    assert service.http.post(f"/v1/deliveries/{delivery['id']}/redeliver").status_code == 202
    eventually(lambda: len(receiver.received) == 2 and all_delivered(service), what="the redelivery")
    for _, headers, body in receiver.received:
        assert headers["webhook-id"] == delivery["id"]
        assert Webhook(secret).verify(body, headers)["data"]["id"] == job["id"]


def test_dead_and_hanging_receivers_harm_nobody(service: Service, receiver: Receiver) -> None:
    """Jobs end, canceled ones too, URLs are downloaded, and the receivers that work are told."""
    receiver.answers["/hang"] = hang
    with socket.socket() as dead, Receiver() as good:
        dead.bind(("127.0.0.1", 0))  # bound and not listening
        serving = threading.Thread(target=good.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        nobody = f"http://127.0.0.1:{dead.getsockname()[1]}/"
        for url in (nobody, receiver.url("/hang"), good.url()):
            register(service, url)
        ids = [service.post(PHOTOS[0], webhook_url=nobody)["id"] for _ in range(20)]
        assert {service.wait(job_id)["status"] for job_id in ids} == {"succeeded"}
        eventually(lambda: len(good.received) == 20, what="the deliveries to the one that works")
        failed = service.http.post("/v1/jobs", data={"url": f"{nobody}cat.jpg", "deadline_seconds": 1}).json()
        assert service.wait(failed["id"])["status"] in ("failed", "expired")
        service.terminate("predict")
        waiting = service.post(PHOTOS[0])["id"]
        assert service.http.post(f"/v1/jobs/{waiting}/cancel").json()["status"] == "canceled"
        eventually(lambda: len(good.received) == 22, what="the other ends")
        good.shutdown()
        serving.join()
    tried = [d for d in deliveries(service) if d["attempts"] and d["status"] != "delivered"]
    assert tried
    assert all(d["status"] == "pending" and d["attempts"][0]["error"] for d in tried)


def test_what_was_written_while_no_sender_lived_is_sent_later(
    folder: Path, database_url: str, receiver: Receiver
) -> None:
    with running(folder, database_url, "predict", allow_private_network=True) as service:
        register(service, receiver.url())
        ids = post_many(service, 5)
        for job_id in ids:
            service.wait(job_id)
        service.valkey.terminate()  # with the hints
        service.valkey.start()
        assert {d["status"] for d in deliveries(service)} == {"pending"}
        service.start_worker("io")
        eventually(lambda: all_delivered(service), what="the deliveries")
        told = [headers["webhook-id"] for _, headers, _ in receiver.received]
        assert sorted(told) == sorted(d["id"] for d in deliveries(service))


def test_a_killed_sender_loses_nothing(folder: Path, database_url: str, receiver: Receiver) -> None:
    released = threading.Event()
    receiver.answers["/hook"] = lambda handler: (released.wait(60), handler.send_error(500))[1]
    with running(
        folder, database_url, "predict", "io", allow_private_network=True, webhook_timeout_seconds=60
    ) as service:
        register(service, receiver.url())
        service.wait(service.post(PHOTOS[0])["id"])
        eventually(lambda: receiver.received, what="the first attempt")
        service.kill("io")
        released.set()
        del receiver.answers["/hook"]
        (delivery,) = deliveries(service)
        _end_lease(service)
        service.start_worker("io")
        eventually(lambda: all_delivered(service), what="the second attempt", seconds=60)
        assert {headers["webhook-id"] for _, headers, _ in receiver.received} == {delivery["id"]}
        assert [a["attempt"] for a in deliveries(service)[0]["attempts"]] == [2]


def _end_lease(service: Service) -> None:
    """As time would, which is 90 seconds here."""
    database = Database(service.environment["PAWLENS_DATABASE_URL"])
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=db_now(), lease_until=db_now()))
    database.dispose()
