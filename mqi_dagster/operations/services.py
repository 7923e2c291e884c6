"""The services of a site: their commands and locks, starting and stopping them, leftovers of a crash."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from mqi_dagster.compute.run_workers import end_workers, fail_orphaned_runs
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.execution.code_location import LOCATION, answers, remove_sockets, socket_path
from mqi_dagster.execution.processes import (
    end_group,
    ended_by_signal,
    process_alive,
    process_id,
    resolve_program,
)
from mqi_dagster.files import remove_unchanged, write_whole
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import announce_server, ledger_url
from mqi_dagster.operations import service_locks
from mqi_dagster.operations.instance import open_instance, set_pool_limit, write_instance
from mqi_dagster.operations.logs import COLOURS
from mqi_dagster.operations.running import STARTED_AGAIN, Running, record_of, recorded
from mqi_dagster.operations.service_locks import Service, ever_held
from mqi_dagster.resources.site import SETTINGS_VARIABLE
from mqi_dagster.settings import Settings
from mqi_dagster.store.store import Store


def write_workspace(settings: Settings) -> Path:
    """Write the file that tells daemon and pages where the code location answers."""
    path = settings.paths.state / "workspace.yaml"
    entry = {"grpc_server": {"socket": str(socket_path(settings)), "location_name": LOCATION}}
    write_whole(path, json.dumps({"load_from": [entry]}, indent=1).encode())
    return path


def command_of(service: Service, settings: Settings, host: str, port: int) -> list[str]:
    """Program and arguments of a service.

    Args:
        service: Which.
        settings: Of the site.
        host: Address of Dagster's pages.
        port: Port of Dagster's pages, or of ours.
    """
    workspace = str(settings.paths.state / "workspace.yaml")
    pages = [sys.executable, "-m", "mqi_dagster.operations.page_server", "--workspace", workspace]
    pages += ["--host", host, "--port", str(port)]
    pages += ["--path-prefix", settings.ui.prefix] if settings.ui.prefix else []
    pages += [part for origin in settings.ui.origins for part in ("--origin", origin)]
    commands: dict[Service, Sequence[str]] = {
        Service.CODE: [
            *(sys.executable, "-m", "mqi_dagster.operations.code_server"),
            *("--socket", str(socket_path(settings))),
        ],
        Service.DAEMON: ["dagster-daemon", "run", "-w", workspace],
        Service.PAGES: pages,
        Service.VIEWER: [*pages, "--read-only"],
        Service.WATCH: [sys.executable, "-m", "mqi_dagster.operations.watch"],
        Service.WEB: [sys.executable, "-m", "mqi_dagster.web.server", "--port", str(port)],
    }
    program, *arguments = commands[service]
    return [str(resolve_program(program)), *arguments]


def environment_of(settings_file: Path, settings: Settings) -> dict[str, str]:
    """The environment of every service.

    Raises:
        ConfigurationError: The file with the database's password cannot be used.
    """
    announce_server(settings)
    return {
        **os.environ,
        "DAGSTER_HOME": str(settings.paths.dagster_home),
        SETTINGS_VARIABLE: str(settings_file),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }


# The pages hold calls to the code location open, for which it would wait. The watch would miss the code
# location, and with the daemon alive somebody would miss the watch.
_GRACE_SECONDS = {
    Service.WEB: 5.0,
    Service.DAEMON: 5.0,
    Service.PAGES: 3.0,
    Service.WATCH: 3.0,
    Service.CODE: 15.0,
}
"""For each service that `mqi dev` starts what its end may take, in the order in which they are ended."""
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1


class Services:
    """The services of one site, as `mqi dev` runs them.

    Args:
        settings_file: The site's settings.
        settings: Its content.
    """

    def __init__(self, settings_file: Path, settings: Settings) -> None:
        self.settings_file = settings_file.resolve()
        self._settings = settings
        self._state = settings.paths.state
        self._record = record_of(settings)
        self.logs = self._state / "logs"

    def recorded(self) -> Running | None:
        """What was started last and not ended since, alive or not."""
        return recorded(self._settings)

    def running(self) -> Running | None:
        """The services, if all of them live."""
        found = self.recorded()
        return found if found is not None and not found.dead() else None

    def any_lives(self) -> bool:
        """Whether one of them lives."""
        found = self.recorded()
        return found is not None and len(found.dead()) < len(found.processes)

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
        web = self._settings.web
        # Beside other pages than the usual ones nobody expects ours at their usual port.
        own = _usable_port(web.host, 0 if port is not None else web.port, "web.port")
        running = Running(host, number, {}, own, self._settings.ui.prefix)
        for service in reversed(_GRACE_SECONDS):
            running.processes[service] = self._start(service, running)
            self._write(running)
            if service is Service.CODE:
                _await_code(self._settings, lambda: self.require_alive(running))
        return running

    def start_again(self, running: Running) -> Running:
        """Start the watch and our own pages again where nothing else has ended.

        Args:
            running: The services as they are recorded.

        Returns:
            The services as they are then.
        """
        dead = running.dead()
        if not dead or not set(dead).issubset(STARTED_AGAIN):
            return running
        jobs = {service: self._start(service, running) for service in dead}
        again = replace(running, processes={**running.processes, **jobs})
        self._write(again)
        return again

    def await_ready(self, running: Running) -> None:
        """Return when all pages answer and the code location is loaded.

        Raises:
            InfrastructureError: A service ended, or the location cannot be loaded, or it takes too long.
        """
        limit = time.monotonic() + _READY_SECONDS
        while not (running.pages.loaded() and self._web_listens(running)):
            self.require_alive(running)
            if time.monotonic() > limit:
                raise InfrastructureError(f"the pages do not answer; their log: {self.logs}")
            time.sleep(_POLL_SECONDS)
        self.require_alive(running)

    def _web_listens(self, running: Running) -> bool:
        if Service.WEB not in running.processes:
            return True
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.web.host, self._settings.web.host)
        try:
            socket.create_connection((host, running.web_port), 1.0).close()
        except OSError:
            return False
        return True

    def require_alive(self, running: Running) -> None:
        """Check that every service lives.

        Raises:
            InfrastructureError: One has ended; with the last line of its log.
        """
        for service in running.dead():
            killed = ended_by_signal(running.processes[service])
            how = f"was ended by {killed}" if killed else f"has ended: {self.last_words(service)}"
            raise InfrastructureError(f"the service {service} {how}; its log: {self.logs / service}.log")

    def last_words(self, service: Service) -> str:
        """The last line that a service has logged."""
        try:
            lines = (self.logs / f"{service}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        plain = (COLOURS.sub("", line).strip() for line in reversed(lines))
        return next((line for line in plain if line), "it left no word")

    def stop(self) -> bool:
        """End every service and every run in its hands; whether anything was running.

        Raises:
            InfrastructureError: A process cannot be ended.
        """
        found = self.recorded()
        if found is None:
            return False
        lived = False
        for service, grace in _GRACE_SECONDS.items():
            if service in found.processes and process_alive(found.processes[service]):
                lived = True
                end_group(found.processes[service], grace)
        remove_sockets(self._settings)
        self._record.unlink(missing_ok=True)
        return lived

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off every other start and stop of this site's services."""
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / "services.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self, service: Service, running: Running) -> str:
        lock = service_locks.take(self._settings, service, by=service_locks.DEV)
        try:
            log = self.logs / f"{service}.log"
            if log.exists():
                log.rename(log.with_suffix(".log.1"))
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command_of(
                        service,
                        self._settings,
                        running.host,
                        running.web_port if service is Service.WEB else running.port,
                    ),
                    cwd=self._state,
                    env=environment_of(self.settings_file, self._settings),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        finally:
            os.close(lock)
        return process_id(process.pid)

    def _write(self, running: Running) -> None:
        write_whole(self._record, json.dumps(asdict(running), indent=1).encode())


