"""A capacity plan for a person: each figure, and what it comes from."""

from __future__ import annotations

from rich.table import Table

from core.capacity import MONTH_HOURS, Figures, Plan, Workers


def plan_table(plan: Plan, figures: Figures) -> Table:
    demand, engine, storage = plan.demand, figures.engine, figures.storage
    table = Table("what", "needed", "from", title_justify="left")
    table.title = (
        f"{demand.predictions_per_day:,.0f} predictions and {demand.explanations_per_day:,.0f} explanations "
        f"a day, {demand.peak_factor:g} times as many in the busiest hour"
    )
    unit = "GPUs" if engine.on_gpu else "machines"
    share = f"{demand.utilisation:.0%}"
    for queue, workers in {"predict": plan.predict, "explain": plan.explain}.items():
        if workers.count:
            _add_workers(table, workers, queue, unit, share)
    if engine.on_gpu:
        source = f"{engine.from_bytes.decode_milliseconds:.1f} ms to decode a picture on one core"
        table.add_row("cores beside the GPUs", f"{plan.decoding_cores / demand.utilisation:.1f}", source)
        source = f"one process reads {engine.from_bytes.pictures_per_second:.0f} pictures a second"
        table.add_row("predict workers on a GPU", str(engine.workers_per_gpu), source)
    elif plan.predict.count and plan.explain.count:
        busy = plan.predict.erlangs + plan.explain.erlangs
        table.add_row(f"{unit}, if all do both", str(plan.shared), f"{busy:.2f} busy; at {share}")
    posts = plan.predict.arrivals + plan.explain.arrivals
    source = f"{posts:.3g} POSTs a second at the peak; a process accepts {storage.posts_per_second:.0f}"
    table.add_row("API processes", str(plan.api_processes), source)

    # SQLite serves one machine.
    databases = [name for name in storage.databases if name != "sqlite" or plan.shared <= 1]
    table.add_section()
    table.add_row("rows kept", f"{plan.rows:,}", f"{demand.retention_days:g} days")
    for name in databases:
        each = storage.databases[name].predict.bytes / 1000, storage.databases[name].explain.bytes / 1000
        source = f"{each[0]:.1f} kB a prediction, {each[1]:.1f} kB an explanation"
        table.add_row(f"rows and indexes, {name}", size_text(plan.database_bytes[name]), source)
    source = f"{demand.picture_bytes / 1000:.0f} kB each, if no two are equal"
    table.add_row("pictures", size_text(plan.picture_bytes), source)
    if plan.artifact_bytes:
        megabytes = plan.artifact_bytes / (demand.explanations_per_day * demand.retention_days) / 1e6
        table.add_row("artifacts", size_text(plan.artifact_bytes), f"{megabytes:.1f} MB an explanation")
    for name in databases:
        overhead = storage.databases[name].blob_overhead
        source = f"all three; a byte of pictures and artifacts takes {overhead:.2f}"
        table.add_row(
            f"disk in all, {name}", size_text(plan.database_bytes[name] + plan.blob_bytes[name]), source
        )
    source = f"{storage.most_hints:,} hints, the most that wait"
    table.add_row("Redis memory", size_text(plan.broker_bytes), source)

    if plan.monthly_cost is not None:
        table.add_section()
        source = (
            f"{plan.predict.count + plan.explain.count} {unit} x {demand.price_per_hour:g} x {MONTH_HOURS} h"
        )
        table.add_row("cost a month", f"{plan.monthly_cost:,.2f}", f"{source}; without disk and API")
        table.add_row("cost of 1,000 jobs", f"{plan.cost_per_thousand_jobs:,.3g}", "")
    table.caption = f"Figures: {engine.described}, {engine.measured_at}"
    return table


def _add_workers(table: Table, workers: Workers, queue: str, unit: str, share: str) -> None:
    work = f"{workers.arrivals:.3g} a second at the peak x {_seconds(workers.seconds)}"
    table.add_row(
        f"{unit} for {queue}", str(workers.count), f"{work} = {workers.erlangs:.2f} busy; at {share}"
    )
    wait = f"on average at the peak; 95 % wait less than {_seconds(workers.wait_p95)}"
    table.add_row("   wait for one", _seconds(workers.wait_mean), wait)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size_text(size: float) -> str:
    """In units of 1,000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
