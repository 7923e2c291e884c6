"""Starting and stopping a site as a whole: limits, leftovers of a crash, services."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from mqi_dagster.cli import service_locks
from mqi_dagster.cli.instance import open_instance, set_pool_limit, write_instance
from mqi_dagster.cli.service_locks import Service
from mqi_dagster.cli.service_process import command_of, environment_of, write_workspace
from mqi_dagster.cli.services import Running, Services
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.execution.code_location import answers, socket_path
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.place import ledger_url
from mqi_dagster.sensors.run_workers import end_workers, fail_orphaned_runs
from mqi_dagster.settings import Settings
from mqi_dagster.store.files import remove_unchanged
from mqi_dagster.store.store import Store

_LEFT = timedelta(days=1)
"""What nothing has changed for so long is nobody's work any more."""
_CODE_SECONDS = 120.0
_POLL_SECONDS = 0.2


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
        found = services.start_watch_again(recorded) if recorded is not None else None
        if found is None or found.dead():
            require_no_service_manager(settings)
            # What a crash has left over would hold the port, the socket and the slots.
            services.stop()
            ledger = Ledger.open(ledger_url(settings))
            write_instance(settings, ledger)
            with open_instance(settings) as instance:
                set_pool_limit(instance, settings, ledger)
                # Those that have outlived a killed code location would go on beside their successors.
                end_workers(instance)
                fail_orphaned_runs(instance)
            clear_leftovers(settings)
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
        require_no_service_manager(settings)
        lived = services.stop()
        if lived or service_locks.ever_held(settings):
            with open_instance(settings) as instance:
                lived = end_workers(instance) > 0 or lived
                fail_orphaned_runs(instance)
        return lived


def require_no_service_manager(settings: Settings) -> None:
    """Keep two daemons from working for one site.

    Raises:
        ConfigurationError: A service manager runs services of this site.
    """
    if running := service_locks.held(settings):
        raise ConfigurationError(
            f"a service manager runs {', '.join(running)} of this site: systemctl stop mqi.target"
        )


def become_service(service: Service, settings_file: Path, settings: Settings) -> None:
    """Turn this process into a service of the site, for a service manager to watch.

    Raises:
        ConfigurationError: The service runs already, or `mqi dev` runs the site.
        InfrastructureError: The database is away, or the code location does not answer.
    """
    found = Services(settings_file, settings).recorded()
    if found is not None and len(found.dead()) < len(found.processes):
        raise ConfigurationError("`mqi dev` runs this site: mqi stop ends it")
    service_locks.take(settings, service)
    if service is Service.CODE:
        _make_ready(settings)
    elif service is not Service.WATCH:
        _await_code(settings)
    ui = settings.ui
    port = ui.viewer_port if service is Service.VIEWER else ui.port
    argv = command_of(service, settings, ui.host, port)
    os.chdir(settings.paths.state)
    os.execve(argv[0], argv, environment_of(settings_file, settings))


def _make_ready(settings: Settings) -> None:
    """What has to be so before a code location answers.

    Run workers may have outlived the one before, and are left alone. Runs whose worker is dead are the
    reaper's: failed now, they would be lost, since the daemon can retry them only through a code location.
    """
    ledger = Ledger.open(ledger_url(settings))
    write_instance(settings, ledger)
    with open_instance(settings) as instance:
        set_pool_limit(instance, settings, ledger)
    clear_leftovers(settings)
    write_workspace(settings)
    socket_path(settings).unlink(missing_ok=True)


def _await_code(settings: Settings) -> None:
    """Wait for the code location: without it the others would show an error for their first half minute."""
    limit = time.monotonic() + _CODE_SECONDS
    while not answers(socket_path(settings)):
        if time.monotonic() > limit:
            raise InfrastructureError("the code location does not answer; is the service `code` running?")
        time.sleep(_POLL_SECONDS)
