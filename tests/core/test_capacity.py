from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.capacity import (
    DAY,
    MONTH_HOURS,
    SHIPPED,
    Demand,
    Figures,
    erlang_c,
    plan,
    waits,
    workers_for,
)
from core.explain.methods import METHODS


def figures(**engine: Any) -> Figures:
    """A machine that predicts ten pictures a second, from files eight; an explanation takes 2 + 3 s."""
    method = {"artifact_bytes": {"panel.png": 600_000, "heatmap.png": 400_000}}
    made: dict[str, Any] = {
        "measured_at": "2026-01-01",
        "machine": {"cores": 2, "processor": "P"},
        "engine": {"device": "cpu"},
        "best_batch": 16,
        "pictures_per_second": 10.0,
        "from_bytes": {"pictures_per_second": 8.0, "decode_milliseconds": 25.0},
        "explain": {"grad_cam": method | {"seconds": 2.0}, "occlusion": method | {"seconds": 3.0}},
    }
    database = {
        "predict": {"rows": 6, "bytes": 2000},
        "explain": {"rows": 60, "bytes": 20_000},
        "blob_overhead": 1.5,
    }
    storage = {
        "databases": {"sqlite": database},
        "posts_per_second": 100,
        "broker_bytes": 1000,
        "hint_bytes": 10,
        "most_hints": 50,
    }
    return Figures.model_validate({"engine": made | engine, "storage": storage})


# ---- queueing theory


def test_erlang_c_of_one_worker_is_its_utilisation() -> None:
    assert erlang_c(0.3, 1) == pytest.approx(0.3)


@pytest.mark.parametrize(("erlangs", "workers"), [(1.5, 2), (4, 6), (8, 10)])
def test_erlang_c_equals_its_textbook_sum(erlangs: float, workers: int) -> None:
    last = erlangs**workers / math.factorial(workers) / (1 - erlangs / workers)
    others = sum(erlangs**count / math.factorial(count) for count in range(workers))
    assert erlang_c(erlangs, workers) == pytest.approx(last / (others + last))


def test_erlang_c_of_thousands_of_workers_neither_overflows_nor_vanishes() -> None:
    assert 0 < erlang_c(2000, 2020) < 1


def test_one_worker_waits_as_the_textbook_says() -> None:
    """M/M/1: mean wait = rho / (1 - rho) x service time; P(W > t) = rho exp(-(1 - rho) t / service time)."""
    mean, p95 = waits(arrivals=0.35, seconds=2.0, workers=1)
    assert mean == pytest.approx(0.7 / 0.3 * 2)
    assert 0.7 * math.exp(-0.3 * p95 / 2) == pytest.approx(0.05)


def test_a_queue_that_grows_without_end_has_no_mean() -> None:
    assert waits(arrivals=1, seconds=2, workers=2) == (math.inf, math.inf)


def test_nobody_waits_where_nothing_arrives() -> None:
    assert waits(arrivals=0, seconds=2, workers=0) == (0, 0)


@pytest.mark.parametrize(
    ("erlangs", "utilisation", "count"),
    [(0, 0.7, 0), (1e-12, 0.7, 1), (0.7, 0.7, 1), (0.71, 0.7, 2), (2.1, 0.7, 3)],
)
def test_the_fewest_workers_that_stay_below_the_utilisation(
    erlangs: float, utilisation: float, count: int
) -> None:
    assert workers_for(erlangs, utilisation) == count


# ---- the plan


def test_predictions_on_a_cpu_share_it_with_decoding() -> None:
    made = plan(Demand(predictions_per_day=DAY * 14, explanations_per_day=0, peak_factor=2), figures())
    assert made.predict.arrivals == pytest.approx(28)
    assert made.predict.erlangs == pytest.approx(28 / 8)
    assert made.predict.count == 5  # 3.5 busy of 5 are 70 %
    assert made.predict.wait_p95 == pytest.approx(16 / 8)  # the batch before it
    assert made.explain.count == 0
    assert made.decoding_cores == 0