_REST_SECONDS = 5.0
"""Between two starts of a watch that ends at once."""


class Keeper:
    """Looks after the services of one start, for a program in the foreground.

    Args:
        services: Of the site.
        running: As they were started.
        say: Told once that the watch is started again, and why.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        services: Services,
        running: Running,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._running = running
        self._say = say
        self._clock = clock
        self._rests_until = clock()

    def check(self) -> bool:
        """Start the watch and our own pages again where they alone have ended: nothing depends on them.

        Returns:
            Whether these services are at work still; else somebody has ended them.

        Raises:
            InfrastructureError: Another one died by itself; with the last line of its log.
        """
        found = self._recorded()
        dead = found.dead() if found is not None else []
        alone = set(dead).issubset(STARTED_AGAIN)
        if dead and (not alone or self._clock() >= self._rests_until):
            # `mqi stop` ends the processes before their record: only what nobody stops has died by itself.
            with self._services.alone():
                found = self._recorded()
                dead = found.dead() if found is not None else []
                if found is not None and dead and set(dead).issubset(STARTED_AGAIN):
                    words = self._services.last_words(dead[0])
                    self._services.start_again(found)
                    self._say(f"the service {dead[0]} has ended ({words}) and is started again")
                    self._rests_until = self._clock() + _REST_SECONDS
                elif found is not None:
                    self._services.require_alive(found)
        return found is not None

    def _recorded(self) -> Running | None:
        found = self._services.recorded()
        return found if self._running.same_start(found) else None


def port_is_free(host: str, port: int) -> bool:
    """Whether the pages can listen there."""
    try:
        _usable_port(host, port)
    except ConfigurationError:
        return False
    return True


def _usable_port(host: str, port: int, setting: str = "ui.port") -> int:
    """The port itself if it is free, or a free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"the pages cannot listen on {host}:{port} ({error.strerror}):"
                f" set another {setting} in mqi.yaml, or give --port (0 for a free one)"
            ) from None
        return int(probe.getsockname()[1])


