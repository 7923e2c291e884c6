"""Waits that last too long: one alarm for each thing that is waited for, however many wait for it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.cluster_jobs import ClusterJob, ClusterJobState
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors.waits import Wait

_LOSSES = 3
"""Jobs of one beam that a cluster has lost in a row, from which on it is no accident."""
_GO_ON = "What waits goes on by itself once it does"
_KNOWN = ("waiting", "waiting for the cluster", "waiting for the target", "queued")

Found = tuple[AlarmKind, str, str]
"""Kind, subject and text of an alarm that stands."""


def overdue(site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime) -> Iterator[Found]:
    """Every alarm of runs in work that wait for too long.

    Args:
        site: The installation.
        waits: Of its runs.
        leases: Of its slots.
        now: The time.
    """
    phases = {phase: [wait for wait in waits if wait.phase == phase] for phase in _KNOWN}
    yield from _without_slot(site, phases["waiting"], leases, now)
    place, target = site.settings.execution.simulation, site.settings.handover.target
    cluster = site.settings.slurm_of(place)
    if cluster is not None:
        limit = timedelta(seconds=cluster[1].intervals.alarm_seconds)
        key = f"hosts.{place}.slurm.intervals.alarm_seconds"
        if late := _late(phases["waiting for the cluster"], lambda _: limit, now):
            text = f"{_who(late)} for the cluster, which does not answer{_why(late)}. {_GO_ON}."
            text += f" {limit_words(limit, key)}"
            yield AlarmKind.CLUSTER_AWAY, place, text
    limit = timedelta(seconds=site.settings.alarms.away_seconds)
    if late := _late(phases["waiting for the target"], lambda _: limit, now):
        text = f"{_who(late)} for the hand-over host, which does not answer{_why(late)}. {_GO_ON}."
        text += f" {limit_words(limit, 'alarms.away_seconds')}"
        yield AlarmKind.TARGET_AWAY, target, text
    yield from _jobs(site, phases["queued"], leases, now)
    limit = timedelta(minutes=site.settings.alarms.waiting_minutes)
    for wait in _late([wait for wait in waits if wait.phase not in _KNOWN], lambda _: limit, now):
        text = (
            f"nothing has happened after the phase '{wait.phase}' since {_time(wait.since)}. Look at the log"
            " of its run; to give it up, terminate the run in the pages, then `mqi case retry`."
            f" {limit_words(limit, 'alarms.waiting_minutes')}"
        )
        yield AlarmKind.BEAM_STUCK, wait.partition, text


def _without_slot(
    site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime
) -> Iterator[Found]:
    limits, waiting = site.settings.alarms, {wait.partition for wait in waits}
    holding = {lease.beam for lease in leases}
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


def _jobs(site: Site, waits: Sequence[Wait], leases: Sequence[Lease], now: datetime) -> Iterator[Found]:
    """What is wrong with the jobs of the beams that hold a place on a cluster."""
    clusters = {name: host.slurm for name, host in site.settings.hosts.items() if host.slurm is not None}
    holding = {lease.beam: lease.host for lease in leases if lease.host in clusters}
    jobs = {
        beam: job
        for beam, job in site.ledger.last_jobs(list(holding)).items()
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


def _held(jobs: Sequence[ClusterJob]) -> str:
    first = min(jobs, key=lambda job: (job.changed_at, job.beam))
    count = "a job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    return (
        f"{count} held in the cluster's queue, that of {first.beam} (job {first.job_id}) since"
        f" {_time(first.changed_at)}: {first.reason or first.scheduler_state}. A person has to mend"
        " that there (of JobHeld…: `scontrol release`); they go on by themselves then"
    )


def _losses(job: ClusterJob) -> int:
    return len(job.retired) + (job.state is ClusterJobState.LOST)


def _lost(jobs: Sequence[ClusterJob]) -> str:
    worst = max(jobs, key=lambda job: (_losses(job), job.beam))
    count = "the jobs of a beam are" if len(jobs) == 1 else f"the jobs of {len(jobs)} beams are"
    return (
        f"{count} lost again and again, of {worst.beam} {_losses(worst)} in a row. They are submitted"
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
