"""What is wrong now, whoever has noticed it: waits that last too long, clusters, GPUs, sensors, folders."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from mqi_dagster.errors import HandoverError, InfrastructureError
from mqi_dagster.execution.sign_of_life import Life
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.cluster_jobs import ClusterJob, ClusterJobState
from mqi_dagster.ledger.database import utc_now
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.lifecycle import health
from mqi_dagster.lifecycle.jobs import PARTITION_TAG, RETRY_OF_TAG, course_job
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.runs import UNFINISHED
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.lifecycle.uptime import Heartbeat, note_daemon
from mqi_dagster.resources.site import Site

WORKING = (WorkPhase.PREPARING, WorkPhase.SIMULATING, WorkPhase.VERIFYING)
"""Phases in which something should happen; in all others a run waits for something."""

Remembered = Mapping[str, tuple[str, datetime]]
"""By run id: the phase in which it was seen last, and since when."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One run in work that waits."""

    run_id: str
    partition: str
    """Case or beam key."""
    phase: str
    message: str
    """For people; empty where the run has told none."""
    since: datetime


def waits_of(instance: dg.DagsterInstance, site: Site, before: Remembered, now: datetime) -> list[Wait]:
    """Every run in work that waits, by three questions however many there are.

    Args:
        instance: Dagster's.
        site: The installation.
        before: What the last poll has seen. Most reports come again while a wait lasts, so that the last
            one does not tell when it began.
        now: The time.
    """
    runs = [
        (run.tags[PARTITION_TAG], run)
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        # One whose worker is gone waits for nothing but its end.
        if PARTITION_TAG in run.tags and not _is_dead(site, run.run_id)
    ]
    reports = site.ledger.progress.get_many({partition for partition, _ in runs})
    found = []
    for partition, run in runs:
        report = reports.get(partition)
        if report is None or report.run_id != run.run_id or report.phase in WORKING:
            continue
        known, since = before.get(run.run_id, ("", now))
        since = since if known == report.phase else min(report.updated_at, now)
        found.append(Wait(run.run_id, partition, report.phase, report.message, since))
    return found


def _is_dead(site: Site, run_id: str) -> bool:
    try:
        return site.signs_of_life.of(run_id) is Life.DEAD
    except InfrastructureError:
        # A disk that cannot be read is an alarm of its own, and hides no other.
        return False


def read_waits(cursor: str | None) -> Remembered:
    """What the last poll has seen, from the cursor that `write_waits` made."""
    content = json.loads(cursor) if cursor else {}
    return {run_id: (phase, datetime.fromisoformat(since)) for run_id, (phase, since) in content.items()}


def write_waits(waits: Iterable[Wait]) -> str:
    """The cursor for the next poll."""
    return json.dumps({wait.run_id: (wait.phase, wait.since.isoformat()) for wait in waits})


_LOOKED_AT = 100
"""Queued runs, the oldest first: more courses than the sensors put into the queue."""
_LOSSES = 3
"""Jobs of one beam that a cluster has lost in a row, from which on it is no accident."""
_GO_ON = "What waits goes on by itself once it does"
_KNOWN = (
    WorkPhase.WAITING_FOR_SLOT,
    WorkPhase.WAITING_FOR_CLUSTER,
    WorkPhase.WAITING_FOR_TARGET,
    WorkPhase.QUEUED_ON_CLUSTER,
)

StandingAlarm = tuple[AlarmKind, str, str]
"""Kind, subject and text of an alarm that stands."""


