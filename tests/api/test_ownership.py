"""Whose things are whose: another owner's are 404, as if they were not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, insert

from core.jobs.tables import Batch, IdempotencyKey, WebhookDelivery, WebhookEndpoint
from tests.api.conftest import PHOTO, assert_problem, serving, settings_for
from tests.api.key_holders import TwoOwners


@pytest.fixture
def owners(database_url: str, tmp_path: Path) -> Iterator[TwoOwners]:
    with serving(settings_for(database_url, tmp_path)) as running:
        both = TwoOwners(running)
        yield both
        both.close()


def test_the_owner_sees_its_own_and_the_other_nothing(owners: TwoOwners) -> None:
    answer = owners.as_alice.post("/v1/jobs", files={"file": PHOTO}, data={"custom_id": "1"})
    assert answer.status_code == 202
    job = answer.json()
    assert owners.as_alice.get(job["links"]["self"]).json()["id"] == job["id"]
    assert [one["id"] for one in owners.as_alice.get("/v1/jobs").json()["jobs"]] == [job["id"]]
    assert owners.as_bob.get("/v1/jobs").json()["jobs"] == []
    assert owners.as_bob.get("/v1/jobs", params={"custom_id": "1"}).json()["jobs"] == []
    owners.api.work()
    assert owners.as_alice.get(job["links"]["self"]).json()["status"] == "succeeded"


def test_predict_answers_the_owner(owners: TwoOwners) -> None:
    with owners.api.working():
        answer = owners.as_alice.post("/predict", files={"file": PHOTO})
    assert answer.status_code == 200
    job = f"/v1/jobs/{answer.json()['meta']['job_id']}"
    assert owners.as_alice.get(job).status_code == 200
    assert_problem(owners.as_bob.get(job), 404)


def things_of(owners: TwoOwners) -> dict[str, str]:
    """One of each thing that has an id, all of them alice's, by the name that it has in a path."""
    job = owners.as_alice.post("/v1/jobs", files={"file": PHOTO}).json()["id"]
    with owners.api.database.write() as session:
        session.execute(insert(Batch).values(id="batch_1", owner=owners.alice))
        session.execute(
            insert(WebhookEndpoint).values(
                id="whk_1", owner=owners.alice, url="https://example.com/", secret="whsec_AAAA"
            )
        )
        session.execute(
            insert(WebhookDelivery).values(
                id="msg_1",
                target="whk_1",
                endpoint_id="whk_1",
                owner=owners.alice,
                subject_id=job,
                event_seq=1,
                event_type="job.succeeded",
                payload="{}",
            )
        )
    return {
        "job_id": job,
        "batch_id": "batch_1",
        "webhook_id": "whk_1",
        "endpoint_id": "whk_1",
        "delivery_id": "msg_1",
        "method": "grad_cam",
        "name": "panel.png",
    }


def test_whatever_has_an_id_is_404_to_another(owners: TwoOwners) -> None:
    """All calls of the OpenAPI document: one that is added is tried too, or this test asks for its thing."""
    document = owners.api.http.get("/openapi.json").json()
    things = things_of(owners)
    tried = 0
    for path, item in document["paths"].items():
        if "{" not in path:
            continue
        for method in item:
            # A KeyError here: put the new kind of thing into things_of.
            theirs, nobodys = (
                refusal(owners.as_bob, method, path, names)
                for names in (things, {name: f"nobodys-{name}" for name in things})
            )
            # Nothing tells that it is there.
            assert theirs == nobodys, (method, path)
            tried += 1
    assert tried >= 5
    assert owners.as_alice.get(f"/v1/jobs/{things['job_id']}").json()["status"] == "queued"


def test_no_list_shows_what_is_anothers(owners: TwoOwners) -> None:
    document = owners.api.http.get("/openapi.json").json()
    things = things_of(owners)
    listed = 0
    for path, item in document["paths"].items():
        if "get" not in item or "{" in path or not path.startswith("/v1/"):
            continue
        answer = owners.as_bob.get(path)
        assert answer.status_code == 200
        listed += any(thing in owners.as_alice.get(path).text for thing in set(things.values()))
        for name in ("job_id", "batch_id", "webhook_id", "delivery_id"):
            assert things[name] not in answer.text, (path, name)
    assert listed >= 1


def refusal(client: httpx.Client, method: str, template: str, names: dict[str, str]) -> dict[str, Any]:
    """The 404 that a call is answered with, without the names that it was asked for by."""
    answer = client.request(method, template.format(**names))
    assert_problem(answer, 404)
    document = dict(answer.json())
    del document["instance"], document["correlation_id"]
    for name in names.values():
        document["detail"] = document["detail"].replace(name, "ID")
    return document


@pytest.mark.parametrize(("path", "field"), [("/v1/jobs", "file"), ("/v1/batches", "files")])
def test_waiting_for_anothers_does_not_tell_that_it_is_there(
    owners: TwoOwners, path: str, field: str
) -> None:
    made = owners.as_alice.post(path, files={field: PHOTO}).json()["links"]["self"]
    # Answered long before the 60 s: the client's own limit is shorter.
    for news in ({}, {"after": 0}):
        answer = owners.as_bob.get(made, params={"wait": 60} | news, timeout=20)
        assert_problem(answer, 404)


def test_anothers_idempotency_key_is_as_if_it_were_not_used(owners: TwoOwners) -> None:
    """Neither the same request nor another one tells that somebody has used it."""
    key = {"Idempotency-Key": "1"}
    for path, field, fields in (
        ("/v1/jobs", "file", {}),
        ("/v1/jobs", "file", {"custom_id": "2"}),
        ("/v1/batches", "files", {}),
    ):
        with owners.api.database.write() as session:
            session.execute(delete(IdempotencyKey))
        theirs = owners.as_alice.post(path, files={field: PHOTO}, headers=key)
        own = owners.as_bob.post(path, files={field: PHOTO}, data=fields, headers=key)
        assert (theirs.status_code, own.status_code) == (202, 202)
        assert own.json()["id"] != theirs.json()["id"]
        assert "Idempotent-Replayed" not in own.headers
        assert_problem(owners.as_bob.get(theirs.json()["links"]["self"]), 404)


def test_a_canceled_job_is_the_owners_doing(owners: TwoOwners) -> None:
    job = owners.as_alice.post("/v1/jobs", files={"file": PHOTO}).json()["id"]
    assert_problem(owners.as_bob.post(f"/v1/jobs/{job}/cancel"), 404)
    assert owners.as_alice.post(f"/v1/jobs/{job}/cancel").json()["status"] == "canceled"
