"""The slots of this machine: what the pool leases, and what an engine in a slot sees."""

import os
import socket

import dagster as dg

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.gpus import local_gpus
from mqi_dagster.execution.processes import process_alive
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.settings import Settings

THREADS_VARIABLE = "MQI_ENGINE_THREADS"
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def this_host() -> str:
    """Name of this machine in the ledger."""
    return socket.gethostname()


def local_slots(settings: Settings) -> list[Slot]:
    """The slots that this machine has for the engine in use: its GPUs, or CPU slots as the settings say.

    Raises:
        ConfigurationError: The engine needs a GPU and there is none.
    """
    if not settings.engine.in_use().needs_gpu:
        return [Slot(SlotKind.CPU, index) for index in range(settings.execution.slots)]
    gpus = local_gpus()
    if not gpus:
        raise ConfigurationError(
            f"engine profile {settings.engine.profile} needs a GPU, none is here; see `mqi doctor`"
        )
    return [Slot(SlotKind.GPU, gpu.index, uuid=gpu.uuid, memory_mb=gpu.memory_mb) for gpu in gpus]


def declare_local_slots(ledger: Ledger, settings: Settings) -> SlotKind:
    """Write this machine's slots into the ledger; the kind that the engine in use needs."""
    slots = local_slots(settings)
    ledger.declare_slots(this_host(), slots)
    return slots[0].kind


def engine_environment(lease: Lease, settings: Settings) -> dict[str, str]:
    """What the engine in a slot sees of the machine: its own GPU, or its share of the cores."""
    if lease.kind is SlotKind.GPU:
        return {GPU_VARIABLE: lease.uuid}
    cores = len(os.sched_getaffinity(0))
    execution = settings.execution
    threads = execution.threads_per_slot or max(1, cores // execution.slots)
    environment = {THREADS_VARIABLE: str(threads)}
    cache = settings.engine.embedded.cache
    return environment if cache is None else {**environment, "MQI_ENGINE_CACHE": str(cache)}


def job_ended(lease: Lease) -> bool:
    """Whether the job of a lease is known to have ended: only this machine's processes can be asked."""
    return lease.host == this_host() and (lease.job_id is None or not process_alive(lease.job_id))


def free_ended_leases(instance: dg.DagsterInstance, ledger: Ledger) -> None:
    """Free what runs hold that Dagster knows to have ended and whose engine is gone as well."""
    for lease in ledger.leases():
        run = instance.get_run_by_id(lease.owner)
        if run is not None and run.is_finished and job_ended(lease):
            ledger.release(lease)