_LEFT = timedelta(days=1)
"""What nothing has changed for so long is nobody's work any more."""


def clear_leftovers(settings: Settings) -> int:
    """Remove what dead workers have left half made: it costs space, and may hold copies of inputs.

    Returns:
        How many folders were removed.

    Raises:
        InfrastructureError: The site's disk cannot be read.
    """
    removed = Store(settings.paths.data).clean_staging(_LEFT)
    try:
        return removed + remove_unchanged(settings.paths.state / "work", _LEFT)
    except OSError as error:
        raise InfrastructureError(f"the work folder cannot be read: {error.strerror}") from None


def start_services(services: Services, settings: Settings, port: int | None = None) -> Running:
    """Start the services of a site and wait until its pages show the code location.

    Where they run already, nothing is started.

    Raises:
        ConfigurationError: The port is taken, or the settings do not fit.
        InfrastructureError: A service ended at once or does not answer; the others are ended then.
    """
    with services.alone():
        recorded = services.recorded()
        found = services.start_again(recorded) if recorded is not None else None
        if found is None or found.dead():
            _require_no_service_manager(settings)
            # What a crash has left over would hold the port, the socket and the slots.
            services.stop()
            _make_ready(settings, ends_runs=True)
            try:
                found = services.start(port)
                services.await_ready(found)
            except BaseException:
                services.stop()
                raise
        else:
            services.await_ready(found)
        return found


def stop_services(services: Services, settings: Settings) -> bool:
    """End the services of a site and the runs in their hands, which a later start continues.

    Returns:
        Whether anything was running.

    Raises:
        ConfigurationError: A service manager runs services of this site, and would start them again.
    """
    with services.alone():
        _require_no_service_manager(settings)
        lived = services.stop()
        if lived or ever_held(settings):
            with open_instance(settings) as instance:
                lived = end_workers(instance) > 0 or lived
                fail_orphaned_runs(instance)
        return lived


def _require_no_service_manager(settings: Settings) -> None:
    """Keep two daemons from working for one site.

    Raises:
        ConfigurationError: A service manager runs services of this site.
    """
    if running := service_locks.managed(settings):
        raise ConfigurationError(
            f"a service manager runs {', '.join(running)} of this site: systemctl stop mqi.target"
        )


def become_service(
    service: Service, settings_file: Path, settings: Settings, port: int | None = None
) -> None:
    """Turn this process into a service of the site, for a service manager to watch.

    Args:
        service: Which.
        settings_file: Of the site.
        settings: Its content.
        port: In place of the one of the settings, where it has one.

    Raises:
        ConfigurationError: The service runs already, or `mqi dev` runs the site.
        InfrastructureError: The database is away, or the code location does not answer.
    """
    if Services(settings_file, settings).any_lives():
        raise ConfigurationError("`mqi dev` runs this site: mqi stop ends it")
    service_locks.take(settings, service)
    if service is Service.CODE:
        _make_ready(settings)
    elif service not in STARTED_AGAIN:
        _await_code(settings)
    ui = settings.ui
    usual = {Service.VIEWER: ui.viewer_port, Service.WEB: settings.web.port}.get(service, ui.port)
    argv = command_of(service, settings, ui.host, usual if port is None else port)
    os.chdir(settings.paths.state)
    os.execve(argv[0], argv, environment_of(settings_file, settings))


def _make_ready(settings: Settings, *, ends_runs: bool = False) -> None:
    """What has to be so before a code location answers.

    Args:
        settings: Of the site.
        ends_runs: End the run workers that have outlived the code location before, and their runs. Otherwise
            they go on, and runs whose worker is dead are the run monitoring's.
    """
    ledger = Ledger.open(ledger_url(settings))
    write_instance(settings, ledger)
    with open_instance(settings) as instance:
        set_pool_limit(instance, settings, ledger)
        if ends_runs:
            end_workers(instance)
            fail_orphaned_runs(instance)
    clear_leftovers(settings)
    write_workspace(settings)
    remove_sockets(settings)


def _await_code(settings: Settings, require_alive: Callable[[], object] | None = None) -> None:
    """Wait for the code location: without it the others would show an error for their first half minute.

    Args:
        settings: Of the site.
        require_alive: Raises where it is known to have ended.

    Raises:
        InfrastructureError: It takes too long.
    """
    limit = time.monotonic() + _READY_SECONDS
    while not answers(socket_path(settings)):
        if require_alive is not None:
            require_alive()
        if time.monotonic() > limit:
            raise InfrastructureError("the code location does not answer; is the service `code` running?")
        time.sleep(_POLL_SECONDS)