def overdue(
    site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime
) -> Iterator[StandingAlarm]:
    """Every alarm of runs in work that wait for too long.

    Args:
        site: The installation.
        waits: Of its runs.
        leases: Of its slots.
        now: The time.
    """
    phases = {phase: [wait for wait in waits if wait.phase == phase] for phase in _KNOWN}
    yield from _without_slot(site, phases[WorkPhase.WAITING_FOR_SLOT], leases, now)
    host_name, target = site.settings.execution.simulation, site.settings.handover.target
    cluster = site.settings.slurm_of(host_name)
    if cluster is not None:
        limit = timedelta(seconds=cluster[1].intervals.alarm_seconds)
        key = f"hosts.{host_name}.slurm.intervals.alarm_seconds"
        if late := _late(phases[WorkPhase.WAITING_FOR_CLUSTER], lambda _: limit, now):
            text = f"{_who(late)} for the cluster, which does not answer{_why(late)}. {_GO_ON}."
            text += f" {limit_words(limit, key)}"
            yield AlarmKind.CLUSTER_AWAY, host_name, text
    limit = timedelta(seconds=site.settings.alarms.away_seconds)
    if late := _late(phases[WorkPhase.WAITING_FOR_TARGET], lambda _: limit, now):
        text = f"{_who(late)} for the hand-over host, which does not answer{_why(late)}. {_GO_ON}."
        text += f" {limit_words(limit, 'alarms.away_seconds')}"
        yield AlarmKind.TARGET_AWAY, target, text
    yield from _jobs(site, phases[WorkPhase.QUEUED_ON_CLUSTER], leases, now)
    limit = timedelta(minutes=site.settings.alarms.waiting_minutes)
    for wait in _late([wait for wait in waits if wait.phase not in _KNOWN], lambda _: limit, now):
        text = (
            f"nothing has happened after the phase '{wait.phase}' since {_time(wait.since)}. Look at the log"
            " of its run; to give it up: `mqi case cancel`, then `mqi case retry`."
            f" {limit_words(limit, 'alarms.waiting_minutes')}"
        )
        yield AlarmKind.BEAM_STUCK, wait.partition, text


def _without_slot(
    site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime
) -> Iterator[StandingAlarm]:
    limits, waiting = site.settings.alarms, {wait.partition for wait in waits}
    holding = {lease.partition for lease in leases}
    # Where nothing is at work, nothing will become free.
    idle = holding <= waiting

    def stands(wait: Wait) -> bool:
        return idle or wait.partition in holding

    def limit(wait: Wait) -> timedelta:
        return timedelta(minutes=limits.stuck_minutes if stands(wait) else limits.waiting_minutes)

    if late := _late(waits, limit, now):
        nobody = " while no engine runs" if idle else ""
        key = "alarms.stuck_minutes" if stands(late[0]) else "alarms.waiting_minutes"
        text = f"{_who(late)} for a slot{nobody}{_why(late)}. See `mqi gpu list`."
        text += f" {limit_words(limit(late[0]), key)}"
        yield AlarmKind.BEAMS_WAITING, "slots", text


def _jobs(
    site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime
) -> Iterator[StandingAlarm]:
    """What is wrong with the jobs of the beams that hold a place on a cluster."""
    clusters = {name: host.slurm for name, host in site.settings.hosts.items() if host.slurm is not None}
    holding = {lease.partition: lease.host for lease in leases if lease.host in clusters}
    jobs = {
        beam: job
        for beam, job in site.ledger.jobs.newest(list(holding)).items()
        if job.cluster == holding[beam]
    }
    limit = timedelta(minutes=site.settings.alarms.waiting_minutes)
    for name, slurm in clusters.items():
        here = {beam: job for beam, job in jobs.items() if job.cluster == name}
        held_for = timedelta(seconds=slurm.intervals.alarm_seconds)
        held = [
            job
            for job in here.values()
            if job.state is ClusterJobState.HELD and now - job.changed_at > held_for
        ]
        if held:
            key = f"hosts.{name}.slurm.intervals.alarm_seconds"
            yield AlarmKind.JOBS_HELD, name, f"{_held(held)}. {limit_words(held_for, key)}"
        lost = [job for job in here.values() if _losses(job) >= _LOSSES]
        if lost:
            yield AlarmKind.JOBS_LOST, name, _lost(lost)
        queued = [wait for wait in waits if wait.partition in here and here[wait.partition] not in held]
        if late := _late(queued, lambda _: limit, now):
            text = f"{_who(late)} in the cluster's queue{_why(late)}."
            yield AlarmKind.BEAMS_WAITING, name, f"{text} {limit_words(limit, 'alarms.waiting_minutes')}"
    hosts = {lease.partition: lease.host for lease in leases}
    for name in [name for name, host in site.settings.hosts.items() if host.pull is not None]:
        if late := _late([wait for wait in waits if hosts.get(wait.partition) == name], lambda _: limit, now):
            text = f"{_who(late)} for a worker{_why(late)}. `mqi doctor` names those that ask for work."
            yield AlarmKind.BEAMS_WAITING, name, f"{text} {limit_words(limit, 'alarms.waiting_minutes')}"


