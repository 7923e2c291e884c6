"""Starting and stopping a site as a whole: limits, leftovers of a crash, services."""

from __future__ import annotations

from datetime import timedelta

from mqi_dagster.cli.instance import fail_orphaned_runs, open_instance, set_pool_limit, write_instance
from mqi_dagster.cli.services import Running, Services
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings
from mqi_dagster.store.files import remove_unchanged
from mqi_dagster.store.store import Store

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
        found = services.running()
        if found is None:
            # What a crash has left over would hold the port, the socket and the slots.
            services.stop()
            write_instance(settings)
            with open_instance(settings) as instance:
                set_pool_limit(instance, settings, Site(services.settings_file).ledger)
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
    """
    with services.alone():
        lived = services.stop()
        if lived:
            with open_instance(settings) as instance:
                fail_orphaned_runs(instance)
        return lived
