"""``pawlens keys``: make, list and revoke API keys, on this machine and straight in the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer(help="API keys: who may use the service.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For you to tell keys apart.")],
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests a second.", show_default="the setting rate_per_second"),
    ] = None,
) -> None:
    """Make a key and print its secret, once: only a digest of it is kept."""
    from core import keys  # noqa: PLC0415

    with _writing(make=True) as session:
        key, secret = keys.create(session, name, rate_per_second=rate)
        key_id = key.id
    # Alone on standard output, so that a script can take it.
    print(secret)
    print(
        f"This is the secret of {name} ({key_id}), and it will not be shown again. Send it as\n"
        "`Authorization: Bearer pk_...`; the command line takes it from PAWLENS_API_KEY. From now on every\n"
        "request needs a key; what was posted without one belongs to none.",
        file=sys.stderr,
    )


@app.command("list")
def list_keys() -> None:
    """List all keys, the revoked ones too."""
    from core import keys  # noqa: PLC0415

    with _writing() as session:
        rows = [
            (
                key.id,
                key.name,
                "" if key.rate_per_second is None else f"{key.rate_per_second:g}/s",
                _minute(key.created_at),
                _minute(key.last_used_at) or "never",
                _minute(key.revoked_at),
            )
            for key in keys.listed(session)
        ]
    table = [("id", "name", "rate", "created (UTC)", "last used", "revoked"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def revoke(name_or_id: str) -> None:
    """End a key for good, within seconds. Its jobs stay."""
    from core import keys  # noqa: PLC0415

    with _writing() as session:
        key = keys.revoke(session, name_or_id)
        line = f"Revoked {key.name} ({key.id})."
        is_last = not keys.exist(session)
    print(line)
    if is_last:
        print(
            "It was the last one: a service on loopback, or with --no-auth, is open to everyone now.",
            file=sys.stderr,
        )


def _minute(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"


@contextmanager
def _writing(*, make: bool = False) -> Iterator[Session]:
    """A transaction on the database, which is made and migrated first if ``make`` says so.

    Whatever goes wrong ends the command with one sentence.
    """
    import migrations  # noqa: PLC0415
    from api.cli import load_settings  # noqa: PLC0415
    from core.database import Database  # noqa: PLC0415
    from core.errors import PawlensError  # noqa: PLC0415
    from worker.preflight import Refusal, prepare_data_dir  # noqa: PLC0415

    settings = load_settings()
    try:
        if make:
            prepare_data_dir(settings.data_dir)
            migrations.upgrade(settings.database)
        else:
            _check_database(settings.database)
        database = Database(settings.database, pool_size=1)
        try:
            with database.write() as session:
                yield session
        finally:
            database.dispose()
    except (Refusal, PawlensError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def _check_database(url: str) -> None:
    import migrations  # noqa: PLC0415
    from worker.preflight import Refusal  # noqa: PLC0415

    kind, _, file = url.partition(":///")
    if kind.startswith("sqlite") and not Path(file).exists():
        raise Refusal(f"There is no database {file} yet. `pawlens keys create NAME` makes it.")
    if migrations.current(url) != migrations.head():
        raise Refusal("The database's tables are not those of this version. Run `pawlens migrate`.")