def _held(jobs: Sequence[ClusterJob]) -> str:
    first = min(jobs, key=lambda job: (job.changed_at, job.partition))
    count = "a job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    return (
        f"{count} held in the cluster's queue, that of {first.partition} (job {first.job_id}) since"
        f" {_time(first.changed_at)}: {first.reason or first.scheduler_state}. A person has to mend"
        " that there (of JobHeld…: `scontrol release`); they go on by themselves then"
    )


def _losses(job: ClusterJob) -> int:
    return len(job.retired) + (job.state is ClusterJobState.LOST)


def _lost(jobs: Sequence[ClusterJob]) -> str:
    worst = max(jobs, key=lambda job: (_losses(job), job.partition))
    count = "the jobs of a beam are" if len(jobs) == 1 else f"the jobs of {len(jobs)} beams are"
    return (
        f"{count} lost again and again, of {worst.partition} {_losses(worst)} in a row. They are submitted"
        " again by themselves; look at the nodes and at the cluster's memory and time limits"
    )


def limit_words(limit: timedelta, key: str) -> str:
    """Which limit was passed, with the settings key that sets it."""
    seconds = limit.total_seconds()
    length = f"{seconds / 60:g} min" if key.endswith("_minutes") else f"{seconds:g} s"
    return f"The limit is {length} ({key})"


def _late(waits: Sequence[Wait], limit: Callable[[Wait], timedelta], now: datetime) -> list[Wait]:
    """Those that wait for longer than their limit, the longest first."""
    late = [wait for wait in waits if now - wait.since > limit(wait)]
    return sorted(late, key=lambda wait: (wait.since, wait.partition))


def _who(late: Sequence[Wait]) -> str:
    first = f"{late[0].partition} since {_time(late[0].since)}"
    return f"{first} waits" if len(late) == 1 else f"{len(late)} runs wait, {first},"


def _why(late: Sequence[Wait]) -> str:
    return f": {late[0].message}" if late[0].message else ""


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


_WATCHED = (
    AlarmKind.BEAM_STUCK,
    AlarmKind.BEAMS_WAITING,
    AlarmKind.CLUSTER_AWAY,
    AlarmKind.TARGET_AWAY,
    AlarmKind.JOBS_HELD,
    AlarmKind.JOBS_LOST,
    AlarmKind.GPU_LOST,
    AlarmKind.QUOTA,
    AlarmKind.DISK_FULL,
    AlarmKind.INBOX_AWAY,
    AlarmKind.DICOM_AWAY,
    AlarmKind.SENSOR_FAILING,
    AlarmKind.SENSOR_STOPPED,
    AlarmKind.WATCH_AWAY,
    # Raised by the service `watch` alone: whoever evaluates this sensor is there.
    AlarmKind.DAEMON_AWAY,
    AlarmKind.CODE_AWAY,
    AlarmKind.SERVICES_AWAY,
)
"""What is looked at anew each time, so that an alarm goes with its cause."""
_GPU_UNSEEN = timedelta(minutes=2)
"""For less a GPU may be away while its driver is loaded anew."""

