"""DELETE: gone with all that was of it, and with nothing of another's."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from core.jobs import claims, explanations
from core.jobs.explanations import File, Finished
from core.jobs.states import FINAL, JobState, Queue
from core.jobs.tables import Artifact, Blob, Event, Image, Job, Method
from tests.api.conftest import EXAMPLES, PHOTO, Api, assert_problem
from tests.core.jobs.steps import RESULT, ended

TABLES = (Job, Method, Artifact, Event, Image, Blob)


def rows(api: Api) -> list[int]:
    """How many there are in each table."""
    with api.database.read() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES]


def explained(api: Api, overlay: bytes = b"an overlay", photo: bytes = PHOTO) -> dict[str, Any]:
    """A finished job with one method and one artifact."""
    from core.jobs import results

    job = api.post(photo, methods="grad_cam")
    with api.database.write() as session:
        (claim,) = claims.claim(session, Queue.EXPLAIN, owner="w/1", limit=1, lease_seconds=60)
        assert explanations.start(session, claim, "grad_cam", key=job["id"][-32:])
        files = {"overlay.png": File(overlay, "image/png")}
        finished = Finished(files, quality={}, provenance={}, seconds=1.0)
        assert explanations.finish(session, claim, "grad_cam", finished)
        assert results.succeed(session, claim, **RESULT)
    return job


def test_everything_of_it_is_gone(api: Api) -> None:
    job = explained(api)
    artifact = f"{job['links']['self']}/artifacts/grad_cam/overlay.png"
    assert api.http.get(artifact).content == b"an overlay"
    answer = api.http.delete(job["links"]["self"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert rows(api) == [0] * len(TABLES)
    for path in (job["links"]["self"], job["links"]["image"], job["links"]["events"], artifact):
        assert_problem(api.http.get(path), 404, "not_found")
    assert_problem(api.http.delete(job["links"]["self"]), 404, "not_found")


def test_what_another_job_has_as_well_stays(api: Api) -> None:
    first, second = explained(api), explained(api)
    assert rows(api)[-2:] == [1, 2]  # one picture, and one overlay beside it
    assert api.http.delete(first["links"]["self"]).status_code == 204
    assert rows(api)[-2:] == [1, 2]
    assert api.http.get(second["links"]["image"]).content == PHOTO
    overlay = api.http.get(f"{second['links']['self']}/artifacts/grad_cam/overlay.png")
    assert overlay.content == b"an overlay"
    assert api.http.delete(second["links"]["self"]).status_code == 204
    assert rows(api) == [0] * len(TABLES)


def test_the_picture_of_one_may_be_the_artifact_of_another(api: Api) -> None:
    other = EXAMPLES[1].read_bytes()
    made, given = explained(api, overlay=other), explained(api, photo=other)
    artifact = f"{made['links']['self']}/artifacts/grad_cam/overlay.png"
    assert api.http.delete(given["links"]["self"]).status_code == 204
    assert api.http.get(artifact).content == other
    again = explained(api, photo=other)
    assert api.http.delete(made["links"]["self"]).status_code == 204
    assert api.http.get(again["links"]["image"]).content == other
    assert api.http.delete(again["links"]["self"]).status_code == 204
    assert rows(api) == [0] * len(TABLES)


def test_only_what_has_ended(api: Api) -> None:
    job = api.post()
    before = rows(api)
    assert_problem(api.http.delete(job["links"]["self"]), 409, "conflict", "queued")
    with api.database.write() as session:
        claims.claim(session, Queue.PREDICT, owner="w/1", limit=1, lease_seconds=60)
    assert_problem(api.http.delete(job["links"]["self"]), 409, "conflict", "running")
    api.http.post(job["links"]["cancel"])
    assert_problem(api.http.delete(job["links"]["self"]), 409, "conflict", "canceling")
    assert rows(api)[:1] == before[:1]
    assert api.job(job["id"])["status"] == "canceling"


@pytest.mark.parametrize("state", sorted(FINAL))
def test_however_it_ended(sqlite_api: Api, state: JobState) -> None:
    claim = ended(sqlite_api.database, state)
    assert sqlite_api.http.delete(f"/v1/jobs/{claim.job_id}").status_code == 204
    assert rows(sqlite_api) == [0] * len(TABLES)


def test_a_job_that_is_not_there(api: Api) -> None:
    assert_problem(api.http.delete("/v1/jobs/job_0"), 404, "not_found")
    assert_problem(api.http.delete("/v1/jobs/%00"), 422, "invalid_request")


def test_a_url_that_was_never_downloaded(api: Api) -> None:
    job = api.post_url()
    api.http.post(job["links"]["cancel"])
    assert api.http.delete(job["links"]["self"]).status_code == 204
    assert rows(api) == [0] * len(TABLES)


def test_it_is_described(sqlite_api: Api) -> None:
    document = sqlite_api.http.get("/openapi.json").json()
    described = document["paths"]["/v1/jobs/{job_id}"]["delete"]["responses"]
    assert set(described) >= {"204", "404", "409", "422", "503"}
    assert "content" not in described["204"]
