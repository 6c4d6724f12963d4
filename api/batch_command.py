"""``pawlens batch``: a folder, a zip, or a list of URLs, posted as one batch and followed to its end."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.client_commands import DEFAULT_SERVER, EXIT_INTERRUPTED, ApiKey, Server, connected, pictures_in

if TYPE_CHECKING:
    from api.client import PawlensClient
    from api.client_batches import Batch

Form = Literal["csv", "jsonl", "zip"]
FORMS: dict[str, Form] = {".csv": "csv", ".jsonl": "jsonl", ".zip": "zip"}
MANIFESTS = frozenset({".csv", ".jsonl", ".ndjson"})
SHOWN_ERRORS = 10
GOOD = ("succeeded", "partial")


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR_OR_ZIP_OR_MANIFEST",
            help="A folder or zip of pictures, a .csv or .jsonl of URLs; or the id of a batch to follow.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the results go: .csv, .jsonl, or .zip (with the panels).")],
    methods: Annotated[str, typer.Option(help="Explanations to make, or `all`; none by default.")] = "",
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 goes first.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Predict, and explain, many pictures as one batch. The exit status is 1 if one of them has failed."""
    form = _form(out)
    unreadable = 0
    with connected(server, api_key) as client:
        made = client.batches.get(source) if source.startswith("batch_") else None
        if made is None:
            with _upload(Path(source)) as (kind, file, unreadable):
                names = [name for name in methods.split(",") if name]
                if kind == "archive":
                    made = client.batches.submit(archive=file, methods=names, priority=priority)
                else:
                    made = client.batches.submit(manifest=file, methods=names, priority=priority)
        try:
            made = _followed(client, made)
        except KeyboardInterrupt:
            print(
                f"Interrupted. The batch goes on; `pawlens batch {made['id']} --out {out}` follows it.",
                file=sys.stderr,
            )
            raise typer.Exit(EXIT_INTERRUPTED) from None
        try:
            client.batches.download(made["id"], out, form)
        except OSError as error:
            again = f"`pawlens batch {made['id']} --out FILE` fetches them again."
            print(f"--out {out}: {error.strerror}. The results are kept: {again}", file=sys.stderr)
            raise typer.Exit(1) from None
    _say_what_came(made, out)
    are_good = sum(made["counts"][state] for state in GOOD) == made["total"]
    raise typer.Exit(0 if are_good and not unreadable else 1)


def _form(out: Path) -> Form:
    form = FORMS.get(out.suffix.lower())
    if form is None:
        print(f"--out {out}: name a file that ends in {', '.join(FORMS)}.", file=sys.stderr)
        raise typer.Exit(2)
    if not out.resolve().parent.is_dir():
        print(f"--out {out}: there is no folder {out.resolve().parent}.", file=sys.stderr)
        raise typer.Exit(2)
    if os.path.isdir(out):  # False as well for a name that no file can have
        print(f"--out {out}: this is a folder; name a file in it.", file=sys.stderr)
        raise typer.Exit(2)
    return form


@contextmanager
def _upload(source: Path) -> Iterator[tuple[Literal["archive", "manifest"], Path, int]]:
    """What to send, and how many pictures are missing in it because they cannot be read.

    A folder becomes a zip, in which its pictures keep their names below the folder.
    """
    if source.is_dir():
        found = pictures_in(source)
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, f"{source.resolve().name}.zip")
            unreadable = _pack(found, source, archive)
            if unreadable == len(found):
                raise typer.Exit(1)
            yield "archive", archive, unreadable
    elif not source.is_file():
        print(f"There is no {source}.", file=sys.stderr)
        raise typer.Exit(1)
    else:
        yield ("manifest" if source.suffix.lower() in MANIFESTS else "archive"), source, 0


def _pack(pictures: Sequence[Path], folder: Path, archive: Path) -> int:
    """Zip them, and say which cannot be read; returns how many these are."""
    from api.connection import encodable  # noqa: PLC0415

    unreadable = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:  # pictures are compressed
        for path in pictures:
            name = encodable(str(path.relative_to(folder)))
            try:
                data = path.read_bytes()
            except OSError as error:
                print(f"{name}: Cannot read the file: {error.strerror}", file=sys.stderr)
                unreadable += 1
            else:
                # Without the file's time, of which zip knows none before 1980.
                packed.writestr(zipfile.ZipInfo(name), data)
    return unreadable


def _followed(client: PawlensClient, batch: Batch) -> Batch:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import MofNCompleteColumn, Progress  # noqa: PLC0415

    from api.client import FINAL_STATUSES, LONG_POLL_SECONDS  # noqa: PLC0415

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(batch["id"], total=batch["total"])
        while batch["status"] not in FINAL_STATUSES:
            progress.update(task, completed=batch["progress"]["done"])
            batch = client.batches.get(batch["id"], wait=LONG_POLL_SECONDS, after=batch["event_seq"])
    return batch


def _say_what_came(batch: Batch, out: Path) -> None:
    from api.connection import encodable  # noqa: PLC0415

    counts = ", ".join(f"{count} {state}" for state, count in batch["counts"].items() if count)
    print(f"{batch['id']} {batch['status']}: {counts}. Results are in {encodable(str(out))}.")
    for error in batch["errors"][:SHOWN_ERRORS]:
        named = error["name"] or error["custom_id"] or f"item {error['index']}"
        print(f"  {named}: {error['detail']}", file=sys.stderr)
    if batch["rejected"] > SHOWN_ERRORS:
        print(f"  and {batch['rejected'] - SHOWN_ERRORS} more that were not accepted.", file=sys.stderr)