StandingAlarms = dict[tuple[AlarmKind, str], str]


def alarms(interval: int, pipelines: Collection[Pipeline]) -> dg.SensorDefinition:
    """The sensor that raises and clears what can be seen of the site's state.

    Args:
        interval: Seconds.
        pipelines: Those of the site.
    """

    @dg.sensor(
        name="alarms",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises and clears alarms: engines and runs that stand, clusters, sensors, folders.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        now = utc_now()
        waits = waits_of(context.instance, site, read_waits(context.cursor), now)
        standing = standing_alarms(context.instance, site, pipelines, waits, now)
        for (kind, subject), text in standing.items():
            site.ledger.alarms.raise_(kind, subject, text)
        for alarm in site.ledger.alarms.open():
            if alarm.kind in _WATCHED and (alarm.kind, alarm.subject) not in standing:
                site.ledger.alarms.clear(alarm.kind, alarm.subject)
        said = f"{len(standing)} alarms stand" if standing else "all is well"
        return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=write_waits(waits))

    return sensor


def standing_alarms(
    instance: dg.DagsterInstance,
    site: Site,
    pipelines: Collection[Pipeline],
    waits: Sequence[Wait],
    now: datetime,
) -> StandingAlarms:
    """Every alarm of the site's state that stands now, by kind and subject: its text."""
    leases = site.ledger.leases.all()
    silent = [one.cluster for one in site.ledger.clusters.all() if one.failing_since is not None]
    return {
        (kind, subject): text
        for kind, subject, text in (
            *_stuck(site, leases, silent, now),
            *_waiting(instance, site, now),
            *overdue(site, waits, leases, now),
            # After it: where an evaluation has failed, that says more.
            *_clusters(site, leases, now),
            *_gpus(site, now),
            *_refused(instance, site, now),
            *((one.kind, one.subject, one.text) for one in _of_the_site(instance, site, pipelines, now)),
        )
    }


def _of_the_site(
    instance: dg.DagsterInstance, site: Site, pipelines: Collection[Pipeline], now: datetime
) -> list[health.HealthProblem]:
    heartbeat = Heartbeat.of(instance, now)
    note_daemon(site.settings, heartbeat)
    return [
        *health.sensors(instance, site.settings, pipelines, now, heartbeat),
        *health.watch(site.settings),
        *health.folders(site, note=True),
    ]


def _refused(instance: dg.DagsterInstance, site: Site, now: datetime) -> Iterator[StandingAlarm]:
    """A target that takes nothing, though it answers: its runs end, and are tried again later."""
    target = site.settings.handover.target
    refused = [one for one in site.ledger.outcomes.open_retries() if one.code == HandoverError.code]
    if any(one.kind is AlarmKind.TARGET_AWAY for one in site.ledger.alarms.open()):
        # A try that is under way is no success yet.
        runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        parents = [run.tags[RETRY_OF_TAG] for run in runs if RETRY_OF_TAG in run.tags]
        before = site.ledger.outcomes.get_many(parents).values()
        refused += [one for one in before if one.code == HandoverError.code]
    limit = timedelta(seconds=site.settings.alarms.away_seconds)
    late = [one for one in refused if now - one.first_at > limit]
    if late:
        first = min(late, key=lambda one: (one.first_at, one.partition))
        text = (
            f"nothing is taken since {first.first_at:%Y-%m-%d %H:%M} UTC: {first.cause}. {len(late)} of the"
            f" runs wait for it, and go on by themselves. {limit_words(limit, 'alarms.away_seconds')}"
        )
        yield AlarmKind.TARGET_AWAY, target, text


