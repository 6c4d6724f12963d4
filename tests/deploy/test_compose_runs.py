"""docker-compose.yml at work: its commands, environments, order and health checks, with the real network."""

from __future__ import annotations

import io
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from PIL import Image

from tests.databases import PostgresServer, TestRun
from tests.deploy.compose_file import SECRETS
from tests.deploy.containers import Project
from tests.processes import FINAL, PHOTOS, eventually

pytestmark = pytest.mark.service


@pytest.fixture
def project(test_run: TestRun, postgres_server: PostgresServer) -> Iterator[Project]:
    # The folder of the test run: PostgreSQL's own user, where we are root, gets no further than there.
    folder = test_run.folder / "compose"
    folder.mkdir()
    owner = postgres_server.data.stat().st_uid if os.getuid() == 0 else None
    project = Project(folder, SECRETS | {"WORKER_CPUS": "1"}, postgres_owner=owner)
    try:
        yield project
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        project.kill_all()


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def post(http: httpx.Client, photo: Path, **fields: Any) -> str:
    answer = http.post("/v1/jobs", files={"file": (photo.name, photo.read_bytes())}, data=fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
        return job if job["status"] in FINAL else None

    return dict(eventually(look, seconds=120, what=f"the end of {job_id}"))


def alive(http: httpx.Client) -> dict[str, int]:
    return dict(http.get("/readyz").json()["checks"]["workers"]["alive"])


@pytest.mark.timeout(600)
def test_from_nothing_to_explanations_by_more_workers_than_one(project: Project) -> None:
    packed = files(project.app)
    where = project.run("api", "python", "-c", "import core.settings; print(core.settings.ROOT)")
    assert where.stdout.strip() == str(project.app), "not the code that the image has"

    # The first start, as README has it. Without a key the API refuses, and says what to do.
    refused = project.run("api", *project.services["api"]["command"])
    assert refused.returncode == 1
    assert "pawlens keys create NAME" in refused.stderr
    made = project.run("api", "pawlens", "keys", "create", "me")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    project.up()

    with httpx.Client(base_url=project.address, timeout=60) as http:
        assert http.get("/v1/queue").status_code == 401
        assert http.get("/metrics").status_code == 401
        http.headers["Authorization"] = f"Bearer {key}"
        assert http.get("/readyz").json()["status"] == "ok"
        assert alive(http) == {"predict": 1, "explain": 1, "io": 1}
        assert 'pawlens_jobs_waiting{queue="explain"}' in http.get("/metrics").text

        # A prediction and an explanation, by the network whose weights were packed.
        cat = next(photo for photo in PHOTOS if photo.name == "Bengal_43.jpg")
        plain, why = post(http, cat), post(http, cat, methods="grad_cam")
        job = ended(http, plain)
        assert (job["status"], job["prediction"]["label"]) == ("succeeded", "cat")
        job = ended(http, why)
        assert job["status"] == "succeeded", job
        panel = http.get(f"/v1/jobs/{why}/artifacts/grad_cam/panel.png")
        assert Image.open(io.BytesIO(panel.content)).format == "PNG"

        # Two predict workers; the first is told to stop in the middle, and nothing is lost or done twice.
        project.start("worker-predict", replica=2)
        eventually(lambda: alive(http)["predict"] == 2, seconds=120, what="the second worker")
        ids = [post(http, photo, custom_id=str(number)) for number, photo in enumerate(PHOTOS * 3)]
        assert project.stop("worker-predict") == 0
        jobs = [ended(http, job_id) for job_id in ids]
        assert Counter(job["status"] for job in jobs) == {"succeeded": len(ids)}
        assert alive(http)["predict"] == 1
        assert ended(http, post(http, cat))["status"] == "succeeded"

    # A backup of all of it, restored as docs/deploy.md has it but into a database beside.
    dump = project.execute("postgres", "pg_dump", "-U", "pawlens", "-Fc", "pawlens")
    project.execute("postgres", "createdb", "-U", "pawlens", "restored")
    restore = ("pg_restore", "-U", "pawlens", "-d", "restored", "--exit-on-error")
    project.execute("postgres", *restore, given=dump)
    count = ("psql", "-U", "pawlens", "-At", "-c", "SELECT count(*) FROM jobs WHERE state = 'succeeded'")
    restored = project.execute("postgres", *count, "restored")
    assert restored == project.execute("postgres", *count, "pawlens") == f"{len(ids) + 3}\n".encode()

    # What is secret is needed.
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(
            host="127.0.0.1", port=project.ports["postgres:5432"], user="pawlens", password="wrong"
        )
    with redis.Redis(port=project.ports["redis:6379"]) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()

    # All of it stops in order, and nobody has written where the root file system is read-only.
    assert project.stop("api") == -signal.SIGTERM  # uvicorn's way: it raises the signal again when it is done
    assert "Application shutdown complete" in project.log("api")
    stopped = {
        label: project.stop(label)
        for label in ("worker-predict-2", "worker-explain", "worker-io", "beat", "redis")
    }
    assert set(stopped.values()) == {0}, stopped
    assert project.stop("postgres", signal.SIGINT) == 0
    assert files(project.app) == packed
