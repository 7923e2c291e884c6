"""Whether a site's own parts work: services, sensors, inbox, target, disks.

It asks nobody who could be dead: the sensor `alarms` and the service `watch` raise what is found here, and
`mqi top`, `mqi alarms` and `mqi doctor` look for themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.dagster_internals import InstigatorState, InstigatorStatus, InstigatorType, TickStatus
from mqi_dagster.errors import MqiError
from mqi_dagster.execution.code_location import answers, socket_path
from mqi_dagster.execution.locks import is_held
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle.pipeline import Pipeline
from mqi_dagster.lifecycle.runs import UNFINISHED
from mqi_dagster.lifecycle.uptime import WATCH_LOCK, Heartbeat, evaluated_since
from mqi_dagster.resources.dicom_source import read_record
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import inbox_trouble, target_trouble, tree_trouble
from mqi_dagster.settings import LOCAL, Settings
from mqi_dagster.store.known_folders import in_time

LATE_SECONDS = 60
"""A sensor that was to be evaluated so long ago stands still."""
FAILING_SECONDS = 45
"""For so long a single failed tick may be an accident; two in a row are none."""
_UNHURRIED_SECONDS = 10
"""Between two ticks of sensors that no case waits for, at least."""
_PROMPT_SECONDS = 15
"""Between two ticks of those that tell what is away, at most, however seldom a site looks at its inbox."""
RETENTION_SECONDS = 600
"""Between two ticks of the sensor `retention`."""
SENSORS = ("run_outcomes", "reaper", "gpu_monitor", "alarms", "notifications", "retention")
"""The sensors that see to every pipeline."""
_START = "`mqi dev`, or where systemd runs the site `systemctl start mqi.target`"
_FOLDERS_LOOKED_AT = 2000


@dataclass(frozen=True, slots=True)
class HealthProblem:
    """Something that does not work now."""

    kind: AlarmKind
    subject: str
    text: str
    """What is wrong and what to do, without paths."""
    since: datetime | None = None
    """As far as somebody has written it down."""


def tick_seconds(name: str, settings: Settings) -> int:
    """How often a sensor is evaluated.

    Args:
        name: Of the sensor.
        settings: Of the site.
    """
    if name == "retention":
        return RETENTION_SECONDS
    scan = settings.intake.scan_interval_seconds
    return prompt_seconds(scan) if name in ("gpu_monitor", "alarms", "notifications") else scan


def prompt_seconds(scan: int) -> int:
    """Between two ticks of the sensors that tell what is away, by how often the inbox is looked at [s]."""
    return min(max(scan, _UNHURRIED_SECONDS), _PROMPT_SECONDS)


def health(
    instance: dg.DagsterInstance,
    site: Site,
    pipelines: Iterable[Pipeline],
    ledger: Ledger | None,
    now: datetime,
    heartbeat: Heartbeat,
) -> list[HealthProblem]:
    """Everything of a site that does not work, for one who is none of its services.

    Args:
        instance: Dagster's records.
        site: The site.
        pipelines: What it works on.
        ledger: What waits stands there; None where it cannot be read.
        now: The time.
        heartbeat: Of Dagster's daemon.
    """
    return [*services(instance, site, pipelines, ledger, now, heartbeat), *folders(site)]


def services(
    instance: dg.DagsterInstance,
    site: Site,
    pipelines: Iterable[Pipeline],
    ledger: Ledger | None,
    now: datetime,
    heartbeat: Heartbeat,
) -> list[HealthProblem]:
    """Which services and sensors do not do their work; see `health`."""
    watch, code = watch_of(site.settings), answers(socket_path(site.settings))
    if not watch and not code:
        work = _work(instance, site, ledger, heartbeat.seen)
        if not work:
            return []
        text = f"the services do not run, and {work}. Start them: {_START}"
        return [HealthProblem(AlarmKind.SERVICES_AWAY, "services", text, heartbeat.seen)]
    found = []
    if not heartbeat.alive:
        text = f"Dagster's daemon does not run: nothing is started and no sensor looks. {_start('daemon')}"
        found.append(HealthProblem(AlarmKind.DAEMON_AWAY, "daemon", text, heartbeat.seen))
    if not code:
        text = (
            "the code location does not answer: no sensor looks and no run starts. Its log says whether it"
            f" cannot be loaded. {_start('code')}"
        )
        found.append(HealthProblem(AlarmKind.CODE_AWAY, "code", text))
    if watch is False:
        found.append(_without_watch())
    if not found:
        found += sensors(instance, site.settings, pipelines, now, heartbeat)
    return found


def watch_of(settings: Settings) -> bool | None:
    """Whether the service `watch` of a site lives; None where it never did."""
    return is_held(settings.paths.state / WATCH_LOCK)


def watch(settings: Settings) -> list[HealthProblem]:
    """The service `watch`, as the other services see it."""
    return [_without_watch()] if watch_of(settings) is False else []


def _without_watch() -> HealthProblem:
    text = f"the service watch does not run: nobody would tell that the others do not. {_start('watch')}"
    return HealthProblem(AlarmKind.WATCH_AWAY, "watch", text)


def _start(name: str) -> str:
    return f"Start it again: `mqi stop` and `mqi dev`, or `systemctl restart mqi-{name}`"


def sensors(
    instance: dg.DagsterInstance,
    settings: Settings,
    pipelines: Iterable[Pipeline],
    now: datetime,
    heartbeat: Heartbeat,
) -> list[HealthProblem]:
    """Sensors that are switched off, fail, or are not evaluated any more."""
    if instance.schedule_storage is None:
        # An instance in memory has no sensors.
        return []
    began = evaluated_since(settings, heartbeat)
    names = [*(name for pipeline in pipelines for name in pipeline.sensors), *SENSORS]
    states = {
        state.name: state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name in names and (state.name != "retention" or settings.retention.daily)
    }
    found = []
    for name in names:
        state = states.get(name)
        # One without a state was never looked at yet.
        if state is not None and (one := _sensor(instance, settings, state, began, now)) is not None:
            found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class SensorSeen:
    """A sensor as Dagster's daemon has left it."""

    name: str
    on: bool
    """Whether nobody has switched it off."""
    ticked_at: datetime | None
    """Its last evaluation."""


