"""``pawlens explain``: watch the methods of one job, and keep everything that they make."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from api.client_commands import DEFAULT_SERVER, ApiKey, Server, connected

if TYPE_CHECKING:
    from api.client import Job, PawlensClient

_MARKS = {"succeeded": "[green]✓[/]", "failed": "[red]✗[/]", "canceled": "[yellow]-[/]", "skipped": "-"}


def explain(
    source: Annotated[str, typer.Argument(metavar="FILE_OR_URL")],
    out: Annotated[Path, typer.Option(help="Folder for the files that come of it.")],
    methods: Annotated[str, typer.Option(help="Names, separated by commas, or all.")] = "all",
    target: Annotated[
        str | None, typer.Option(help="Class to explain.", show_default="the predicted one")
    ] = None,
    options: Annotated[str | None, typer.Option(help="A JSON object; see GET /v1/methods.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Explain one picture: a bar for each method, and its pictures and numbers in --out."""
    names = _names(methods)
    with connected(server, api_key) as client:
        picture: Path | str = source if source.startswith(("http://", "https://")) else Path(source)
        asked = _options(options, target)
        out.mkdir(parents=True, exist_ok=True)
        job = client.submit(picture, methods=names, options=asked)
        try:
            job = _shown(client, job)
        except KeyboardInterrupt:
            client.cancel(job["id"])
            _leave("Canceled.", 130)
        kept = sum(1 for _ in _keep(client, job, out))
    from api.connection import encodable  # noqa: PLC0415

    if prediction := job["prediction"]:
        label = prediction["label"]
        print(f"{label} {prediction['scores'][label]:.1%}  {kept} files in {encodable(str(out))}")
    for problem in _problems(job):
        print(problem, file=sys.stderr)
    raise typer.Exit(0 if job["status"] == "succeeded" else 1)


def _names(methods: str) -> list[str]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        from core.explain.methods import METHODS  # noqa: PLC0415

        _leave(f"--methods names none. The methods are {', '.join(METHODS)}; or take all.", 2)
    return names


def _options(text: str | None, target: str | None) -> dict[str, Any] | None:
    try:
        options = json.loads(text) if text else {}
    except ValueError as error:
        _leave(f"--options is not JSON: {error}", 2)
    if not isinstance(options, dict):
        _leave("--options must be a JSON object.", 2)
    return options | ({"target": target} if target else {}) or None


def _shown(client: PawlensClient, job: Job) -> Job:
    """The job once it has ended, shown meanwhile."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from api.client import FINAL_STATUSES, LONG_POLL_SECONDS  # noqa: PLC0415

    columns = (TextColumn("{task.description:<22}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bars = {
            method["name"]: progress.add_task(method["name"], start=False, total=None, state="waits")
            for method in job["methods"]
        }
        while True:
            for method in job["methods"]:
                _show(progress, bars[method["name"]], method)
            if job["status"] in FINAL_STATUSES:
                return job
            job = client.job(job["id"], wait=LONG_POLL_SECONDS, after=job["event_seq"])


def _show(progress: Any, bar: Any, method: dict[str, Any]) -> None:
    status, steps = method["status"], method["progress"]
    if status == "queued":
        return
    progress.start_task(bar)
    if status == "running":
        known = {"total": steps["total"], "completed": steps["done"]} if steps["total"] else {}
        progress.update(bar, state=f"{steps['done']}/{steps['total']}" if known else "", **known)
        return
    seconds = "reused" if method["cached"] else f"{method['seconds'] or 0:.1f} s"
    progress.update(bar, total=1, completed=1, state=f"{_MARKS[status]} {seconds}")
    progress.stop_task(bar)


def _keep(client: PawlensClient, job: Job, out: Path) -> Iterator[Path]:
    """Write every artifact as OUT/METHOD.NAME, and the job itself as OUT/job.json."""
    for method in job["methods"]:
        for artifact in method["artifacts"]:
            # The names are the server's. Whatever it says, nothing is written outside of OUT.
            file = out / Path(f"{method['name']}.{artifact['name']}").name
            file.write_bytes(client.download(artifact["url"]))
            yield file
    file = out / "job.json"
    file.write_text(json.dumps(job, indent=2) + "\n")
    yield file


def _problems(job: Job) -> Iterator[str]:
    if error := job["error"]:
        yield f"The job {job['status']}: {error['detail']}"
    elif job["status"] not in ("succeeded", "partial"):
        yield f"The job is {job['status']}."
    for method in job["methods"]:
        if error := method["error"]:
            yield f"{method['name']}: {error['detail']}"


def _leave(sentence: str, code: int = 1) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise typer.Exit(code)
