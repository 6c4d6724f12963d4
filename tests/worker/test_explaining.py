"""Explain jobs against real tables: what is visible when, and who may stop what."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from core.database import Database
from core.errors import DeviceOutOfMemory
from core.explain.explanation import Explanation
from core.explain.options import ExplainOptions
from core.explain.stand_in import CHUNKS, StandInExplainer
from core.jobs import events, queries, results
from core.jobs.blobs import Picture
from core.jobs.states import JobState, MethodState, Queue
from core.jobs.submit import Submission, submit
from core.settings import Settings
from core.vision.prediction import Prediction
from core.vision.preprocessing import Preprocessing
from core.vision.stand_in import StandInEngine
from worker import explaining
from worker.leases import LeaseKeeper
from worker.runner import Runner

METHODS = ("grad_cam", "integrated_gradients", "occlusion")
During = Callable[[str, int], None]


class Explainer(StandInExplainer):
    """The stand-in, with something that happens before each chunk: ``during(method, chunk)``."""

    during: During = staticmethod(lambda method, done: None)
    calls: int = 0

    def explain(self, method: str, picture: Any, options: ExplainOptions, progress: Any) -> Explanation:
        self.calls += 1

        def watched(done: int, total: int, partial: Any) -> None:
            self.during(method, done)
            progress(done, total, partial)

        return super().explain(method, picture, options, watched)


class Bench:
    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(explaining, "PROGRESS_SECONDS", 0.0)  # every chunk is written
        settings = Settings(engine="stand-in", retry_seconds=0)
        self.engine = StandInEngine()
        self.database = database
        self.explainer = Explainer(StandInEngine())  # its own, so that the two may disagree
        self.stopping = threading.Event()
        self.keeper = LeaseKeeper(
            database, worker_id="w", queues=[Queue.EXPLAIN], lease_seconds=60, heartbeat_seconds=15
        )
        self.runner = Runner(settings, database, self.engine, self.keeper, self.stopping, self.explainer)

    def submit(self, data: bytes = b"a picture", **fields: Any) -> str:
        submission = Submission(
            picture=Picture(data, 4, 3, "image/png"),
            methods=fields.pop("methods", METHODS),
            options=ExplainOptions(**fields.pop("options", {})).model_dump(mode="json"),
        )
        with self.database.write() as session:
            return submit(session, submission, max_attempts=3)

    def drain(self) -> None:
        self.runner.drain(Queue.EXPLAIN, "w/task")

    def record(self, job_id: str) -> queries.JobRecord:
        with self.database.read() as session:
            return queries.get_job(session, job_id)

    def log(self, job_id: str) -> list[tuple[str, str | None]]:
        with self.database.read() as session:
            found = events.after(session, job_id, 0)
        assert [event.seq for event in found] == list(range(1, len(found) + 1))
        return [(event.type, event.data.get("method")) for event in found]


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(database, monkeypatch)


def states(record: queries.JobRecord) -> list[MethodState]:
    return [method.state for method in record.methods]


def test_prediction_is_visible_first_and_each_method_as_it_ends(bench: Bench) -> None:
    job_id = bench.submit()
    seen: list[tuple[str, bool, list[MethodState]]] = []

    def look(method: str, done: int) -> None:
        if done == 0:
            record = bench.record(job_id)
            seen.append((method, record.job.prediction is not None, states(record)))

    bench.explainer.during = look
    bench.drain()
    done, runs, waits = MethodState.SUCCEEDED, MethodState.RUNNING, MethodState.QUEUED
    assert seen == [
        ("grad_cam", True, [runs, waits, waits]),
        ("integrated_gradients", True, [done, runs, waits]),
        ("occlusion", True, [done, done, runs]),
    ]
    record = bench.record(job_id)
    assert record.job.state is JobState.SUCCEEDED
    assert {(a.method, a.name) for a in record.artifacts} == {
        (method, name)
        for method in METHODS
        for name in ("panel.png", "overlay.png", "heatmap.png", "attribution.npy", "layers.npz")
    }
    assert all(method.quality == {"completeness_error": 0.0, "converged": True} for method in record.methods)
    assert bench.log(job_id)[-1] == ("job.succeeded", None)


def test_what_was_explained_is_told_but_by_methods_that_need_no_picture(bench: Bench) -> None:
    job_id = bench.submit(methods=("occlusion", "kernels"))
    bench.drain()
    record = bench.record(job_id)
    prediction = record.job.prediction
    occlusion, kernels = record.methods
    assert occlusion.provenance == {
        "engine": "stand-in",
        "target": prediction["label"],
        "margin": prediction["margin"],
        "probability": prediction["scores"][prediction["label"]],
        "placement": asdict(Preprocessing(StandInEngine().manifest.input).placement(4, 3)),
    }
    assert kernels.provenance == {"engine": "stand-in"}


@pytest.mark.parametrize("answer", ["cat", "dog"])
def test_what_is_explained_is_the_answer_that_is_shown(
    bench: Bench, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the explainer would answer: two classes that are as likely may change places in bfloat16."""
    prediction = Prediction(answer, {"cat": 0.5, "dog": 0.5}, margin=0.0, logits=[0.0, 0.0])
    monkeypatch.setattr(bench.engine, "predict", lambda batch: [prediction] * len(batch))
    job_id = bench.submit(methods=("occlusion",))
    bench.drain()
    record = bench.record(job_id)
    assert record.job.prediction["label"] == record.methods[0].provenance["target"] == answer
    assert record.job.options["target"] is None  # as it was asked


