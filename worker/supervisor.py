"""``pawlens up``: one process that owns everything which the service needs on one machine.

It starts the embedded Valkey, migrates the database, starts the API, the workers and beat, starts again what
dies, and stops all of it in order. It holds no job and no request: when it is killed, the kernel ends its
children, and the next start finds every job in the database.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

from core.jobs.states import Queue
from core.settings import ROOT, Settings
from worker.preflight import (
    Refusal,
    check_exposure,
    check_weights,
    listen,
    prepare_data_dir,
    sole_owner,
)
from worker.processes import Child, last_lines, rotate, rotate_open
from worker.readiness import address_of, alive_workers, complaint, readiness
from worker.roles import child_environment, command, role
from worker.signals import SignalInbox, StopNow, StopRequested
from worker.valkey import ValkeyChild

ATTEMPTS_TO_START = 5
VALKEY_SECONDS = 60.0  # reading a large append-only file takes its time
SLOW_START_SECONDS = 60.0
STARTING_TICK_SECONDS = 0.1
RUNNING_TICK_SECONDS = 1.0
ROTATE_SECONDS = 60.0


class GiveUp(Exception):
    """A part of the service cannot be started; the message carries the end of its log."""


class Supervisor:
    """Everything of one ``pawlens up``. ``say`` takes one line for the person in front of it."""

    def __init__(
        self, settings: Settings, listener: socket.socket, *, say: Callable[[str], None] | None = None
    ) -> None:
        port = listener.getsockname()[1]
        self.settings = settings = settings.model_copy(update={"port": port})
        self.listener = listener
        self.address = address_of(settings.host, port)
        self.say = say or _say
        self.logs = settings.data_dir / "logs"
        self.inbox = SignalInbox()
        self.valkey = None if settings.redis_url else ValkeyChild(settings)
        fd = listener.fileno()  # the same number in the child
        self.api = Child(role(settings, "api", "api", "--fd", str(fd), pass_fds=[fd]))
        self.workers = [Child(role(settings, queue, "worker", queue)) for queue in Queue]
        self.beat = Child(role(settings, "beat", "beat"))
        self.is_ready = False
        self._told_slow = False
        self._rotate_at = 0.0

    @property
    def children(self) -> list[Child]:
        """In the order in which they start."""
        return [*([self.valkey] if self.valkey else []), self.api, *self.workers, self.beat]

    def run(self) -> int:
        """Run the service until a signal ends it. Returns the exit status."""
        self.say(f"Pawlens {version('pawlens')}: data and logs in {self.settings.data_dir}")
        with self.inbox:
            try:
                self._start()
                while True:
                    self.inbox.wait(RUNNING_TICK_SECONDS if self.is_ready else STARTING_TICK_SECONDS)
                    self._tend()
            except StopRequested:
                self.say("Stopping; Ctrl-C again kills at once.")
                return 0
            except (GiveUp, Refusal) as error:
                self.say(str(error))
                return 1
            finally:
                self._stop()
                self.say("Stopped.")

    def _start(self) -> None:
        if self.valkey:
            self._start_valkey(self.valkey)
        else:
            self.say(f"{'redis':<9}named by PAWLENS_REDIS_URL")
        self._migrate()
        for child in self.children:
            if not child.is_running:
                child.start()

    def _start_valkey(self, valkey: ValkeyChild) -> None:
        if valkey.adopt():
            self._up(valkey, "left by an earlier run, taken over")
            return
        valkey.start()
        deadline = time.monotonic() + VALKEY_SECONDS
        while not valkey.answers():
            how = valkey.reap()
            if how or time.monotonic() > deadline:
                raise GiveUp(f"valkey does not start: {how or 'no answer'}\n{valkey.last_lines()}")
            self.inbox.wait(0.02)
        self._up(valkey, str(valkey.socket))

    def _migrate(self) -> None:
        """In a process of its own: this one stays, and need not carry SQLAlchemy and Alembic for ever."""
        started, log = time.monotonic(), self.logs / "migrate.log"
        log.parent.mkdir(exist_ok=True)
        rotate(log)
        with log.open("ab") as output:
            migration = subprocess.Popen(
                command("migrate"),
                cwd=ROOT,
                env=child_environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            while migration.poll() is None:
                self.inbox.wait(STARTING_TICK_SECONDS)
        finally:
            if migration.poll() is None:  # told to stop meanwhile: a migration is a transaction
                migration.kill()
                migration.wait()
        if migration.returncode:
            raise GiveUp(f"The database cannot be migrated:\n{last_lines(log, 20)}")
        kind = self.settings.database.partition(":")[0]
        self.say(f"{'database':<9}ready  {kind}  ({time.monotonic() - started:.1f} s)")

    def _tend(self) -> None:
        for child in self.children:
            if how := child.reap():
                self._mourn(child, how)
            if child.restart_at is not None and time.monotonic() >= child.restart_at:
                self._start_again(child)
        if time.monotonic() >= self._rotate_at:
            self._rotate_at = time.monotonic() + ROTATE_SECONDS
            self._rotate_logs()
        if not self.is_ready:
            self._look_for_readiness()

    def _start_again(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:  # no memory for another process, say, which may be what the last one died of
            child.postpone()
            self.say(f"{child.name:<9}cannot be started now: {error.strerror}")

    def _rotate_logs(self) -> None:
        for child in self.children:
            with suppress(OSError):  # a full disk must not end the service
                rotate_open(child.program.log)

    def _mourn(self, child: Child, how: str) -> None:
        if not child.was_up and child.quick_deaths >= ATTEMPTS_TO_START:
            raise GiveUp(
                f"{child.name} does not start: {how}, {child.quick_deaths} times in a row. The end of "
                f"{child.program.log}:\n{child.last_lines()}"
            )
        assert child.restart_at is not None
        pause = max(0.0, child.restart_at - time.monotonic())
        self.say(
            f"{child.name:<9}died   {how}; starting it again in {pause:.1f} s  (log: {child.program.log})"
        )

    def _look_for_readiness(self) -> None:
        report = readiness(self.address)
        if report is not None:
            alive = alive_workers(report)
            for child in (self.api, self.beat, *(w for w in self.workers if alive.get(w.name))):
                if child.is_running and not child.was_up:
                    self._up(child, self.address if child is self.api else "")
            if report["status"] == "ok" and all(child.was_up for child in self.children):
                self.is_ready = True
                self._welcome()
                return
        elapsed = time.monotonic() - self.api.started_at
        if elapsed > SLOW_START_SECONDS and not self._told_slow:
            self._told_slow = True
            self.say(f"Not ready after {elapsed:.0f} s, still waiting. {complaint(report)} Logs: {self.logs}")

    def _up(self, child: Child, detail: str) -> None:
        child.was_up = True
        seconds = time.monotonic() - child.started_at
        self.say(f"{child.name:<9}ready  {detail}{'  ' * bool(detail)}(pid {child.pid}, {seconds:.1f} s)")

    def _welcome(self) -> None:
        example = next(iter(sorted((ROOT / "tests" / "examples").glob("*.jpg"))), None)
        picture = shlex.quote(str(example)) if example else "photo.jpg"
        self.say(f"\nPawlens is ready at {self.address}   Ctrl-C stops it. Try:\n")
        needs_key = not self.settings.is_loopback and not self.settings.no_auth
        key = '-H "Authorization: Bearer $PAWLENS_API_KEY" ' if needs_key else ""
        self.say(f"  curl {key}-F file=@{picture} {self.address}/v1/jobs")
        server = "" if self.address.endswith("127.0.0.1:8000") else f" --server {self.address}"
        self.say(f"  pawlens predict {picture}{server}\n")

    def _stop(self) -> None:
        """Workers and beat first, then the API, then Valkey, which the others need until their end."""
        try:
            self._stop_together([*self.workers, self.beat])
            self.listener.close()
            self._stop_together([self.api])
            self._stop_together([self.valkey] if self.valkey else [])
        except StopNow:
            self.say("Killing everything at once.")
            for child in self.children:
                child.kill()
        finally:
            self.listener.close()
            for child in self.children:
                while child.is_running:
                    child.kill()
                    child.reap()
                    time.sleep(0.01)
            if self.valkey:
                self.valkey.clean_up()

    def _stop_together(self, children: Sequence[Child]) -> None:
        asked_at = time.monotonic()
        for child in children:
            child.terminate()
        while remaining := [child for child in children if child.is_running and not child.reap()]:
            for child in remaining:
                if time.monotonic() - asked_at > child.program.stop_seconds:
                    self.say(
                        f"{child.name:<9}does not stop within {child.program.stop_seconds:.0f} s: killed"
                    )
                    child.kill()
            self.inbox.wait(0.05, stopping=True)


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone; stopping in order matters more
        print(line, flush=True)


def up(settings: Settings) -> int:
    """Check, then run the service until it is told to stop. Returns the exit status; see :class:`Refusal`."""
    check_exposure(settings)
    prepare_data_dir(settings.data_dir)
    with sole_owner(settings.data_dir):
        check_weights(settings)
        with listen(settings.host, settings.port) as listener:
            return Supervisor(settings, listener).run()
