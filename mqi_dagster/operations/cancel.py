"""What is queued or in work of a case, a beam or a course is ended, asked over GraphQL, and stays so."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dagster as dg

from mqi_dagster.compute.run_workers import end_worker
from mqi_dagster.dagster_internals import make_new_run_id
from mqi_dagster.errors import InfrastructureError, InputError, MqiError, shown
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.audit import Action
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.lifecycle.case_reading import run_facts
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, RUN_KEY_TAG, beam_job
from mqi_dagster.lifecycle.runs import UNFINISHED, RunState
from mqi_dagster.operations.audited import audited
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.partitions import BEAM, CASE, root_of
from mqi_dagster.people.rights import Actor, Right
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.beams import requests_of

PATIENCE_SECONDS = 180.0
"""A cluster may need a minute until it confirms the end of a job."""
_STARTING_SECONDS = 30.0
_POLL_SECONDS = 0.5
_IN_A_TERMINAL = "its run is not the services': Ctrl-C ends it in the terminal that it runs in"
_NOT_BEGUN = "Cancelled by an operator before it was asked for."


def cancel(
    instance: dg.DagsterInstance, site: Site, services: GraphQL, actor: Actor, partitions: Sequence[str]
) -> dict[str, str]:
    """End every run of some partitions that is queued or in work, and whatever would begin by itself.

    A worker is interrupted, and ends its engine or its job on a cluster before it ends itself: `await_end`
    waits for that. A try that was to come is taken back, a backfill of these partitions alone is ended, and
    beams of a case that were to be asked for stand as cancelled. `retry` begins all of them anew.

    Returns:
        Run or backfill id by partition, of what was ended or ends; the audit keeps them.

    Raises:
        InputError: Nothing is queued or in work.
        UnreachableError: The services cannot be reached.
        InfrastructureError: Something goes on; all else is cancelled.
        NotAllowedError: The actor does not have the right ``act``.
    """
    ended: dict[str, str] = {}
    with audited(site, actor, Right.ACT, Action.CANCEL, partitions[0]) as told:
        try:
            _cancel(instance, site, services, partitions, ended)
        finally:
            told |= ended
    return ended


def _cancel(
    instance: dg.DagsterInstance,
    site: Site,
    services: GraphQL,
    partitions: Sequence[str],
    ended: dict[str, str],
) -> None:
    backfills = {
        name: backfill
        for backfill, names in services.backfills().items()
        if names and set(names) <= set(partitions)
        for name in names
    }
    for backfill in set(backfills.values()):
        services.cancel_backfill(backfill)
    ended |= backfills | _take_back_tries(instance, site, partitions)
    until = time.monotonic() + _STARTING_SECONDS
    while True:
        runs, problems, starting = _end_runs(instance, services, partitions)
        ended |= runs
        if not starting or time.monotonic() > until:
            break
        # Dagster interrupts no worker that has not begun yet.
        time.sleep(_POLL_SECONDS)
    ended |= _end_before_asked(instance, site, partitions)
    if problems := [*problems, *(f"{name}: its run has just been started" for name in starting)]:
        done = f" (cancelled: {', '.join(ended)})" if ended else ""
        raise InfrastructureError(f"not cancelled: {'; '.join(problems)}{done}")
    if not ended:
        raise InputError(f"nothing to cancel: no run of {partitions[0]} is queued or in work")


def await_end(
    instance: dg.DagsterInstance,
    site: Site,
    services: GraphQL,
    partitions: Sequence[str],
    patience_seconds: float = PATIENCE_SECONDS,
) -> list[str]:
    """Wait until nothing of some cancelled partitions runs or holds a slot.

    A run that has left the queue in the moment in which it was cancelled is cancelled once more.

    Returns:
        What goes on when the patience is at its end, in words; empty where nothing does.

    Raises:
        UnreachableError: The services cannot be reached any more.
    """
    until = time.monotonic() + patience_seconds
    while True:
        _end_runs(instance, services, partitions)
        left = going_on(instance, site, partitions)
        if not left or time.monotonic() > until:
            # One that has failed in its last moment would be tried again.
            _take_back_tries(instance, site, partitions)
            return left
        time.sleep(_POLL_SECONDS)


def going_on(instance: dg.DagsterInstance, site: Site, partitions: Sequence[str]) -> list[str]:
    """What of some partitions is queued, in work or holds a slot, in words."""
    runs = [
        f"{run.tags[PARTITION_TAG]}: run {run.run_id} is {run.status.value.lower()}"
        for run in _unfinished(instance, partitions)
    ]
    held = [
        f"{lease.partition}: {lease.name} is not free"
        + (f", job {lease.job_id} is not known to have ended" if lease.job_id is not None else "")
        for lease in site.ledger.leases.all()
        if lease.partition in partitions
    ]
    return [*runs, *held]


def _unfinished(instance: dg.DagsterInstance, partitions: Sequence[str]) -> list[dg.DagsterRun]:
    """The oldest first."""
    wanted = dg.RunsFilter(tags={PARTITION_TAG: list(partitions)}, statuses=UNFINISHED)
    return list(reversed(instance.get_runs(wanted)))


def _end_runs(
    instance: dg.DagsterInstance, services: GraphQL, partitions: Sequence[str]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Have all runs ended.

    Returns:
        Run id by partition of those that end, why others do not, and partitions whose run is starting.
    """
    ended: dict[str, str] = {}
    problems: list[str] = []
    starting: list[str] = []
    for run in _unfinished(instance, partitions):
        partition = run.tags[PARTITION_TAG]
        if run.status is dg.DagsterRunStatus.STARTING:
            starting.append(partition)
        elif run.remote_job_origin is None and run.status is not dg.DagsterRunStatus.NOT_STARTED:
            problems.append(f"{partition}: {_IN_A_TERMINAL}")
        elif run.status is dg.DagsterRunStatus.CANCELING:
            ended[partition] = run.run_id
        else:
            try:
                if _ends(instance, services, run):
                    ended[partition] = run.run_id
            except InfrastructureError as error:
                problems.append(f"{partition}: {error.message}")
    return ended, problems, starting