def _stuck(
    site: Site, leases: Sequence[Lease], silent: Collection[str], now: datetime
) -> Iterator[StandingAlarm]:
    limit = timedelta(minutes=site.settings.alarms.stuck_minutes)
    reports = site.ledger.progress.get_many([lease.partition for lease in leases])
    for lease in leases:
        report = reports.get(lease.partition)
        if report is None or report.phase not in WORKING or report.run_id != lease.owner:
            continue
        # What an engine does on a cluster that is away nobody knows.
        if lease.host in silent:
            continue
        if now - max(report.updated_at, lease.acquired_at) > limit:
            text = (
                f"no progress since {report.updated_at:%Y-%m-%d %H:%M} UTC ({report.phase}"
                f" {report.percent:.0f} %, attempt {report.attempt}). Look at the engine's log; to give it"
                " up: `mqi case cancel`, then `mqi case retry`."
                f" {limit_words(limit, 'alarms.stuck_minutes')}"
            )
            yield AlarmKind.BEAM_STUCK, lease.partition, text


def _waiting(instance: dg.DagsterInstance, site: Site, now: datetime) -> Iterator[StandingAlarm]:
    queued = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), limit=_LOOKED_AT, ascending=True
    )
    # A tree of many courses keeps some of them in the queue for hours, one worker after the other.
    oldest = [one for one in queued if one.dagster_run.job_name != course_job.name][:1]
    limit = timedelta(minutes=site.settings.alarms.waiting_minutes)
    if oldest and now - oldest[0].create_timestamp > limit:
        since = oldest[0].create_timestamp
        text = (
            f"a run has stood in the queue since {since:%Y-%m-%d %H:%M} UTC. Is the daemon running"
            f" (`mqi doctor`), and is a GPU in service? {limit_words(limit, 'alarms.waiting_minutes')}"
        )
        yield AlarmKind.BEAMS_WAITING, "queue", text


def _clusters(site: Site, leases: Sequence[Lease], now: datetime) -> Iterator[StandingAlarm]:
    waited_for = {lease.host for lease in leases}
    for name, host in site.settings.hosts.items():
        seen = site.ledger.clusters.get(name) if host.slurm is not None else None
        if seen is None or host.slurm is None:
            continue
        limit = timedelta(seconds=host.slurm.intervals.alarm_seconds)
        # Without a beam nobody looks, so nobody would see that it is back.
        if name in waited_for and seen.failing_since is not None and now - seen.failing_since > limit:
            since = f"no answer since {seen.failing_since:%Y-%m-%d %H:%M} UTC: {seen.failure}"
            key = f"hosts.{name}.slurm.intervals.alarm_seconds"
            text = f"{since}. Its beams wait and go on by themselves. {limit_words(limit, key)}"
            yield AlarmKind.CLUSTER_AWAY, name, text
        quota = host.slurm.retention.quota_gb
        if seen.used_bytes is not None and seen.used_bytes > quota * 1e9:
            used = f"{seen.used_bytes / 1e9:.1f} GB of our folders, the quota is {quota:g} GB"
            used += f" (hosts.{name}.slurm.retention.quota_gb)"
            yield AlarmKind.QUOTA, name, f"{used}. Make room: `mqi cluster clean`, or keep less (retention)"


def _gpus(site: Site, now: datetime) -> Iterator[StandingAlarm]:
    """The GPUs of the pool that are not there any more, and that nobody has switched off."""
    lost = [slot for slot in site.ledger.slots.all() if slot.lost and slot.uuid]
    samples = {(gpu.host, gpu.uuid): gpu.seen_at for gpu in site.ledger.gpus.all()} if lost else {}
    for slot in lost:
        seen_at = samples.get((slot.host, slot.uuid))
        if seen_at is None or now - seen_at > _GPU_UNSEEN:
            since = "is not seen" if seen_at is None else f"was not seen since {seen_at:%Y-%m-%d %H:%M} UTC"
            text = (
                f"the GPU {slot.uuid} {since}. Does its driver answer (`nvidia-smi`)? Beams use the others,"
                " and this one again once it is back; one that is gone for good: `mqi gpu off`"
            )
            yield AlarmKind.GPU_LOST, slot.name, text
