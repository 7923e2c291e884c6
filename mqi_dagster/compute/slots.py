"""The slot of a partition: how it waits for one in sight, and what the engine in it is told of it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.attempts import Outcome
from mqi_dagster.ledger.leases import Lease, Need, Refusal
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import root_of
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings

THREADS_VARIABLE = "MQI_ENGINE_THREADS"
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_POLLS_MISSED = 10
"""After so many polls that did not come, a run does not count as waiting any more."""


def wait_for_slot(
    context: dg.AssetExecutionContext,
    site: Site,
    pool: GpuPool,
    beam: str,
    declare: Callable[[], Need] | None = None,
) -> Lease:
    """The lease of a partition, once there is a slot for it.

    Args:
        context: Of the step.
        site: The installation.
        pool: Its slots.
        beam: Key of the beam, or of another partition.
        declare: Writes the slots that there are into the ledger and says what is needed of them; what a beam
            needs where None.
    """
    declare = declare or pool.declare
    need = declare()
    run_id, waiting, doubtful = context.run.run_id, "", False
    poll = site.settings.execution.lease_poll_seconds
    case = root_of(beam)
    try:
        while True:
            pool.free_ended(context.instance)
            if _sample(site, pool, need, again=doubtful):
                # A GPU may have come back, or have been lost.
                need = declare()
            finished, live = _holder(context, site, pool, site.ledger.leases.get(beam))
            found = site.ledger.leases.acquire(
                beam,
                run_id,
                need,
                stale_after=site.stale_after,
                priority=site.ledger.arrivals.priorities([case]).get(case, 0),
                wait=timedelta(seconds=_POLLS_MISSED * poll),
                finished_owner=finished,
                live_owner=live,
            )
            if isinstance(found, Lease):
                return found
            doubtful = found.by_sample
            waiting = _say(context, site, beam, found, waiting)
            time.sleep(poll)
    except BaseException:
        # A ledger that is away forgets it by itself, and the first cause is what people need.
        with suppress(InfrastructureError):
            site.ledger.leases.stop_waiting(beam, run_id)
        raise


def _sample(site: Site, pool: GpuPool, need: Need, *, again: bool) -> bool:
    """Sample the GPUs of this machine where the last sample is too old to decide, or has just refused one.

    Returns:
        Whether that was so.
    """
    if not need.max_sample_age:
        return False
    now = datetime.now(UTC)
    seen = [gpu for gpu in site.ledger.gpus.all() if gpu.host == need.host]
    if again or not seen or not all(gpu.is_fresh(now, need.max_sample_age) for gpu in seen):
        pool.sample_here()
        return True
    return False


def _holder(
    context: dg.AssetExecutionContext, site: Site, pool: GpuPool, lease: Lease | None
) -> tuple[str | None, str | None]:
    """The run that holds the beam's lease: as one that has finished, as a live one, or as neither.

    On a cluster it has finished when it has ended: its job goes on, for the next run to take over. On a
    machine it is live until its worker and engine have surely ended: what has ended is freed for whoever is
    next, and to take it over would be to work beside it.
    """
    if lease is None:
        return None, None
    if site.executor_on(lease.host) is None:
        return None, None if pool.job_ended(lease) else lease.owner
    run = context.instance.get_run_by_id(lease.owner)
    return lease.owner if run is not None and run.is_finished else None, None


def _say(context: dg.AssetExecutionContext, site: Site, beam: str, refusal: Refusal, before: str) -> str:
    if refusal.reason != before:
        context.log.info("waiting: %s", refusal.reason)
        if not refusal.at_work:
            site.ledger.progress.record(
                beam, context.run.run_id, WorkPhase.WAITING_FOR_SLOT, message=refusal.reason
            )
    return refusal.reason


def gpus_seen(lease: Lease, settings: Settings) -> int:
    """How many GPUs the engine under a lease sees, at least 1: what it counts from 0 in its TPS file."""
    if not settings.is_here(settings.execution.simulation):
        return settings.engine.in_use().gpus_per_beam
    return len(lease.slots)


def engine_environment(lease: Lease, settings: Settings) -> dict[str, str]:
    """What the engine in a slot is told of the machine: its own GPUs, or its share of the cores."""
    cluster = settings.slurm_of(settings.execution.simulation)
    if cluster is not None:
        # Which GPU it is, Slurm tells the job itself.
        return {THREADS_VARIABLE: str(cluster[1].cpus)}
    if settings.pull_of(settings.execution.simulation) is not None:
        # A worker tells its engine itself.
        return {}
    if lease.kind is SlotKind.GPU:
        return {GPU_VARIABLE: ",".join(slot.uuid for slot in lease.slots)}
    cores = len(os.sched_getaffinity(0))
    execution = settings.execution
    threads = execution.threads_per_slot or max(1, cores // execution.slots)
    environment = {THREADS_VARIABLE: str(threads)}
    cache = settings.engine.embedded.cache
    return environment if cache is None else {**environment, "MQI_ENGINE_CACHE": str(cache)}


def engine_failures(site: Site, beam: str, run_id: str) -> int:
    """How often the engine has failed a beam within one run."""
    return sum(
        attempt.run_id == run_id and attempt.outcome is Outcome.FAILED
        for attempt in site.ledger.attempts.history(beam)
    )
