"""What an engine in a slot is told of it, and how often it has failed a beam."""

import os

from mqi_dagster.ledger.attempts import Outcome
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings

THREADS_VARIABLE = "MQI_ENGINE_THREADS"
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def gpus_seen(lease: Lease, settings: Settings) -> int:
    """How many GPUs the engine under a lease sees, at least 1: what it counts from 0 in its TPS file."""
    if settings.slurm_of(settings.execution.simulation) is not None:
        return settings.engine.in_use().gpus_per_beam
    return len(lease.slots)


def engine_environment(lease: Lease, settings: Settings) -> dict[str, str]:
    """What the engine in a slot is told of the machine: its own GPUs, or its share of the cores."""
    cluster = settings.slurm_of(settings.execution.simulation)
    if cluster is not None:
        # Which GPU it is, Slurm tells the job itself.
        return {THREADS_VARIABLE: str(cluster[1].cpus)}
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