def test_the_answer_and_the_same_class_asked_for_are_one_question(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.submit(methods=("occlusion", "kernels"))
    bench.drain()
    answer = bench.record(first).job.prediction["label"]
    other = {"cat": "dog", "dog": "cat"}[answer]
    same = bench.submit(methods=("occlusion", "kernels"), options={"target": answer})
    another = bench.submit(methods=("occlusion", "kernels"), options={"target": other})
    bench.drain()
    assert [method.cached for method in bench.record(same).methods] == [True, True]
    assert bench.record(same).methods[0].provenance == bench.record(first).methods[0].provenance
    assert [method.cached for method in bench.record(another).methods] == [False, True]
    assert bench.record(another).methods[0].provenance["target"] == other

    # Where the answer has changed, so has the question.
    prediction = Prediction(other, {"cat": 0.5, "dog": 0.5}, margin=0.0, logits=[0.0, 0.0])
    monkeypatch.setattr(bench.engine, "predict", lambda batch: [prediction] * len(batch))
    again = bench.submit(methods=("occlusion",))
    bench.drain()
    assert bench.record(again).methods[0].provenance["target"] == other


def test_progress_counts_up_and_its_partial_map_goes_when_the_method_ends(bench: Bench) -> None:
    job_id = bench.submit(methods=("occlusion",))
    progress: list[tuple[int, int, bool]] = []

    def look(_method: str, done: int) -> None:
        record = bench.record(job_id)
        method = record.methods[0]
        partial = any(artifact.name == "partial.png" for artifact in record.artifacts)
        progress.append((method.done, method.total, partial))

    bench.explainer.during = look
    bench.drain()
    assert progress == [(0, 0, False)] + [(done, CHUNKS, True) for done in range(CHUNKS - 1)]
    record = bench.record(job_id)
    assert "partial.png" not in {artifact.name for artifact in record.artifacts}
    assert record.methods[0].done == record.methods[0].total == CHUNKS


def test_attribution_comes_back_as_it_was_made(bench: Bench) -> None:
    job_id = bench.submit(methods=("occlusion",))
    bench.drain()
    with bench.database.read() as session:
        _, data = queries.artifact_of(session, job_id, "occlusion", "attribution.npy")
    values = np.load(io.BytesIO(data), allow_pickle=False)
    picture = StandInEngine().prepare(b"a picture")
    expected = StandInExplainer(StandInEngine()).explain(
        "occlusion", picture, ExplainOptions(), lambda *_: None
    )
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected.attribution)