def sensors_seen(instance: dg.DagsterInstance, pipelines: Iterable[Pipeline]) -> list[SensorSeen]:
    """The sensors of a site that were evaluated once, by name; one question for all."""
    if instance.schedule_storage is None:
        return []
    names = {*(name for pipeline in pipelines for name in pipeline.sensors), *SENSORS}
    found = []
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.name in names:
            seconds = getattr(state.instigator_data, "last_tick_timestamp", None)
            at = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
            found.append(SensorSeen(state.name, state.status is not InstigatorStatus.STOPPED, at))
    return sorted(found, key=lambda one: one.name)


def _sensor(
    instance: dg.DagsterInstance,
    settings: Settings,
    state: InstigatorState,
    began: datetime | None,
    now: datetime,
) -> HealthProblem | None:
    name = state.name
    if state.status is InstigatorStatus.STOPPED:
        text = f"the sensor {name} is switched off, and what it does is not done. Switch it on in the pages"
        return HealthProblem(AlarmKind.SENSOR_STOPPED, name, text)
    # The newest may be one that is at work now.
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=3)
    if not ticks:
        return None
    every = tick_seconds(name, settings)
    newest = datetime.fromtimestamp(ticks[0].timestamp, UTC)
    if now - max(newest, began or newest) > timedelta(seconds=every + LATE_SECONDS):
        text = f"the sensor {name} was not evaluated since {newest:%Y-%m-%d %H:%M} UTC. {_start('daemon')}"
        return HealthProblem(AlarmKind.SENSOR_FAILING, name, text, newest)
    ended = [tick for tick in ticks if tick.status is not TickStatus.STARTED]
    if not ended or ended[0].status is not TickStatus.FAILURE:
        return None
    failed_at = datetime.fromtimestamp(ended[0].timestamp, UTC)
    # Of two from before the services were back, the next tick tells more.
    since_then = [tick for tick in ended if began is None or tick.timestamp >= began.timestamp()]
    twice = [tick.status for tick in since_then[:2]] == [TickStatus.FAILURE] * 2
    if twice or now - max(failed_at, began or failed_at) > timedelta(seconds=FAILING_SECONDS):
        error = ended[0].error
        # Its message may hold a path or a person.
        kind = error.cls_name if error is not None and error.cls_name else "an error"
        text = (
            f"the sensor {name} fails ({kind}), and what it does is not done. Its ticks in the pages and the"
            " log of the code location say more; `mqi doctor` tries what may be away"
        )
        return HealthProblem(AlarmKind.SENSOR_FAILING, name, text, failed_at)
    return None


def _work(instance: dg.DagsterInstance, site: Site, ledger: Ledger | None, seen: datetime | None) -> str:
    """What waits for services that nobody has started; empty where nothing does."""
    if count := instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
        return f"{count} runs are unfinished"
    if ledger is not None:
        if ledger.outcomes.open_retries(1):
            return "runs that lost infrastructure wait to go on"
        if ledger.arrivals.open(1):
            return "cases are ready to be taken in"
    return "files have come into the inbox" if _has_come(site.inbox, seen) else ""


