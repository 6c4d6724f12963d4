"""The steps of a job's way through the database, one by one: what ceilings.py times and counts."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from core.database import Database
from core.jobs import batches, claims, queries, results, statistics
from core.jobs.batches import Item, Wishes
from core.jobs.blobs import Picture, store_pictures
from core.jobs.claims import Claim
from core.jobs.ids import new_id
from core.jobs.results import Result
from core.jobs.states import JobState, Queue
from core.jobs.submit import Submission, submit_all
from migrations import upgrade
from tests.databases import postgres_alone

GROUP = 50
"""New jobs in one commit: as many as there are clients, who wait for it together."""
CLAIM = 64

PICTURES = [Picture(b"picture %d " % i * 300, 320, 240, "image/jpeg") for i in range(GROUP)]
RESULT = Result(
    {"label": "cat", "scores": {"cat": 0.969, "dog": 0.031}, "margin": 3.44},
    {"name": "resnet101-cat-dog", "version": "1.0.0", "digest": "0" * 64},
    {"queued_ms": 12.1, "decode_ms": 3.2, "inference_ms": 41.7, "batch_size": CLAIM},
)


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Callable[[], Database]]:
    """Makes new migrated databases, durable ones: unlike in tests, PostgreSQL waits for the disk."""
    made: list[Database] = []
    with ExitStack() as stack:
        server = None if kind == "sqlite" else stack.enter_context(postgres_alone())
        if server:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                server.execute(f"ALTER SYSTEM RESET {setting}")
            server.execute("SELECT pg_reload_conf()")

        def new() -> Database:
            if server:
                url = server.url(server.create())
            else:
                url = f"sqlite:///{folder}/{len(made)}.db"
                upgrade(url)
            made.append(Database(url))
            stack.callback(made[-1].dispose)
            return made[-1]

        yield new


def fill(database: Database, depth: int) -> None:
    """So many waiting jobs, by plain SQL."""
    now = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now')" if database.is_sqlite else "now()"
    with database.write() as session:
        store_pictures(session, PICTURES)
        session.execute(
            text(
                "INSERT INTO jobs (id, state, queue, priority, image_sha256, metadata, options, created_at,"
                " run_after, attempt, max_attempts, event_seq) "
                "WITH RECURSIVE numbers(i) AS "
                "(SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :depth) "
                "SELECT 'job_0' || (10000000 + i), 'queued', 'predict', 5, :sha256, '{}', '{}',"
                f" {now}, {now}, 0, 3, 1 FROM numbers"
            ),
            {"depth": depth, "sha256": PICTURES[0].sha256},
        )


def post(database: Database, count: int = GROUP) -> None:
    """As api/acceptance.py writes what was posted together, with all that the answers show."""
    with database.write() as session:
        new = {new_id("job"): Submission(picture=PICTURES[i]) for i in range(count)}
        jobs = list(submit_all(session, new, max_attempts=3).values())
        queries.records_of_new(session, jobs, {picture.sha256: picture for picture in PICTURES})


def post_batch(database: Database, size: int) -> str:
    """A batch whose pictures are stored already."""
    batch_id = new_id("batch")
    items = [Item(i, f"{i}.jpg", str(i), PICTURES[i % GROUP].sha256) for i in range(size)]
    with database.write() as session:
        batches.create(session, batch_id, items=items, wishes=Wishes(), max_attempts=3)
    return batch_id


def claim(database: Database, owner: str = "worker") -> list[Claim]:
    with database.write() as session:
        return claims.claim(session, Queue.PREDICT, owner=owner, limit=CLAIM, lease_seconds=600)


def finish(database: Database, held: Sequence[Claim]) -> None:
    with database.write() as session:
        written = results.succeed_all(session, [(claim, RESULT) for claim in held])
    assert len(written) == len(held)


def beat(database: Database, held: Sequence[Claim]) -> None:
    with database.write() as session:
        assert len(claims.heartbeat(session, held, lease_seconds=600)) == len(held)


def newest_job(database: Database) -> str:
    with database.read() as session:
        return queries.list_jobs(session, limit=1)[0].job.id


def reads(database: Database, job_id: str) -> dict[str, Callable[[], Any]]:
    """What is asked of the database by those who look on, by name."""

    def reading(look: Callable[[Any], Any]) -> Callable[[], Any]:
        def read() -> Any:
            with database.read() as session:
                return look(session)

        return read

    return {
        "GET the newest job, with its position": reading(lambda s: queries.get_job(s, job_id)),
        "list of 20": reading(queries.list_jobs),
        "list of failed ones": reading(lambda s: queries.list_jobs(s, states=[JobState.FAILED])),
        "/v1/queue": reading(queries.queue_depths),
        "/metrics, the last minute": reading(statistics.recent),
    }


class Counted:
    """Statements and commits of a database since the last :meth:`take`."""

    def __init__(self, database: Database) -> None:
        self.statements = self.commits = 0
        event.listen(database.engine, "before_cursor_execute", self._statement)
        event.listen(database.engine, "commit", self._commit)

    def _statement(self, *_: Any) -> None:
        self.statements += 1

    def _commit(self, _connection: Any) -> None:
        self.commits += 1

    def take(self) -> tuple[int, int]:
        taken, self.statements, self.commits = (self.statements, self.commits), 0, 0
        return taken


def drain_with(database: Database, workers: int) -> tuple[float, int]:
    """Seconds and items of so many processes that claim and finish until nothing is left."""
    url = database.engine.url.render_as_string(hide_password=False)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(_ready, [url] * workers, chunksize=1)
        begin = time.time() + 0.5
        parts = pool.starmap(_drain, [(url, begin, f"worker/{n}") for n in range(workers)], chunksize=1)
    return max(ended for ended, _ in parts) - begin, sum(items for _, items in parts)


def _ready(url: str) -> None:
    Database(url).ping()
    time.sleep(0.3)  # so that no process takes the part of another


def _drain(url: str, begin: float, owner: str) -> tuple[float, int]:
    database = Database(url)
    database.ping()
    time.sleep(max(0.0, begin - time.time()))
    items, ended = 0, begin
    while held := claim(database, owner):
        finish(database, held)
        items, ended = items + len(held), time.time()
    database.dispose()
    return ended, items
