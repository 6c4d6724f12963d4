"""A runner of predictions on a database, with an engine to play with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.database import Database
from core.jobs.blobs import Picture
from core.jobs.states import JobState, Queue
from core.settings import Settings
from core.vision.prediction import Prediction
from core.vision.stand_in import StandInEngine
from tests.core.jobs.steps import job, submitted
from worker.leases import LeaseKeeper
from worker.runner import Runner

Item = NDArray[np.uint8]


class Engine(StandInEngine):
    """The stand-in, noting its batches; a test may do something first, or refuse."""

    def __init__(self, max_batch: int = 8) -> None:
        super().__init__(max_batch=max_batch)
        self.batches: list[int] = []
        self.answers_lost = 0
        self.on_prepare: Callable[[bytes], None] = lambda data: None
        self.on_predict: Callable[[list[bytes]], None] = lambda batch: None

    def prepare(self, data: bytes) -> Item:
        self.on_prepare(data)
        return np.frombuffer(data.ljust(32, b"."), np.uint8)

    def predict(self, batch: Sequence[Item]) -> list[Prediction]:
        self.batches.append(len(batch))
        self.on_predict([bytes(item).rstrip(b".") for item in batch])
        return super().predict(batch)[: len(batch) - self.answers_lost]


class Bench:
    """A runner on a database, with the engine to play with."""

    def __init__(self, database: Database, folder: Path, **settings: Any) -> None:
        self.database = database
        self.engine = Engine()
        self.stopping = threading.Event()
        chosen = Settings(data_dir=folder, threads=1, retry_seconds=0, **settings)
        self.keeper = LeaseKeeper(
            database,
            worker_id="worker",
            queues=[Queue.PREDICT],
            lease_seconds=chosen.lease_seconds,
            heartbeat_seconds=chosen.heartbeat_seconds,
        )
        self.runner = Runner(chosen, database, self.engine, self.keeper, self.stopping)

    def post(self, *pictures: bytes) -> list[str]:
        return [
            submitted(self.database, picture=Picture(data, 640, 480, "image/png"), correlation_id="c")
            for data in pictures
        ]

    def drain(self) -> bool:
        return self.runner.drain(Queue.PREDICT, "worker/task")

    def states(self, ids: list[str]) -> list[JobState]:
        return [job(self.database, job_id).state for job_id in ids]

    def error(self, job_id: str) -> str | None:
        error = job(self.database, job_id).error
        return None if error is None else error["code"]
