"""What is read of the platform at one moment: typed rows, the same for the screen and for scripts.

Where a case or a beam stands, `lifecycle.case_status` says; a row adds what only boards show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.lifecycle.case_facts import CaseFacts
from mqi_dagster.lifecycle.case_status import BeamFacts, PartitionStatus, RunFacts
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.partitions import CASE, PartitionKind


class StatusRow(BaseModel):
    """Immutable, without unknown keys; moments are in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CaseStatus(StatusRow):
    """One case: where it stands, and why."""

    case: str
    fraction: int | None
    """None of what is no fraction of a plan."""
    kind: str = CASE.name
    """Of its partition: ``case``, ``course``."""
    machine: str = ""
    """Id of the treatment machine; empty before it is taken in, and where there is none."""
    plan: str = ""
    """Label of the plan, without the patient's identity; empty as above."""
    beam_names: tuple[str, ...] = ()
    """Of its beams by number, without the patient's identity; empty as above."""
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


class BeamStatus(StatusRow):
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
    slot: str | None = None
    """Slot that it holds, ``<host>/gpu<index>`` or ``<host>/cpu<index>``."""
    job: str | None = None
    """Id of its job on a cluster."""
    job_state: str | None = None
    """State of that job, with Slurm's own word for it."""
    job_place: str | None = None
    """Its cluster, and on which node it is or why it waits."""
    attempt: int | None = None
    """Number of the attempt at the simulation; None before the first, and once it is handed over."""
    priority: int = 0
    since: datetime | None = None
    """When its run was asked for, started or ended, whichever came last."""
    run: str | None = None
    """Id of its latest run."""


class GpuStatus(StatusRow):
    """One slot of the pool with what is known of the device behind it, or a device that is no slot."""

    host: str
    kind: str
    index: int
    uuid: str
    name: str = ""
    slot: bool
    """Whether beams lease it here; what a cluster gives to jobs by itself is only seen."""
    in_service: bool
    status: str = ""
    """Whether it is leased, free or in use, or why it is not given out."""
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


class QueueStatus(StatusRow):
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
    """Cases and courses that cannot be taken yet."""
    reasons: dict[str, int]
    """How many runs are queued for each reason."""


class ClusterStatus(StatusRow):
    """One cluster, as the last polls of its jobs went."""

    cluster: str
    polled_at: datetime | None
    """The last poll that got an answer."""
    failing_since: datetime | None
    failure: str
    """Why the last poll got none; empty where it did."""
    used_bytes: float | None
    """What our folders took there when it was measured last."""


class SensorStatus(StatusRow):
    """One sensor of Dagster's daemon."""

    sensor: str
    on: bool
    ticked_at: datetime | None
    """Its last evaluation."""


class TargetStatus(StatusRow):
    """Where results are handed over."""

    target: str
    """``local``, or the name of a host."""
    handed_over_at: datetime | None
    """When it has taken something last."""


class AlarmStatus(StatusRow):
    """Something that a person should know now."""

    id: int | None = None
    """Number in the ledger; None of what is seen now and stands in no ledger yet."""
    kind: str
    subject: str
    text: str
    since: datetime | None


class Work(StatusRow):
    """Everything at one moment; as JSON what `mqi top --json` prints. docs/top.md describes the keys."""

    version: int = 2
    """Rises when a key changes its meaning or goes."""
    at: datetime
    """When it was read."""
    daemon_alive: bool
    daemon_seen: datetime | None
    """Last heartbeat of Dagster's daemon."""
    concluded_cases: int
    """All of them, also those that are not among ``cases``."""
    cases: list[CaseStatus]
    """Those that are not concluded, and those that were concluded lately."""
    beams: list[BeamStatus]
    """Of those cases."""
    gpus: list[GpuStatus]
    queue: QueueStatus
    alarms: list[AlarmStatus]
    clusters: list[ClusterStatus] = []
    sensors: list[SensorStatus] = []
    targets: list[TargetStatus] = []


@dataclass(frozen=True, slots=True)
class BeamKnown:
    """A beam, and what its row is made of."""

    key: str
    label: str
    """What stands beside it; empty where that was not read yet."""
    latest: RunFacts
    facts: BeamFacts
    status: PartitionStatus
    """What `beam_status` says of these."""


def beam_row(case: str, number: int, beam: BeamKnown, now: datetime) -> BeamStatus:
    """The row of a beam.

    Args:
        case: Key of its case.
        number: DICOM BeamNumber.
        beam: What is known of it.
        now: UTC.
    """
    latest, facts, status = beam.latest, beam.facts, beam.status
    job = facts.job if status.at_work else None
    if job is not None and job.state.ended and facts.slot is None:
        job = None
    return BeamStatus(
        beam=beam.key,
        case=case,
        number=number,
        label=beam.label,
        state=status.state,
        stage=status.stage,
        reason=status.reason,
        next_step=status.next_step,
        percent=status.percent,
        batch=status.batch,
        batches=status.batches,
        elapsed_seconds=latest.elapsed(now),
        remaining_seconds=status.remaining_seconds,
        slot=facts.slot if status.at_work else None,
        job=job.job_id if job is not None else None,
        job_state=job_words(job) if job is not None else None,
        job_place=": ".join(filter(None, (job.cluster, job.reason))) if job is not None else None,
        attempt=facts.attempt,
        priority=latest.priority,
        since=latest.since,
        run=latest.run_id,
    )


def job_words(job: ClusterJob) -> str:
    """State of a job, with Slurm's own word for it where that says more."""
    told = job.scheduler_state
    return f"{job.state.value} ({told})" if told.lower() not in ("", job.state.value) else job.state.value


def unit_row(
    kind: PartitionKind,
    unit: str,
    arrival: Arrival | None,
    latest: RunFacts,
    status: PartitionStatus,
    parts: Mapping[int, PartitionStatus] | None = None,
    facts: CaseFacts | None = None,
) -> CaseStatus:
    """The row of a case, or of what is worked on whole in another pipeline.

    Args:
        kind: Of its partition.
        unit: Key of its partition.
        arrival: What the ledger knows of its arrival.
        latest: Its latest run.
        status: Where it stands.
        parts: Where its beams stand; None where it has not been taken in, or has none.
        facts: What its inventory says, once it was read.
    """
    key = CASE.find(unit)
    return CaseStatus(
        case=unit,
        kind=kind.name,
        machine=facts.machine if facts is not None else "",
        plan=facts.plan if facts is not None else "",
        beam_names=facts.names if facts is not None else (),
        fraction=key.number if key is not None else None,
        arrived=arrival.first_seen if arrival is not None else None,
        state=status.state,
        stage=status.stage,
        reason=status.reason,
        next_step=status.next_step,
        beams_done=sum(part.stage is Stage.HANDED_OVER for part in (parts or {}).values()),
        beams_total=len(parts) if parts is not None else None,
        percent=status.percent,
        priority=arrival.priority if arrival is not None else latest.priority,
        since=latest.since or (arrival.first_seen if arrival is not None else None),
        run=latest.run_id,
    )
