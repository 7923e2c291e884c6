"""What is wrong now, whoever has noticed it: runs that stand still, clusters, GPUs, sensors, folders."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

import dagster as dg

from mqi_dagster.assets.jobs import RETRY_OF_TAG
from mqi_dagster.errors import HandoverError
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.database import utc_now
from mqi_dagster.ledger.leases import Lease
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors import health
from mqi_dagster.sensors.overdue import Found, limit_words, overdue
from mqi_dagster.sensors.queue import UNFINISHED
from mqi_dagster.sensors.uptime import Heartbeat, note_daemon
from mqi_dagster.sensors.waits import WORKING, Wait, read_waits, waits_of, write_waits

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

Standing = dict[tuple[AlarmKind, str], str]


def alarms(interval: int) -> dg.SensorDefinition:
    """The sensor that raises and clears what can be seen of the site's state."""

    @dg.sensor(
        name="alarms",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises and clears alarms: engines and runs that stand, clusters, sensors, folders.",
    )
    def sensor(context: dg.SensorEvaluationContext, site: dg.ResourceParam[Site]) -> dg.SensorResult:
        now = utc_now()
        waits = waits_of(context.instance, site, read_waits(context.cursor), now)
        standing = look(context.instance, site, waits, now)
        for (kind, subject), text in standing.items():
            site.ledger.raise_alarm(kind, subject, text)
        for alarm in site.ledger.alarms():
            if alarm.kind in _WATCHED and (alarm.kind, alarm.subject) not in standing:
                site.ledger.clear_alarm(alarm.kind, alarm.subject)
        said = f"{len(standing)} alarms stand" if standing else "all is well"
        return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=write_waits(waits))

    return sensor


def look(instance: dg.DagsterInstance, site: Site, waits: Sequence[Wait], now: datetime) -> Standing:
    """Every alarm of the site's state that stands now, by kind and subject: its text."""
    leases = site.ledger.leases()
    silent = [look.cluster for look in site.ledger.cluster_looks() if look.failing_since is not None]
    return {
        (kind, subject): text
        for kind, subject, text in (
            *_stuck(site, leases, silent, now),
            *_waiting(instance, site, now),
            *overdue(site, waits, leases, now),
            # After it: where a look has failed, that says more.
            *_clusters(site, leases, now),
            *_gpus(site, now),
            *_refused(instance, site, now),
            *((one.kind, one.subject, one.text) for one in _of_the_site(instance, site, now)),
        )
    }


def _of_the_site(instance: dg.DagsterInstance, site: Site, now: datetime) -> list[health.Found]:
    heartbeat = Heartbeat.of(instance, now)
    note_daemon(site.settings, heartbeat)
    return [
        *health.sensors(instance, site.settings, now, heartbeat),
        *health.watch(site.settings),
        *health.folders(site, note=True),
    ]


def _refused(instance: dg.DagsterInstance, site: Site, now: datetime) -> Iterator[Found]:
    """A target that takes nothing, though it answers: its runs end, and are tried again later."""
    target = site.settings.handover.target
    refused = [one for one in site.ledger.open_retries() if one.code == HandoverError.code]
    if any(one.kind is AlarmKind.TARGET_AWAY for one in site.ledger.alarms()):
        # A try that is under way is no success yet.
        runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        parents = [run.tags[RETRY_OF_TAG] for run in runs if RETRY_OF_TAG in run.tags]
        before = site.ledger.outcomes_of(parents).values()
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


def _stuck(site: Site, leases: Sequence[Lease], silent: Collection[str], now: datetime) -> Iterator[Found]:
    limit = timedelta(minutes=site.settings.alarms.stuck_minutes)
    reports = site.ledger.progress_of([lease.beam for lease in leases])
    for lease in leases:
        report = reports.get(lease.beam)
        if report is None or report.phase not in WORKING or report.run_id != lease.owner:
            continue
        # What an engine does on a cluster that is away nobody knows.
        if lease.host in silent:
            continue
        if now - max(report.updated_at, lease.acquired_at) > limit:
            text = (
                f"no progress since {report.updated_at:%Y-%m-%d %H:%M} UTC ({report.phase}"
                f" {report.percent:.0f} %, attempt {report.attempt}). Look at the engine's log; to give it"
                " up, terminate the run in the pages, then `mqi case retry`."
                f" {limit_words(limit, 'alarms.stuck_minutes')}"
            )
            yield AlarmKind.BEAM_STUCK, lease.beam, text


def _waiting(instance: dg.DagsterInstance, site: Site, now: datetime) -> Iterator[Found]:
    oldest = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), limit=1, ascending=True
    )
    limit = timedelta(minutes=site.settings.alarms.waiting_minutes)
    if oldest and now - oldest[0].create_timestamp > limit:
        since = oldest[0].create_timestamp
        text = (
            f"a run has stood in the queue since {since:%Y-%m-%d %H:%M} UTC. Is the daemon running"
            f" (`mqi doctor`), and is a GPU in service? {limit_words(limit, 'alarms.waiting_minutes')}"
        )
        yield AlarmKind.BEAMS_WAITING, "queue", text


def _clusters(site: Site, leases: Sequence[Lease], now: datetime) -> Iterator[Found]:
    waited_for = {lease.host for lease in leases}
    for name, host in site.settings.hosts.items():
        look = site.ledger.cluster_look(name) if host.slurm is not None else None
        if look is None or host.slurm is None:
            continue
        limit = timedelta(seconds=host.slurm.intervals.alarm_seconds)
        # Without a beam nobody looks, so nobody would see that it is back.
        if name in waited_for and look.failing_since is not None and now - look.failing_since > limit:
            since = f"no answer since {look.failing_since:%Y-%m-%d %H:%M} UTC: {look.failure}"
            key = f"hosts.{name}.slurm.intervals.alarm_seconds"
            text = f"{since}. Its beams wait and go on by themselves. {limit_words(limit, key)}"
            yield AlarmKind.CLUSTER_AWAY, name, text
        quota = host.slurm.retention.quota_gb
        if look.used_bytes is not None and look.used_bytes > quota * 1e9:
            used = f"{look.used_bytes / 1e9:.1f} GB of our folders, the quota is {quota:g} GB"
            used += f" (hosts.{name}.slurm.retention.quota_gb)"
            yield AlarmKind.QUOTA, name, f"{used}. Make room: `mqi cluster clean`, or keep less (retention)"


def _gpus(site: Site, now: datetime) -> Iterator[Found]:
    """The GPUs of the pool that are not there any more, and that nobody has switched off."""
    lost = [slot for slot in site.ledger.slots() if slot.lost and slot.uuid]
    looks = {(gpu.host, gpu.uuid): gpu.seen_at for gpu in site.ledger.gpus()} if lost else {}
    for slot in lost:
        seen_at = looks.get((slot.host, slot.uuid))
        if seen_at is None or now - seen_at > _GPU_UNSEEN:
            since = "is not seen" if seen_at is None else f"was not seen since {seen_at:%Y-%m-%d %H:%M} UTC"
            text = (
                f"the GPU {slot.uuid} {since}. Does its driver answer (`nvidia-smi`)? Beams use the others,"
                " and this one again once it is back; one that is gone for good: `mqi gpu off`"
            )
            yield AlarmKind.GPU_LOST, slot.name, text