def _has_come(inbox: Path, since: datetime | None) -> bool:
    """Whether folders of the inbox have changed; at the first start, whether there are any."""
    earliest = since.timestamp() if since is not None else 0.0
    looked, level = 0, [inbox]
    for _ in range(2):
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        looked += 1
                        if looked > _FOLDERS_LOOKED_AT:
                            return False
                        if entry.is_dir():
                            if entry.stat().st_mtime > earliest:
                                return True
                            below.append(Path(entry.path))
            except OSError:
                continue
        level = below
    return False


def folders(site: Site, *, note: bool = False) -> list[HealthProblem]:
    """The inbox, the sources of courses, a local target and the disks, where one is away or full.

    Args:
        site: The site.
        note: Whether inbox and target are written down as they are now.
    """
    found = []
    if trouble := inbox_trouble(site, note=note):
        found.append(HealthProblem(AlarmKind.INBOX_AWAY, "inbox", trouble))
    found += _dicom_sources(site, note=note)
    if trouble := target_trouble(site, note=note):
        found.append(HealthProblem(AlarmKind.TARGET_AWAY, LOCAL, trouble))
    return [*found, *_disks(site)]


def _dicom_sources(site: Site, *, note: bool) -> Iterator[HealthProblem]:
    """The tree of DICOM files and Orthanc, where the settings name them."""
    if site.settings.radiotherapy.dicom_root is None:
        return
    record = read_record(site.settings.paths.state)
    if trouble := tree_trouble(site, note=note):
        yield HealthProblem(AlarmKind.DICOM_AWAY, "dicom_root", trouble)
    elif record is not None and record.tree is not None:
        text = f"{record.tree.text}. Courses wait for it, and go on by themselves"
        yield HealthProblem(AlarmKind.DICOM_AWAY, "dicom_root", text, record.tree.since)
    away = None if record is None or site.settings.radiotherapy.orthanc is None else record.orthanc
    limit = timedelta(seconds=site.settings.alarms.away_seconds)
    if away is not None and datetime.now(UTC) - away.since > limit:
        text = f"{away.text}. What it takes is copied once it answers, by itself"
        yield HealthProblem(AlarmKind.DICOM_AWAY, "orthanc", text, away.since)


def _disks(site: Site) -> Iterator[HealthProblem]:
    settings = site.settings
    watched: dict[str, Path] = {
        "data": settings.paths.data,
        "state": settings.paths.state,
        "dagster_home": settings.paths.dagster_home,
        "inbox": settings.paths.inbox,
    }
    courses = settings.radiotherapy
    if courses.dicom_root is not None and courses.orthanc is not None:
        watched["dicom_root"] = courses.dicom_root
    if settings.handover.target == LOCAL:
        watched["handover"] = settings.handover.folder
    disks: dict[int, tuple[list[str], float]] = {}
    for role, path in watched.items():

        def ask(role: str = role, path: Path = path) -> None:
            try:
                disk = path.stat().st_dev
                if role == "inbox" and os.statvfs(path).f_flag & os.ST_RDONLY:
                    # Who fills it writes elsewhere.
                    return
                disks.setdefault(disk, ([], shutil.disk_usage(path).free))[0].append(role)
            except FileNotFoundError:
                # The first beam makes these folders; only one that was there can be away.
                return

        trouble = in_time(f"disk {path}", ask)
        # Of inbox, target and tree others tell.
        if trouble and role not in ("inbox", "handover", "dicom_root"):
            yield HealthProblem(AlarmKind.DISK_FULL, role, f"the folder cannot be looked at: {trouble.text}")
    limit = settings.alarms.disk_free_gb
    for roles, free in disks.values():
        if free < limit * 1e9:
            room = f"{free / 1e9:.1f} GB free for {', '.join(roles)}"
            text = f"{room}, the limit is {limit:g} GB (alarms.disk_free_gb). Make room"
            yield HealthProblem(AlarmKind.DISK_FULL, roles[0], text)


def records_away(error: Exception) -> HealthProblem:
    """Dagster's database, for one who could not read it."""
    why = error.message if isinstance(error, MqiError) else type(error).__name__
    return HealthProblem(AlarmKind.RECORDS_AWAY, "Dagster", f"{why}. What to do: `mqi doctor`")


def ledger_away(error: Exception) -> HealthProblem:
    """The ledger, for one who could not read it."""
    why = error.message if isinstance(error, MqiError) else type(error).__name__
    text = f"{why}. Nothing goes on without it: `mqi doctor`; a damaged one: restore the backup"
    return HealthProblem(AlarmKind.LEDGER_AWAY, "ledger", text)
