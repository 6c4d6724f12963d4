"""``pawlens predict``, ``jobs`` and ``watch``: the HTTP API from a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from api.client import PawlensClient
    from api.predictions import Outcome

PANEL = "Client"
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

Server = Annotated[str, typer.Option(envvar="PAWLENS_SERVER", help="Address of the service.")]
ApiKey = Annotated[str | None, typer.Option(envvar="PAWLENS_API_KEY", help="Sent as Authorization: Bearer.")]
DEFAULT_SERVER = "http://127.0.0.1:8000"


def add_to(app: typer.Typer) -> None:
    for command in (predict, jobs, watch):
        app.command(rich_help_panel=PANEL)(command)


def predict(
    sources: Annotated[list[str], typer.Argument(metavar="FILE_OR_URL...", help="Also folders.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, in order.")] = False,
) -> None:
    """Ask for each picture whether it is a cat or a dog. The exit status is 1 if one has failed."""
    pictures = list(_pictures(sources))
    with connected(server, api_key) as client:
        outcomes = _with_progress(client, pictures)
    failed = sum(not outcome.is_good for outcome in outcomes)
    if as_json:
        for outcome in outcomes:
            print(outcome.as_json())
    else:
        rows = [_row(outcome) for outcome in outcomes]
        _print_table(("name", "label", "probability", "margin", "ms", "job"), rows)
        if failed:
            print(f"{failed} of {len(outcomes)} failed.", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


def jobs(
    status: Annotated[list[str] | None, typer.Option(help="Only this status; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """List jobs, newest first."""
    with connected(server, api_key) as client:
        page = client.jobs(status=status or None, limit=limit)
    rows = [
        (
            job["id"],
            job["kind"],
            job["status"],
            job["created_at"][:19].replace("T", " "),
            job["name"] or job["custom_id"] or job["source_url"] or "",
            (job["prediction"] or {}).get("label") or (job["error"] or {}).get("title") or "",
        )
        for job in page["jobs"]
    ]
    _print_table(("job", "kind", "status", "created (UTC)", "name", "answer"), rows)
    if page["next_cursor"]:
        print(f"These are the newest {len(rows)}; --limit shows up to 100.", file=sys.stderr)


def watch(job_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Follow a job until it ends, one line for each change. The exit status is 1 if it has failed."""
    from api.client import FINAL_STATUSES, LONG_POLL_SECONDS  # noqa: PLC0415
    from api.predictions import Outcome  # noqa: PLC0415

    with connected(server, api_key) as client:
        job = client.job(job_id)
        print(_line(Outcome(job_id, job)), flush=True)
        while job["status"] not in FINAL_STATUSES:
            seen = job["event_seq"]
            job = client.job(job_id, wait=LONG_POLL_SECONDS, after=seen)
            if job["event_seq"] != seen:
                print(_line(Outcome(job_id, job)), flush=True)
    raise typer.Exit(0 if Outcome(job_id, job).is_good else 1)


def _line(outcome: Outcome) -> str:
    job = outcome.job or {}
    parts = [
        f"{job['event_seq']:>3}  {job['status']:<10}",
        f"{job['progress']['done']}/{job['progress']['total']}",
    ]
    if job["queue"]:
        parts.append(f"position {job['queue']['position']}")
    if prediction := job["prediction"]:
        parts.append(f"{prediction['label']} {prediction['scores'][prediction['label']]:.1%}")
    if job["error"]:
        parts.append(outcome.reason)
    return "  ".join(parts)


def _pictures(sources: Sequence[str]) -> Iterator[Path | str]:
    for source in sources:
        if source.startswith(("http://", "https://")):
            yield source
        elif Path(source).is_dir():
            yield from pictures_in(Path(source))
        else:
            yield Path(source)


def pictures_in(folder: Path) -> list[Path]:
    """The files in it, and below it, that are pictures by their names. Without any the command ends."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        print(f"{folder} holds no .jpg, .png or .webp.", file=sys.stderr)
        raise typer.Exit(1)
    return found


@contextmanager
def connected(server: str, api_key: str | None) -> Iterator[PawlensClient]:
    """A client of a server that answers; whatever goes wrong with it, or with a file that is sent or written,
    ends the command with one sentence.
    """
    from api.client import ApiError, NoServer, PawlensClient  # noqa: PLC0415
    from api.connection import InvalidKey, encodable  # noqa: PLC0415

    try:
        with PawlensClient(server, api_key) as client:
            client.ping()
            yield client
    except NoServer as error:
        print(
            f"No Pawlens answers ({error}). Start one with `pawlens up`, or name another with --server URL.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    except ApiError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    except InvalidKey as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        if error.filename is None:  # a pipe that nobody reads any more, which typer knows
            raise
        print(f"{encodable(os.fsdecode(error.filename))}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from None


def _with_progress(client: PawlensClient, pictures: Sequence[Path | str]) -> list[Outcome]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import MofNCompleteColumn, Progress  # noqa: PLC0415

    from api.predictions import predict_all  # noqa: PLC0415

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        sent = progress.add_task("sent", total=len(pictures))
        done = progress.add_task("answered", total=len(pictures))
        try:
            return predict_all(
                client,
                pictures,
                on_sent=lambda: progress.advance(sent),
                on_done=lambda: progress.advance(done),
            )
        except KeyboardInterrupt:
            progress.stop()
            print("Interrupted. What was sent goes on: see `pawlens jobs`.", file=sys.stderr, flush=True)
            os._exit(EXIT_INTERRUPTED)  # threads that hold a long poll cannot be ended otherwise


def _row(outcome: Outcome) -> tuple[str, ...]:
    name = outcome.source if "://" in outcome.source else Path(outcome.source).name
    job = outcome.job or {}
    if not outcome.is_good:
        return name, outcome.reason, "", "", "", job.get("id", "")
    prediction = job["prediction"]
    probability = f"{prediction['scores'][prediction['label']]:.4f}"
    # From posted to ended, by the server's clock.
    took = datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["created_at"])
    milliseconds = f"{took.total_seconds() * 1000:.0f}"
    return name, prediction["label"], probability, f"{prediction['margin']:.2f}", milliseconds, job["id"]


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("probability", "margin", "ms")
        table.add_column(
            column,
            justify="right" if numeric else "left",
            no_wrap=numeric or column == "job",
            overflow="fold",
        )
    for row in rows:
        # Text: a file's name is no markup. It may have line breaks, though, and so may a server's sentence.
        table.add_row(*(Text(" ".join(cell.splitlines())) for cell in row))
    # Into a file or a pipe each row stays on one line.
    Console(width=None if sys.stdout.isatty() else sys.maxsize).print(table)
