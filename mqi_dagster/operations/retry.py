"""What failed of a case or beam runs once more in the running services, asked over GraphQL."""

from collections.abc import Collection, Sequence
from contextlib import suppress

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.dagster_internals import BACKFILL_ID_TAG
from mqi_dagster.errors import InfrastructureError, InputError, KeyRejectedError, MqiError, Where
from mqi_dagster.ledger.audit import Action
from mqi_dagster.lifecycle.case_reading import run_facts
from mqi_dagster.lifecycle.case_status import RunFacts
from mqi_dagster.lifecycle.pipeline import Pipeline, level_of
from mqi_dagster.lifecycle.runs import RunState, latest_run_of
from mqi_dagster.operations.audited import alone, audited
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.running import Pages
from mqi_dagster.operations.services import Services
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site


def services_of(site: Site) -> GraphQL:
    """The site's services as `mqi dev` has started them, or where the settings say that they are."""
    running = Services(site.settings_file, site.settings).running()
    ui = site.settings.ui
    return GraphQL((running.pages if running is not None else Pages(ui.host, ui.port, ui.prefix)).address)


def partitions_of(
    instance: dg.DagsterInstance,
    site: Site,
    name: str,
    beam: int | None,
    pipelines: Collection[Pipeline] = PIPELINES,
) -> list[str]:
    """The partitions that a key names: a case with its beams, or one beam, or what other pipelines have.

    Args:
        instance: Dagster's records.
        site: The site.
        name: The key.
        beam: Only the part of this number.
        pipelines: Those of the site.

    Raises:
        InputError: There is no such case or beam.
    """
    level = level_of(pipelines, "", name)
    try:
        key = level.kind.key(name)
    except KeyRejectedError as error:
        raise InputError(error.message) from None
    case = key.root
    if key.parent is not None:
        if beam is not None and beam != key.number:
            raise InputError(f"{name} is beam {key.number}, not beam {beam}")
        beam = key.number
    pipeline = next(one for one in pipelines if level in one.levels)
    if beam is not None and pipeline.parts is None:
        raise InputError(f"{case} has no beams")
    parts = pipeline.parts_of(instance, site.store, case) if pipeline.parts_of is not None else None
    if parts is None:
        if beam is None and (site.ledger.arrivals.get(case) or latest_run_of(instance, case)):
            return [case]
        raise InputError("the case is not known here, or has not been taken in", where=Where(case=case))
    if beam is None:
        return [case, *parts.values()]
    if beam not in parts:
        raise InputError(f"the case holds no delivery of beam {beam}", where=Where(case=case))
    return [parts[beam]]


def retry(
    instance: dg.DagsterInstance,
    site: Site,
    services: GraphQL,
    actor: Actor,
    partitions: Sequence[str],
    pipelines: Collection[Pipeline] = PIPELINES,
) -> dict[str, str]:
    """Launch anew what failed or was cancelled of some partitions.

    A run that the services know is re-executed from its failure. One that `mqi case run` has executed, or
    that its operator has cancelled, is repeated as a backfill: what was made before is found in the store.
    What was launched by an earlier call, and has not come to its end, is not launched again.

    Returns:
        Run or backfill id by partition; the audit keeps them.

    Raises:
        InputError: Nothing failed, or all of it is to run again already.
        MqiError: The services cannot be reached, or refuse.
        NotAllowedError: The actor does not have the right ``act``.
    """
    with audited(site, actor, Right.ACT, Action.RETRY, partitions[0]) as told:
        return repeat(instance, site, services, partitions, pipelines, told)


def repeat(
    instance: dg.DagsterInstance,
    site: Site,
    services: GraphQL,
    partitions: Sequence[str],
    pipelines: Collection[Pipeline],
    told: dict[str, str],
) -> dict[str, str]:
    """What `retry` does, within something else that was asked for.

    Args:
        instance: Dagster's records.
        site: The site.
        services: The running services.
        partitions: Keys.
        pipelines: Those of the site.
        told: Gets the run or backfill id by partition, one after the other.

    Raises:
        InputError: Nothing failed, or all of it is to run again already.
        MqiError: The services cannot be reached, or refuse.
    """
    launched: dict[str, str] = {}
    with alone(site, "retry"):
        latest = {partition: run_facts(instance, site.ledger, partition) for partition in partitions}
        failed = {partition: facts for partition, facts in latest.items() if facts.broken() is not None}
        if not failed:
            raise InputError(_nothing(latest))
        awaited = _awaited(instance, services, failed)
        if len(awaited) == len(failed):
            of = ", ".join(sorted(set(awaited.values())))
            raise InputError(f"nothing to retry: all that has failed is to run again already (backfill {of})")
        for partition, facts in failed.items():
            if partition in awaited:
                continue
            try:
                launched[partition] = told[partition] = _launch(services, pipelines, partition, facts)
            except MqiError as error:
                done = f" (launched before: {', '.join(launched)})" if launched else ""
                raise type(error)(f"{partition}: {error.message}{done}") from None
    return launched


def _awaited(instance: dg.DagsterInstance, services: GraphQL, partitions: Collection[str]) -> dict[str, str]:
    """Backfill by partition, of those for which one is in work that has made no run of them yet."""
    found: dict[str, str] = {}
    for backfill, names in services.backfills().items():
        for partition in set(names).intersection(partitions):
            run = latest_run_of(instance, partition)
            if run is None or run.tags.get(BACKFILL_ID_TAG) != backfill:
                found[partition] = backfill
    return found


def _nothing(latest: dict[str, RunFacts]) -> str:
    going_on = [
        f"{name} (run {facts.run_id})"
        for name, facts in latest.items()
        if facts.state in (RunState.WAITING, RunState.WORKING)
    ]
    if going_on:
        return f"nothing to retry: {', '.join(going_on)} is still in work and nothing has failed"
    return "nothing to retry: nothing has failed"


def _launch(services: GraphQL, pipelines: Collection[Pipeline], partition: str, latest: RunFacts) -> str:
    if latest.served and latest.state is not RunState.CANCELLED and latest.run_id is not None:
        # A run that died after its last step has nothing to repeat from; a backfill finds what it made.
        with suppress(InfrastructureError):
            return services.reexecute_from_failure(latest.run_id)
    name = latest.run.job if latest.run is not None else ""
    jobs = level_of(pipelines, name, partition).jobs
    job = next((job for job in jobs if job.name == name), jobs[0])
    return services.backfill(job.assets, [partition], f"mqi case retry {partition}")
