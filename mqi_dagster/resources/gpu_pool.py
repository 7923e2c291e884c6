"""The slots of simulations and of models: what the pool leases, and which GPUs are there."""

import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from mqi_dagster.errors import ConfigurationError, InfrastructureError, MqiError
from mqi_dagster.execution.gpus import Gpu, foreign, local_gpus, present_gpus
from mqi_dagster.execution.processes import process_alive
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.hpc.nvidia_smi import gpus_of_host
from mqi_dagster.hpc.slurm import NodeGpus, gpus_of
from mqi_dagster.ledger.gpus import GpuUsage
from mqi_dagster.ledger.leases import AtOnce, Lease, Need
from mqi_dagster.ledger.outcomes import RunVerdict
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL, Settings, Slurm
from mqi_dagster.settings.radiotherapy import ModelDevice


def this_host() -> str:
    """Name of this machine in the ledger."""
    return socket.gethostname()


def _of_node(host_name: str, node: NodeGpus) -> list[GpuUsage]:
    now = datetime.now(UTC)
    return [
        GpuUsage(
            host=host_name,
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


def local_slots(settings: Settings, known: Iterable[Slot]) -> list[Slot]:
    """The slots that this machine has for the engine in use: its GPUs, or CPU slots as the settings say.

    A GPU that should be there and is not seen now is among them, out of service.

    Args:
        settings: Of the site.
        known: The slots of every host as the ledger knows them.

    Raises:
        ConfigurationError: The engine needs more GPUs for a beam than this machine has ever shown, or
            ``execution.gpus`` says more memory than a GPU has.
    """
    if not settings.engine.in_use().needs_gpu:
        return _cpu_slots(settings)
    slots = _gpu_slots(settings, known)
    wanted = settings.engine.in_use().gpus_per_beam
    if len(slots) < wanted:
        raise ConfigurationError(
            f"engine profile {settings.engine.profile} needs {wanted} GPUs for a beam, {len(slots)} are here;"
            " see `mqi doctor`"
        )
    return slots


def _cpu_slots(settings: Settings) -> list[Slot]:
    return [Slot(SlotKind.CPU, index) for index in range(settings.execution.slots)]


def _gpu_slots(settings: Settings, known: Iterable[Slot]) -> list[Slot]:
    declared = settings.execution.gpus
    there = [
        Slot(SlotKind.GPU, gpu.index, uuid=gpu.uuid, memory_mb=gpu.memory_mb or 0)
        for gpu in present_gpus(declared, local_gpus())
    ]
    expected = {one.uuid: (one.index, one.memory_mb) for one in declared} or {
        slot.uuid: (slot.index, slot.memory_mb)
        for slot in known
        if slot.host == this_host() and slot.kind is SlotKind.GPU and slot.uuid
    }
    seen = {slot.uuid for slot in there}
    away = [
        Slot(SlotKind.GPU, index, uuid=uuid, memory_mb=memory_mb, in_service=False)
        for uuid, (index, memory_mb) in expected.items()
        if uuid not in seen
    ]
    return [*there, *away]


def model_slots(settings: Settings, known: Iterable[Slot]) -> dict[str, list[Slot]]:
    """Slots of where segmentation models run, by the setting that names it; none where nothing is segmented.

    On this machine its CPU slots, and its GPUs where models begin there; on a cluster jobs at once.

    Args:
        settings: Of the site.
        known: The slots of every host as the ledger knows them.
    """
    courses, wanted = settings.radiotherapy, list[str]()
    if courses.dicom_root is not None and (courses.segmentation.enabled or courses.custom_models.enabled):
        wanted.append(courses.segmentation.host)
    if settings.on_request.has_pacs:
        wanted.append(settings.on_request.host)
    return {host: _model_slots(settings, known, host) for host in wanted}


def _model_slots(settings: Settings, known: Iterable[Slot], host: str) -> list[Slot]:
    cluster = settings.slurm_of(host)
    if cluster is not None:
        return _cluster_slots(cluster[1])
    on_gpus = settings.radiotherapy.segmentation.device is ModelDevice.GPU
    return [*(_gpu_slots(settings, known) if on_gpus else ()), *_cpu_slots(settings)]


def _cluster_slots(slurm: Slurm) -> list[Slot]:
    kind = SlotKind.CPU if slurm.wanted_gpus is None else SlotKind.GPU
    return [Slot(kind, index) for index in range(slurm.slots)]


def simulation_slots(settings: Settings, known: Iterable[Slot] = ()) -> tuple[str, list[Slot]]:
    """Host and slots of where simulations run: this machine's, or jobs at once on a cluster.

    Args:
        settings: Of the site.
        known: The slots of every host as the ledger knows them.

    Raises:
        ConfigurationError: See `local_slots`.
    """
    host_name = settings.execution.simulation
    cluster = settings.slurm_of(host_name)
    if cluster is None:
        return this_host(), local_slots(settings, known)
    return host_name, _cluster_slots(cluster[1])


def slots_of_a_beam(settings: Settings) -> int:
    """How many slots of where simulations run a beam takes; on a cluster a slot is a job."""
    cluster = settings.slurm_of(settings.execution.simulation)
    return settings.engine.in_use().gpus_per_beam if cluster is None else 1


class GpuPool:
    """The slots that simulations and models are leased; a site without a GPU has CPU slots.

    Args:
        site: The installation.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def declare(self) -> Need:
        """Write the slots into the ledger; what a beam needs of them.

        Raises:
            ConfigurationError: See `local_slots`.
        """
        settings = self._site.settings
        (host, slots), _ = self._declared()
        profile = settings.engine.in_use()
        if not profile.needs_gpu or settings.slurm_of(settings.execution.simulation) is not None:
            # What is free on a cluster, Slurm knows.
            return Need(slots[0].kind, host)
        sample_age = timedelta(seconds=settings.execution.gpu_look_seconds)
        return Need(SlotKind.GPU, host, slots_of_a_beam(settings), profile.gpu_memory_mb, sample_age)

    def declare_for_model(self, host: str, *, gpu: bool, gpu_memory_mb: int, at_once: AtOnce) -> Need:
        """Write the slots into the ledger; what a segmentation model needs of them.

        Args:
            host: Where it runs, as the settings name it.
            gpu: Whether it computes on a GPU.
            gpu_memory_mb: What it needs of it. Where no GPU has as much, any will do: it steps down there.
            at_once: How many courses or image sets may have their models at work.

        Raises:
            ConfigurationError: There is no GPU; see `local_slots`, too.
        """
        settings = self._site.settings
        _, models = self._declared()
        slots = models[host]
        if settings.slurm_of(host) is not None:
            # What is free on a cluster, Slurm knows.
            return Need(slots[0].kind, host, at_once=at_once)
        if not gpu:
            return Need(SlotKind.CPU, this_host(), at_once=at_once)
        gpus = [slot for slot in slots if slot.kind is SlotKind.GPU]
        if not gpus:
            raise ConfigurationError(
                "radiotherapy.segmentation.device is gpu, and this machine shows no GPU; allow_fallback is"
                " for want of GPU memory alone. See `mqi doctor`, or let models begin on the processor:"
                " --totalseg-device cpu"
            )
        enough = any(slot.memory_mb >= gpu_memory_mb for slot in gpus)
        age = timedelta(seconds=settings.execution.gpu_look_seconds)
        return Need(SlotKind.GPU, this_host(), 1, gpu_memory_mb if enough else 0, age, at_once)

    def _declared(self) -> tuple[tuple[str, list[Slot]], dict[str, list[Slot]]]:
        """Declare the slots of simulations and of models, each on their host."""
        known = self._site.ledger.slots.all()
        simulations = simulation_slots(self._site.settings, known)
        models = model_slots(self._site.settings, known)
        hosts: dict[str, dict[tuple[SlotKind, str | int], Slot]] = {}
        for name, slots in (*models.items(), simulations):
            host = this_host() if name == LOCAL else name
            hosts.setdefault(host, {}).update({(slot.kind, slot.uuid or slot.index): slot for slot in slots})
        for host, both in hosts.items():
            if both:
                self._site.ledger.slots.declare(host, list(both.values()))
        return simulations, models

    def sample_here(self) -> list[GpuUsage]:
        """Look at the GPUs of this machine; empty where NVML sees none."""
        here = this_host()
        engines = {
            lease.job_id for lease in self._site.ledger.leases.all() if lease.host == here and lease.job_id
        }
        return self._recorded(here, local_gpus(), engines)

    def sample(self, host_name: str) -> list[GpuUsage]:
        """Sample the GPUs of this machine or of a host.

        Raises:
            UnreachableError: The host is away.
            MqiError: Its answer is an error or not understood.
        """
        if host_name == LOCAL:
            return self.sample_here()
        host, connection = self._site.settings.hosts[host_name], self._site.connection_to(host_name)
        if host.slurm is None:
            # Engines of this site run here or under Slurm, so whatever computes there is somebody else's.
            return self._recorded(host_name, gpus_of_host(connection), set())
        seen = [one for node in gpus_of(connection, host.slurm) for one in _of_node(host_name, node)]
        self._site.ledger.gpus.record(host_name, seen)
        return seen

    def _recorded(self, host: str, gpus: Sequence[Gpu], engines: set[str]) -> list[GpuUsage]:
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
            self._site.ledger.gpus.record(host, seen)
        return seen

    def job_ended(self, lease: Lease, *, owner_finished: bool = False) -> bool:
        """Whether the job of a lease is known to have ended; where nobody can be asked now, it is not.

        Args:
            lease: The lease.
            owner_finished: Whether its run is known to have ended. That alone counts on a host that is
                neither this one nor a cluster: this machine was renamed, or the site was restored on it.
        """
        executor = self._site.executor_on(lease.host)
        if executor is None:
            if self._site.signs_of_life.of(lease.owner) is Life.ALIVE:
                # A worker that is only slow, or that a clock makes look so, may start its engine any moment.
                return False
            if lease.host != this_host() and not owner_finished:
                return False
            return lease.job_id is None or not process_alive(lease.job_id)
        try:
            return executor.ended(lease.partition)
        except MqiError:
            # One beam's damaged folder must not stop all others.
            return False

    def free_ended(self, instance: dg.DagsterInstance) -> int:
        """Free what ended or silent runs hold whose engine is gone as well; how many leases there were.

        The only way in which a lease of another beam ends. A job on a cluster outlives its run, for the next
        one to take over. It goes only where an operator has cancelled the run or taken its next try back, or
        where the run has failed for good and nothing is going to take the job over.
        """
        leases, freed = self._site.ledger.leases.all(), 0
        outcomes = self._site.ledger.outcomes.get_many([lease.owner for lease in leases])
        for lease in leases:
            run = instance.get_run_by_id(lease.owner)
            # One not known here may be of another instance, or was deleted: its heartbeat speaks for it.
            finished = run is not None and run.is_finished
            if not (finished or lease.is_stale(datetime.now(UTC), self._site.stale_after)):
                continue
            executor = self._site.executor_on(lease.host)
            cancelled = run is not None and run.status is dg.DagsterRunStatus.CANCELED
            outcome = outcomes.get(lease.owner)
            given_up = finished and outcome is not None and outcome.verdict is not RunVerdict.RETRY
            if (cancelled or given_up) and executor is not None:
                held = self._site.ledger.leases.get(lease.partition)
                # Ending another beam's job takes a while: this one may have passed to somebody else.
                if held is None or held.token != lease.token:
                    continue
                try:
                    executor.cancel_beam(lease.partition)
                except MqiError:
                    continue
            if self.job_ended(lease, owner_finished=finished):
                # A silent owner that has woken meanwhile keeps it.
                freed += self._site.ledger.leases.release(lease, unless_renewed=not finished)
        return freed
