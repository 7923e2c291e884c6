"""Looks at GPUs, written into the ledger: those of this machine, of a host by SSH, or of a cluster."""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.execution.gpus import Gpu, foreign, local_gpus
from mqi_dagster.hpc.nvidia_smi import gpus_of_host
from mqi_dagster.hpc.slurm import NodeGpus, gpus_of
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL


def this_host() -> str:
    """Name of this machine in the ledger."""
    return socket.gethostname()


def look_here(site: Site) -> list[GpuUsage]:
    """Look at the GPUs of this machine; empty where NVML sees none."""
    here = this_host()
    engines = {lease.job_id for lease in site.ledger.leases() if lease.host == here and lease.job_id}
    return _recorded(site, here, local_gpus(), engines)


def look_at(site: Site, place: str) -> list[GpuUsage]:
    """Look at the GPUs of a place: ``local`` or the name of a host.

    Raises:
        UnreachableError: The host is away.
        MqiError: Its answer is an error or not understood.
    """
    if place == LOCAL:
        return look_here(site)
    host, connection = site.settings.hosts[place], site.connection_to(place)
    if host.slurm is None:
        # Engines of this site run here or under Slurm, so whatever computes there is somebody else's.
        return _recorded(site, place, gpus_of_host(connection), set())
    seen = [one for node in gpus_of(connection, host.slurm) for one in _of_node(place, node)]
    site.ledger.record_gpus(place, seen)
    return seen


def _recorded(site: Site, host: str, gpus: Sequence[Gpu], engines: set[str]) -> list[GpuUsage]:
    now = datetime.now(UTC)
    seen = [
        GpuUsage(
            host=host,
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name,
            memory_mb=gpu.memory_mb,
            used_mb=gpu.used_mb,
            utilisation_percent=gpu.utilisation_percent,
            temperature_c=gpu.temperature_c,
            sm_clock_mhz=gpu.sm_clock_mhz,
            memory_clock_mhz=gpu.memory_clock_mhz,
            foreign_processes=foreign(gpu.processes, engines),
            seen_at=now,
        )
        for gpu in gpus
    ]
    if len({gpu.uuid for gpu in gpus}) != len(gpus):
        raise InfrastructureError(f"host {host} shows two GPUs of one UUID")
    if seen:
        site.ledger.record_gpus(host, seen)
    return seen


def _of_node(place: str, node: NodeGpus) -> list[GpuUsage]:
    now = datetime.now(UTC)
    return [
        GpuUsage(
            host=place,
            index=index,
            uuid=f"{node.node}:{index}",
            name=f"{node.node} ({node.state})",
            memory_mb=None,
            used_mb=None,
            utilisation_percent=None,
            temperature_c=None,
            sm_clock_mhz=None,
            memory_clock_mhz=None,
            foreign_processes=0,
            seen_at=now,
            allocated=node.allocated(index),
        )
        for index in range(node.total)
    ]