def test_a_failing_method_leaves_the_others_standing(bench: Bench) -> None:
    job_id = bench.submit()

    def fail(method: str, _done: int) -> None:
        if method == "integrated_gradients":
            raise DeviceOutOfMemory("One picture alone does not fit.")

    bench.explainer.during = fail
    bench.drain()
    record = bench.record(job_id)
    assert record.job.state is JobState.PARTIAL
    assert states(record) == [MethodState.SUCCEEDED, MethodState.FAILED, MethodState.SUCCEEDED]
    assert record.methods[1].error["code"] == "device_out_of_memory"
    assert "integrated_gradients" not in {artifact.method for artifact in record.artifacts}


def test_an_unexpected_error_of_a_method_is_its_own(bench: Bench) -> None:
    job_id = bench.submit(methods=("grad_cam", "occlusion"))

    def fail(method: str, _done: int) -> None:
        if method == "grad_cam":
            raise ZeroDivisionError

    bench.explainer.during = fail
    bench.drain()
    record = bench.record(job_id)
    assert record.job.state is JobState.PARTIAL
    assert record.methods[0].error["code"] == "internal_error"


def test_cancel_stops_between_two_chunks_and_keeps_what_was_done(bench: Bench) -> None:
    job_id = bench.submit()
    chunks: list[int] = []

    def cancel(method: str, done: int) -> None:
        if method == "integrated_gradients":
            chunks.append(done)
            if done == 3:
                with bench.database.write() as session:
                    assert results.cancel(session, job_id) is JobState.CANCELING

    bench.explainer.during = cancel
    bench.drain()
    assert chunks == [0, 1, 2, 3]
    record = bench.record(job_id)
    assert record.job.state is JobState.CANCELED
    assert states(record) == [MethodState.SUCCEEDED, MethodState.CANCELED, MethodState.CANCELED]
    assert record.job.prediction is not None
    log = [type_ for type_, _ in bench.log(job_id)]
    assert log[-2:] == ["job.canceling", "job.canceled"]


def test_a_lost_job_is_left_alone(bench: Bench) -> None:
    job_id = bench.submit(methods=("occlusion",))

    def lose(_method: str, done: int) -> None:
        if done == 2:
            with bench.database.write() as session:
                from core.jobs.rescue import rescue

                rescue(session, retry_seconds=600, owner="w/task")

    bench.explainer.during = lose
    bench.drain()
    record = bench.record(job_id)
    assert record.job.state is JobState.QUEUED  # as the rescue has left it
    assert bench.log(job_id)[-1] == ("job.requeued", None)


def test_a_stopping_worker_puts_the_job_back_and_the_next_keeps_what_is_done(bench: Bench) -> None:
    job_id = bench.submit()

    def stop(method: str, done: int) -> None:
        if method == "integrated_gradients" and done == 2:
            bench.stopping.set()

    bench.explainer.during = stop
    bench.drain()
    record = bench.record(job_id)
    assert record.job.state is JobState.QUEUED
    assert record.job.max_attempts == 4
    bench.stopping.clear()
    bench.explainer.during = lambda method, done: None
    bench.explainer.calls = 0
    bench.drain()
    assert bench.record(job_id).job.state is JobState.SUCCEEDED
    assert bench.explainer.calls == 2  # Grad-CAM was done already


def test_equal_questions_are_answered_once(bench: Bench) -> None:
    first = bench.submit()
    bench.drain()
    assert bench.explainer.calls == 3
    again = bench.submit()
    other_options = bench.submit(methods=("occlusion",), options={"occlusion": {"window": 64}})
    other_picture = bench.submit(data=b"another", methods=("occlusion",))
    bench.drain()
    assert bench.explainer.calls == 5
    assert [method.cached for method in bench.record(again).methods] == [True] * 3
    assert bench.record(again).job.state is JobState.SUCCEEDED
    assert not bench.record(other_options).methods[0].cached
    assert not bench.record(other_picture).methods[0].cached
    blobs = [[a.blob_sha256 for a in bench.record(job_id).artifacts] for job_id in (first, again)]
    assert blobs[0] == blobs[1]
