"""`mqi case retry`: what failed of a case or beam runs once more, in the running services."""

from collections.abc import Sequence
from contextlib import suppress

import dagster as dg

from mqi_dagster.assets.jobs import BEAM_ASSETS, CASE_ASSETS
from mqi_dagster.cli.graphql import GraphQL
from mqi_dagster.cli.pages import Pages
from mqi_dagster.cli.services import Services
from mqi_dagster.errors import InfrastructureError, InputError, MqiError, Where
from mqi_dagster.partitions import beam_key, split_beam_key, split_case_key
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist.manifests import manifest_of
from mqi_dagster.worklist.run_history import LatestRun, RunState, latest_run

_RETRIED = (RunState.FAILED, RunState.AGAIN, RunState.CANCELLED)


def services_of(site: Site) -> GraphQL:
    """The site's services as `mqi dev` has started them, or where the settings say that they are."""
    running = Services(site.settings_file, site.settings).running()
    ui = site.settings.ui
    return GraphQL((running.pages if running is not None else Pages(ui.host, ui.port)).address)


def partitions_of(instance: dg.DagsterInstance, site: Site, name: str, beam: int | None) -> list[str]:
    """The partitions that a case key, with a BeamNumber where one is wanted, or a beam key names.

    Raises:
        InputError: There is no such case or beam.
    """
    if "__" in name:
        case, number = _split(name)
        if beam is not None and beam != number:
            raise InputError(f"{name} is beam {number}, not beam {beam}")
        beam = number
    else:
        case = name
        _require_case_key(case)
    manifest = manifest_of(instance, site, case)
    if manifest is None:
        if beam is None and (site.ledger.arrival(case) or latest_run(instance, case).run_id):
            return [case]
        raise InputError("the case is not known here, or has not been taken in", where=Where(case=case))
    present = sorted(entry.number for entry in manifest.beams)
    if beam is None:
        return [case, *(beam_key(case, number) for number in present)]
    if beam not in present:
        raise InputError(f"the case holds no delivery of beam {beam}", where=Where(case=case))
    return [beam_key(case, beam)]


def _split(name: str) -> tuple[str, int]:
    try:
        return split_beam_key(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def _require_case_key(name: str) -> None:
    try:
        split_case_key(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def retry(instance: dg.DagsterInstance, services: GraphQL, partitions: Sequence[str]) -> dict[str, str]:
    """Launch anew what failed or was cancelled of some partitions.

    A run that the services know is re-executed from its failure. One that `mqi case run` has executed, or
    that its operator has cancelled, is repeated as a backfill: what was made before is found in the store.

    Returns:
        Run or backfill id by partition.

    Raises:
        InputError: Nothing failed.
        MqiError: The services cannot be reached, or refuse.
    """
    latest = {partition: latest_run(instance, partition) for partition in partitions}
    failed = {partition: run for partition, run in latest.items() if run.state in _RETRIED}
    if not failed:
        raise InputError(_nothing(latest))
    launched: dict[str, str] = {}
    for partition, run in failed.items():
        try:
            launched[partition] = _launch(services, partition, run)
        except MqiError as error:
            done = f" (launched before: {', '.join(launched)})" if launched else ""
            raise type(error)(f"{partition}: {error.message}{done}") from None
    return launched


def _nothing(latest: dict[str, LatestRun]) -> str:
    going_on = [name for name, run in latest.items() if run.state in (RunState.WAITING, RunState.WORKING)]
    if going_on:
        return f"nothing to retry: {', '.join(going_on)} is still in work and nothing has failed"
    return "nothing to retry: nothing has failed"


def _launch(services: GraphQL, partition: str, run: LatestRun) -> str:
    if run.known_to_services and run.state is not RunState.CANCELLED and run.run_id is not None:
        # A run that died after its last step has nothing to repeat from; a backfill finds what it made.
        with suppress(InfrastructureError):
            return services.reexecute_from_failure(run.run_id)
    assets = BEAM_ASSETS if "__" in partition else (CASE_ASSETS.get(run.job or "", "case_manifest"),)
    return services.backfill(assets, [partition], f"mqi case retry {partition}")