def _ends(instance: dg.DagsterInstance, services: GraphQL, run: dg.DagsterRun) -> bool:
    """Have a run ended; whether it ends, or has ended, by that.

    Raises:
        InfrastructureError: It goes on.
    """
    refused: InfrastructureError | None = None
    try:
        services.terminate(run.run_id, at_once=run.status is dg.DagsterRunStatus.NOT_STARTED)
    except InfrastructureError as error:
        refused = error
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:
        return now is not None and now.status is dg.DagsterRunStatus.CANCELED
    if refused is not None and now.status is not dg.DagsterRunStatus.CANCELING:
        raise refused
    if refused is not None:
        # Nobody knows its worker any more: where that is dead, the reaper ends the run.
        end_worker(instance, now)
    return True


def _take_back_tries(instance: dg.DagsterInstance, site: Site, partitions: Iterable[str]) -> dict[str, str]:
    """Take back the tries that would come by themselves; the run that each was to follow, by partition."""
    taken: dict[str, str] = {}
    for partition in partitions:
        facts = run_facts(instance, site.ledger, partition)
        if facts.state is not RunState.AGAIN or facts.run is None or facts.failure is None:
            continue
        at = facts.run.ended or datetime.now(UTC)
        # Nobody may have judged its end yet; what is written of it first stays.
        site.ledger.outcomes.record(
            RunOutcome(
                run_id=facts.run.run_id,
                job=facts.run.job,
                partition=partition,
                verdict=RunVerdict.CANCELLED,
                code=facts.failure.code or "",
                cause=facts.failure.cause,
                ended_at=at,
                first_at=at,
                tries=1,
            )
        )
        site.ledger.outcomes.take_back([facts.run.run_id])
        site.ledger.alarms.clear(AlarmKind.RETRIED_LONG, shown(partition))
        taken[partition] = facts.run.run_id
    return taken


def _end_before_asked(instance: dg.DagsterInstance, site: Site, partitions: Sequence[str]) -> dict[str, str]:
    """Have the beams stand as cancelled whose runs are still to be asked for; run id by beam."""
    ended: dict[str, str] = {}
    for case in sorted({root_of(one) for one in partitions if BEAM.has(one) or CASE.has(one)}):
        try:
            found = requests_of(instance, site, site.store, case, 0)
        except MqiError:
            # Without a manifest that can be read nothing is asked for either.
            continue
        keys, requests = found or ([], [])
        wanted = [request for request in requests if request.partition_key in partitions]
        if wanted:
            instance.add_dynamic_partitions(BEAM.name, keys)
        for request in wanted:
            tags = {
                **request.tags,
                PARTITION_TAG: str(request.partition_key),
                RUN_KEY_TAG: str(request.run_key),
            }
            run = instance.add_run(dg.DagsterRun(beam_job.name, make_new_run_id(), tags=tags))
            instance.report_run_canceled(run, _NOT_BEGUN)
            ended[str(request.partition_key)] = run.run_id
    return ended
