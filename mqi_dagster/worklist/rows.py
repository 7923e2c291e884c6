"""What is read of the platform at one moment: typed rows, the same for the screen and for scripts."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from mqi_dagster.worklist.stages import CaseState, Stage


class Row(BaseModel):
    """Immutable, without unknown keys; moments are in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CaseStand(Row):
    """One case: where it stands, and why."""

    case: str
    fraction: int
    arrived: datetime | None
    """First sight; None where the ledger does not know the case."""
    state: CaseState
    stage: Stage
    reason: str = ""
    """Why it waits, or the first cause of its failure."""
    next_step: str | None = None
    """What to do about a failure."""
    beams_done: int = 0
    beams_total: int | None = None
    """None where it has no manifest yet."""
    percent: float = 0.0
    """Mean of its beams."""
    priority: int = 0
    since: datetime | None = None
    """When its present stage began, as far as it is recorded."""
    run: str | None = None
    """Id of its latest run."""


class BeamStand(Row):
    """One beam: where it stands, and why."""

    beam: str
    case: str
    number: int
    """DICOM BeamNumber."""
    label: str = ""
    """Its name, energies and gantry angle."""
    state: CaseState
    stage: Stage
    reason: str = ""
    """Why it waits, or the first cause of its failure."""
    next_step: str | None = None
    """What to do about a failure."""
    percent: float = 0.0
    """Of the simulation; 100 once it is over."""
    batch: int | None = None
    """Batch in work, from 1."""
    batches: int | None = None
    elapsed_seconds: float | None = None
    """Of the latest run, from its start to its end or to now."""
    remaining_seconds: float | None = None
    """Of the simulation, from its own pace; None before two steps of it were timed."""
    place: str | None = None
    """Slot that it holds, ``<host>/gpu<index>`` or ``<host>/cpu<index>``."""
    job: str | None = None
    """Id of its job on a cluster."""
    job_state: str | None = None
    """State of that job, with Slurm's own word for it."""
    attempt: int | None = None
    """Number of the attempt at the simulation; None before the first, and once it is handed over."""
    priority: int = 0
    since: datetime | None = None
    """When its run was asked for, started or ended, whichever came last."""
    run: str | None = None
    """Id of its latest run."""


class GpuStand(Row):
    """One slot of the pool with what is known of the device behind it, or a device that is no slot."""

    host: str
    kind: str
    index: int
    uuid: str
    name: str = ""
    slot: bool
    """Whether beams lease it here; what a cluster gives to jobs by itself is only seen."""
    in_service: bool
    owner: str | None
    """Beam that has leased it."""
    leased_at: datetime | None
    heartbeat_at: datetime | None
    memory_mb: int
    used_mb: int | None = None
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    seen_at: datetime | None = None
    """When memory, utilisation and temperature were looked at."""


class QueueStand(Row):
    """The run queue and its limits."""

    queued: int
    in_work: int
    max_runs: int | None
    pool_in_use: int
    pool_limit: int | None
    waiting_beams: int
    """Beams for which no run has been asked yet."""
    waiting_cases: int
    """Cases that are ready and not taken in yet."""
    inbox: int
    """Cases that cannot be taken yet."""
    reasons: dict[str, int]
    """How many runs are queued for each reason."""


class Alarm(Row):
    """Something that a person should know now."""

    kind: str
    subject: str
    text: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Work:
    """Everything at one moment."""

    at: datetime
    daemon_seen: datetime | None
    """Last heartbeat of Dagster's daemon."""
    daemon_alive: bool
    cases: list[CaseStand]
    """Those that are not concluded, and those that were concluded lately."""
    beams: list[BeamStand]
    """Of those cases."""
    concluded_cases: int
    """All of them, also those that are not among ``cases``."""
    gpus: list[GpuStand]
    queue: QueueStand
    alarms: list[Alarm]