def test_beside_a_gpu_other_cores_decode() -> None:
    gpu = figures(engine={"device": "cuda"}, machine={"accelerator": {"name": "G"}})
    made = plan(Demand(predictions_per_day=DAY * 7, explanations_per_day=0, peak_factor=4), gpu)
    assert made.predict.erlangs == pytest.approx(28 / 10)
    assert made.decoding_cores == pytest.approx(28 * 0.025)
    assert gpu.engine.workers_per_gpu == 2  # 10 a second by the GPU, 8 read by each
    assert figures().engine.workers_per_gpu == 1


def test_an_explanation_is_its_methods_and_a_prediction() -> None:
    demand = Demand(predictions_per_day=0, explanations_per_day=DAY / 10, peak_factor=5)
    made = plan(demand, figures())
    assert made.explain.seconds == pytest.approx(2 + 3 + 1 / 8)
    assert made.explain.erlangs == pytest.approx(0.5 * 5.125)
    assert made.explain.count == 4
    fewer = plan(replace(demand, methods=("grad_cam",)), figures())
    assert fewer.explain.seconds == pytest.approx(2 + 1 / 8)
    assert fewer.artifact_bytes == made.artifact_bytes / 2


def test_both_queues_together_need_no_more_than_each_alone() -> None:
    made = plan(Demand(DAY * 2, DAY / 100, peak_factor=1), figures())
    assert made.predict.count == made.explain.count == 1
    assert made.shared == 1  # 0.25 and 0.05 busy


def test_disk_is_what_is_kept_for_the_retention() -> None:
    demand = Demand(1000, 10, retention_days=30, picture_bytes=500)
    made = plan(demand, figures())
    assert made.rows == 30 * (1000 * 6 + 10 * 60)
    assert made.database_bytes == {"sqlite": 30 * (1000 * 2000 + 10 * 20_000)}
    assert made.picture_bytes == 30 * 1010 * 500
    assert made.artifact_bytes == 30 * 10 * 2_000_000
    assert made.blob_bytes == {"sqlite": (made.picture_bytes + made.artifact_bytes) * 1.5}


def test_api_processes_come_from_posts_at_the_peak() -> None:
    made = plan(Demand(DAY * 80, 0, peak_factor=1), figures())
    assert made.api_processes == 2  # 80 of 100 a second are more than 70 %


def test_redis_holds_the_most_hints_that_ever_wait() -> None:
    assert plan(Demand(1, 0), figures()).broker_bytes == 1000 + 50 * 10


def test_money_is_workers_times_hours() -> None:
    made = plan(Demand(DAY * 14, 0, peak_factor=2, price_per_hour=3), figures())
    assert made.monthly_cost == 5 * 3 * MONTH_HOURS
    assert made.cost_per_thousand_jobs == pytest.approx(
        made.monthly_cost / (DAY * 14 * MONTH_HOURS / 24) * 1000
    )
    assert plan(Demand(1, 0), figures()).monthly_cost is None


def test_a_method_without_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="no method 'lime'; there are grad_cam, occlusion"):
        plan(Demand(1, 1, methods=("lime",)), figures())


# ---- the figures' files


def test_the_shipped_figures_are_whole_and_say_where_they_were_measured() -> None:
    shipped = Figures.read()
    assert set(shipped.engine.explain) == set(METHODS)
    assert set(shipped.storage.databases) == {"sqlite", "postgresql"}
    assert shipped.engine.described.startswith(("machine with ", "GPU "))
    assert shipped.engine.measured_at.startswith("20")


def test_figures_of_an_engine_take_the_place_of_the_shipped_ones(tmp_path: Path) -> None:
    content = json.loads(SHIPPED.read_text())["engine"] | {"pictures_per_second": 12345.0}
    file = tmp_path / "engine.json"
    file.write_text(json.dumps(content))
    assert Figures.read(file).engine.pictures_per_second == 12345
    assert Figures.read(file).storage == Figures.read().storage


def test_figures_of_make_bench_may_have_either_part_and_more(tmp_path: Path) -> None:
    content = json.loads(SHIPPED.read_text())
    content["storage"]["posts_per_second"] = 77
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"storage": content["storage"], "commit": "abc", "fidelity": {}}))
    assert Figures.read(file).storage.posts_per_second == 77
    assert Figures.read(file).engine == Figures.read().engine


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"rates": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - json's and pydantic's are ValueErrors of their own
        Figures.read(file)
