"""The services of a site: code location, daemon and pages, each in a session of its own.

A signal to a whole process group ends runs in work, so the services never share one with the terminal. They
are known by pid and start time, so that nobody else's process is ever ended.
"""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mqi_dagster.cli.pages import Pages
from mqi_dagster.cli.service_locks import Service
from mqi_dagster.cli.service_process import command_of, environment_of, write_workspace
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.execution.code_location import answers, socket_path
from mqi_dagster.execution.processes import end_group, process_alive, process_id
from mqi_dagster.settings import Settings
from mqi_dagster.store.files import write_atomically

CODE, DAEMON, WEBSERVER, WATCH = "code-location", "daemon", "pages", "watch"
_STARTED = {CODE: Service.CODE, DAEMON: Service.DAEMON, WEBSERVER: Service.PAGES, WATCH: Service.WATCH}
# The pages hold calls to the code location open, for which it would wait. The watch would miss the code
# location, and with the daemon alive somebody would miss the watch.
_ORDER_OF_END = (DAEMON, WEBSERVER, WATCH, CODE)
_GRACE_SECONDS = {DAEMON: 5.0, CODE: 15.0, WEBSERVER: 3.0, WATCH: 3.0}
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Running:
    """The services as they were started."""

    host: str
    port: int
    processes: dict[str, str]
    """``<pid>:<start time>`` by service."""

    @property
    def pages(self) -> Pages:
        """Dagster's pages."""
        return Pages(self.host, self.port)

    def dead(self) -> list[str]:
        """The services that do not live any more."""
        return [name for name, job in self.processes.items() if not process_alive(job)]

    def same_start(self, other: Running | None) -> bool:
        """Whether both are of one start of the services, in which the watch may have been started again."""
        if other is None:
            return False
        mine, theirs = ({**one.processes, WATCH: ""} for one in (self, other))
        return (self.host, self.port, mine) == (other.host, other.port, theirs)


class Services:
    """The services of one site.

    Args:
        settings_file: The site's settings.
        settings: Its content.
    """

    def __init__(self, settings_file: Path, settings: Settings) -> None:
        self.settings_file = settings_file.resolve()
        self._settings = settings
        self._state = settings.paths.state
        self._record = self._state / "services.json"
        self.logs = self._state / "logs"

    def recorded(self) -> Running | None:
        """What was started last and not ended since, alive or not."""
        try:
            content = json.loads(self._record.read_text(encoding="utf-8"))
            return Running(str(content["host"]), int(content["port"]), dict(content["processes"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InfrastructureError("the record of the services (services.json) is damaged") from error

    def running(self) -> Running | None:
        """The services, if all of them live."""
        found = self.recorded()
        return found if found is not None and not found.dead() else None

    def start(self, port: int | None = None) -> Running:
        """Start the services; they are not ready yet when this returns.

        Args:
            port: Port of the pages in place of ``ui.port``; 0 for a free one.

        Raises:
            ConfigurationError: Somebody else listens on the port.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        host = self._settings.ui.host
        wanted = self._settings.ui.port if port is None else port
        number = _usable_port(host, wanted)
        code_socket = socket_path(self._settings)
        code_socket.unlink(missing_ok=True)
        write_workspace(self._settings)
        commands = {
            name: command_of(service, self._settings, host, number) for name, service in _STARTED.items()
        }
        started: dict[str, str] = {}
        for name, command in commands.items():
            started[name] = self._start(name, command)
            if name == CODE:
                # The others would show a location that failed to load for their first half minute.
                self._await_socket(code_socket, started[CODE])
            self._write(Running(host, number, started))
        return Running(host, number, started)

    def start_watch_again(self, running: Running) -> Running:
        """Start the watch again where it alone has ended: nothing that is at work needs it.

        Args:
            running: The services as they are recorded.

        Returns:
            The services as they are then.
        """
        if running.dead() != [WATCH]:
            return running
        command = command_of(_STARTED[WATCH], self._settings, running.host, running.port)
        again = replace(running, processes={**running.processes, WATCH: self._start(WATCH, command)})
        self._write(again)
        return again

    def await_ready(self, running: Running) -> None:
        """Return when the pages answer and the code location is loaded.

        Raises:
            InfrastructureError: A service ended, or the location cannot be loaded, or it takes too long.
        """
        limit = time.monotonic() + _READY_SECONDS
        while not running.pages.loaded():
            self.require_alive(running)
            if time.monotonic() > limit:
                raise InfrastructureError(f"the pages do not answer; their log: {self.logs}")
            time.sleep(_POLL_SECONDS)
        self.require_alive(running)

    def require_alive(self, running: Running) -> None:
        """Check that every service lives.

        Raises:
            InfrastructureError: One has ended; with the last line of its log.
        """
        for name in running.dead():
            raise InfrastructureError(
                f"the service {name} has ended: {self.last_words(name)}; its log: {self.logs / name}.log"
            )

    def last_words(self, name: str) -> str:
        """The last line that a service has logged."""
        try:
            lines = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "it left no word")

    def stop(self) -> bool:
        """End every service and every run in its hands; whether anything was running.

        Raises:
            InfrastructureError: A process cannot be ended.
        """
        found = self.recorded()
        if found is None:
            return False
        lived = False
        for name in _ORDER_OF_END:
            if name in found.processes and process_alive(found.processes[name]):
                lived = True
                end_group(found.processes[name], _GRACE_SECONDS[name])
        socket_path(self._settings).unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        return lived

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off every other start and stop of this site's services."""
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / "services.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self, name: str, command: list[str]) -> str:
        log = self.logs / f"{name}.log"
        if log.exists():
            log.rename(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self._state,
                env=environment_of(self.settings_file, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process_id(process.pid)

    def _await_socket(self, path: Path, job: str) -> None:
        limit = time.monotonic() + _READY_SECONDS
        while not answers(path):
            if not process_alive(job):
                raise InfrastructureError(
                    f"the code location cannot be loaded: {self.last_words(CODE)};"
                    f" its log: {self.logs / CODE}.log"
                )
            if time.monotonic() > limit:
                raise InfrastructureError(f"the code location does not answer; its log: {self.logs}")
            time.sleep(_POLL_SECONDS)

    def _write(self, running: Running) -> None:
        write_atomically(self._record, json.dumps(asdict(running), indent=1).encode())


def port_is_free(host: str, port: int) -> bool:
    """Whether the pages can listen there."""
    try:
        _usable_port(host, port)
    except ConfigurationError:
        return False
    return True


def _usable_port(host: str, port: int) -> int:
    """The port itself if it is free, or a free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"the pages cannot listen on {host}:{port} ({error.strerror}):"
                " set another ui.port in mqi.yaml, or give --port (0 for a free one)"
            ) from None
        return int(probe.getsockname()[1])
