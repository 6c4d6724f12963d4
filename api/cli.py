"""The command ``pawlens``: starts the service or parts of it, and speaks to a running one.

Each command imports what it needs when it runs, so that ``pawlens --help`` answers at once.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from api import (
    batch_command,
    bench_command,
    client_commands,
    explain_command,
    keys_command,
    training_command,
)

if TYPE_CHECKING:
    from core.settings import Settings

app = typer.Typer(
    name="pawlens",
    help="Cat or dog, and why: an asynchronous job service around a ResNet-101.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
client_commands.add_to(app)
app.command(rich_help_panel=client_commands.PANEL)(explain_command.explain)
app.command(rich_help_panel=client_commands.PANEL)(batch_command.batch)
training_command.add_to(app)

SERVICE = "Service"
app.add_typer(keys_command.app, name="keys", rich_help_panel=SERVICE)
app.add_typer(bench_command.app, name="bench", rich_help_panel=SERVICE)

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="Port to listen on; 0 takes any free one.", show_default="8000")
]
DataDir = Annotated[
    Path | None, typer.Option("--data", help="Folder for database, queue and logs.", show_default=".pawlens")
]
NoAuth = Annotated[
    bool | None, typer.Option("--no-auth", help="Without any API key, be open to all who reach the address.")
]


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        print(f"pawlens {version('pawlens')}")
        raise typer.Exit


@app.command(rich_help_panel=SERVICE)
def up(host: Host = None, port: Port = None, data: DataDir = None, no_auth: NoAuth = None) -> None:
    """Run everything on this machine: database, queue, API, workers. Ctrl-C stops it."""
    if sys.platform == "win32":
        _refuse("`pawlens up` needs Linux or macOS. On Windows run it inside WSL, or use docker compose.")
    from worker import supervisor  # noqa: PLC0415
    from worker.preflight import Refusal  # noqa: PLC0415

    settings = load_settings(host=host, port=port, data_dir=data, no_auth=no_auth)
    try:
        raise typer.Exit(supervisor.up(settings))
    except Refusal as refusal:
        _refuse(str(refusal))
    except KeyboardInterrupt:  # before anything was started
        raise typer.Exit(0) from None


@app.command(rich_help_panel=SERVICE)
def api(
    host: Host = None,
    port: Port = None,
    no_auth: NoAuth = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="An open listening socket.")] = None,
) -> None:
    """Run the HTTP API in one process."""
    from api.app import create_app  # noqa: PLC0415
    from api.server import Server  # noqa: PLC0415
    from worker.preflight import Refusal, check_exposure, listen  # noqa: PLC0415

    settings = load_settings(host=host, port=port, no_auth=no_auth)
    try:
        check_exposure(settings)
        listener = socket.socket(fileno=fd) if fd is not None else listen(settings.host, settings.port)
    except Refusal as refusal:
        _refuse(str(refusal))
    server = Server(create_app(settings), max_connections=settings.max_connections)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has stopped in order
        server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(3)


@app.command(rich_help_panel=SERVICE)
def worker(
    queues: Annotated[list[str], typer.Argument(metavar="QUEUE...", help="predict, explain or io.")],
    name: Annotated[
        str | None,
        typer.Option(help="Tells workers of one queue on one machine apart.", show_default="the queue"),
    ] = None,
) -> None:
    """Run a Celery worker of one or more queues."""
    from core.jobs.states import Queue  # noqa: PLC0415

    wanted = list(dict.fromkeys(queues))
    if unknown := [queue for queue in wanted if queue not in list(Queue)]:
        _refuse(f"There is no queue {unknown[0]!r}. The queues are {', '.join(Queue)}.")
    from worker.roles import celery_worker  # noqa: PLC0415

    settings = load_settings()
    command, environment = celery_worker(settings, wanted, name)
    _become(settings, command, environment)


@app.command(rich_help_panel=SERVICE)
def beat() -> None:
    """Run the maintenance: rescue lost jobs, expire, hint waiting ones."""
    _become(load_settings(), [sys.executable, "-m", "worker.beat"], {})


@app.command(rich_help_panel=SERVICE)
def migrate() -> None:
    """Bring the database's tables up to date. May run in several places at once."""
    from core.errors import PawlensError  # noqa: PLC0415
    from migrations import upgrade  # noqa: PLC0415
    from worker.preflight import Refusal, prepare_data_dir  # noqa: PLC0415

    settings = load_settings()
    try:
        prepare_data_dir(settings.data_dir)
        upgrade(settings.database)
    except (Refusal, PawlensError) as error:
        _refuse(str(error))


@app.command(rich_help_panel=SERVICE)
def doctor() -> None:
    """Look for what is wrong with this installation, and say what to do about it."""
    from api import doctor as doctor_checks  # noqa: PLC0415

    raise typer.Exit(doctor_checks.report(load_settings()))


def load_settings(**given: Any) -> Settings:
    """The settings, with those options over them that were given. Leaves with a sentence if one is wrong."""
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    from core.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        _refuse(
            "\n".join(
                f"Setting {'.'.join(map(str, problem['loc']))} (PAWLENS_{str(problem['loc'][0]).upper()}): "
                f"{problem['msg']}"
                for problem in error.errors(include_url=False)
            )
        )
    except SettingsError as error:
        _refuse(str(error))
    except YAMLError as error:
        _refuse(f"The settings file is not valid YAML: {error}")


def _become(settings: Settings, command: list[str], environment: dict[str, str]) -> NoReturn:
    """Go on as another Python program, in this very process: signals and its end reach it directly."""
    from core.settings import ROOT  # noqa: PLC0415
    from worker.roles import child_environment  # noqa: PLC0415

    environment = child_environment(settings) | environment
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell, on purpose


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise typer.Exit(1)


def main() -> None:
    # What a terminal cannot show, as a file's name may be, is shown as \\xe4 instead of ending the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
