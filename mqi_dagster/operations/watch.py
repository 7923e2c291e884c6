"""The service `watch`: a process of its own that notices when the others do not work, and tells it.

Dagster's daemon raises all alarms by a sensor that the code location evaluates: either of them dead, nobody
would. This process needs neither. It looks every few seconds, raises and clears what concerns the services
and sensors, looks after inbox and disks while nobody else does, and tells the notices while the sensor
`notifications` cannot. Where the ledger itself is away, it tells that without one. Changes of status become
notices here, where a channel is to tell them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import ConfigurationError, MqiError, PartlyTakenError
from mqi_dagster.execution.locks import hold
from mqi_dagster.files import write_whole
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.lifecycle import health
from mqi_dagster.lifecycle.boundary import safe_text
from mqi_dagster.lifecycle.health import HealthProblem
from mqi_dagster.lifecycle.uptime import SILENT_SECONDS, WATCH_LOCK, Heartbeat, note_daemon
from mqi_dagster.notify.message import Channel, Message, channels_of
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.status_notices import StatusNotices, is_wanted
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import is_of_the_folder
from mqi_dagster.sensors.notifications import notify
from mqi_dagster.worklist.reading import plain_errors

POLL_SECONDS = 15.0
SETTLED_SECONDS = 30.0
"""For so long code location or daemon may be away: they are restarted within that. And for so long after the
watch's own start the daemon may give no sign: they are started together."""
_WATCHED = (
    AlarmKind.SERVICES_AWAY,
    AlarmKind.DAEMON_AWAY,
    AlarmKind.CODE_AWAY,
    AlarmKind.WATCH_AWAY,
    AlarmKind.SENSOR_FAILING,
    AlarmKind.SENSOR_STOPPED,
)
_OF_THE_SITE = (AlarmKind.INBOX_AWAY, AlarmKind.DISK_FULL)
_NOTIFIED = "watch_told.json"
"""What was told without a ledger and is not over: below the state folder, for the next watch."""
_NOT_STORED = (AlarmKind.LEDGER_AWAY, AlarmKind.RECORDS_AWAY)

Key = tuple[AlarmKind, str]


class Watch:
    """One site, looked at again and again.

    Args:
        settings_file: Of the site.
        say: Writes a line of the service's log.
        clock: Tells the time in UTC.
    """

    def __init__(
        self,
        settings_file: Path,
        say: Callable[[str], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._file = settings_file
        self._say = say
        self._clock = clock
        self._site = Site(settings_file)
        self._instance: dg.DagsterInstance | None = None
        self._statuses: StatusNotices | None = None
        self._began: datetime | None = None
        self._seen: dict[Key, datetime] = {}
        """What stands, and since when this process sees it."""
        self._notified = _read_notified(self._site.settings.paths.state / _NOTIFIED)
        """What could be written into no ledger, and was told all the same."""

    def check(self) -> list[HealthProblem]:
        """Look once; what stands now."""
        now = self._clock()
        self._began = self._began or now
        ledger, found = self._ledger()
        found += self._services(ledger, now)
        keys = {(one.kind, one.subject) for one in found}
        self._seen = {key: self._seen.get(key, now) for key in keys}
        found = [one for one in found if self._is_settled(one, now)]
        # Settled: a sensor that is about to be evaluated would tell everything once more.
        nobody_else = self._alone(found)
        if nobody_else:
            found += health.folders(self._site, note=True)
        if ledger is not None:
            try:
                self._write(ledger, found, nobody_else)
                self._note_statuses(found)
                if nobody_else and not _is_silenced(found):
                    self._send_notices()
            except MqiError as error:
                self._forget_ledger()
                found = [*found, health.ledger_away(error)]
        self._notify_directly(found, now)
        return found

    def _ledger(self) -> tuple[Ledger | None, list[HealthProblem]]:
        try:
            ledger = self._site.ledger
            # Of a file that was damaged or replaced meanwhile only a question tells.
            ledger.alarms.open()
            return ledger, []
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what has to be told
            self._forget_ledger()
            return None, [health.ledger_away(error)]

    def _forget_ledger(self) -> None:
        with suppress(Exception):
            self._site.ledger.close()
        self._site, self._statuses = Site(self._file), None

    def _services(self, ledger: Ledger | None, now: datetime) -> list[HealthProblem]:
        try:
            with plain_errors():
                if self._instance is None:
                    self._instance = open_instance(self._site.settings)
                beat = Heartbeat.of(self._instance, self._site.settings, now)
                note_daemon(self._site.settings, beat)
                return health.services(self._instance, self._site, PIPELINES, ledger, now, beat)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what has to be told
            with suppress(Exception):
                if self._instance is not None:
                    self._instance.dispose()
            self._instance = None
            return [health.records_away(error)]

    @staticmethod
    def _alone(found: list[HealthProblem]) -> bool:
        """Whether the sensors do not look at the rest, or nobody tells what they find."""
        return any(
            one.kind in (AlarmKind.DAEMON_AWAY, AlarmKind.CODE_AWAY, AlarmKind.RECORDS_AWAY)
            or one.subject in ("alarms", "notifications")
            for one in found
        )

    def _is_settled(self, one: HealthProblem, now: datetime) -> bool:
        silent = one.since is None or now - one.since > timedelta(seconds=SILENT_SECONDS)
        if one.kind is AlarmKind.DAEMON_AWAY and silent:
            since = self._began or now
        elif one.kind in (AlarmKind.CODE_AWAY, AlarmKind.DAEMON_AWAY):
            since = self._seen[one.kind, one.subject]
        else:
            return True
        return (now - since).total_seconds() >= SETTLED_SECONDS

    def _write(self, ledger: Ledger, found: list[HealthProblem], nobody_else: bool) -> None:
        standing = {(one.kind, one.subject): one for one in found if one.kind not in _NOT_STORED}
        opened = {(alarm.kind, alarm.subject): alarm for alarm in ledger.alarms.open()}
        for key, one in standing.items():
            ledger.alarms.raise_(one.kind, one.subject, one.text)
            if key not in opened:
                self._say(f"alarm {one.kind.value} ({one.subject}): {one.text}")
        for (kind, subject), alarm in opened.items():
            # Of what nobody can see while the records are away nothing is known.
            if (kind, subject) in standing or any(one.kind is AlarmKind.RECORDS_AWAY for one in found):
                continue
            # Of a target whose folder is there, but that takes nothing, only the sensor knows more.
            seen_here = kind in _OF_THE_SITE or (
                kind is AlarmKind.TARGET_AWAY and is_of_the_folder(alarm.text)
            )
            if kind in _WATCHED or (nobody_else and seen_here):
                ledger.alarms.clear(kind, subject)
                self._say(f"cleared {kind.value} ({subject})")

    def _note_statuses(self, found: list[HealthProblem]) -> None:
        """Here and nowhere else: this process is the only one, and looks whatever else is dead."""
        if not is_wanted(self._site) or any(one.kind is AlarmKind.RECORDS_AWAY for one in found):
            return
        if self._statuses is None:
            self._statuses = StatusNotices(self._site)
        try:
            self._statuses.look()
        except MqiError as error:
            # What is away is told of itself, and what changed meanwhile stands there the next time.
            self._say(f"changes of status cannot be read: {error.message}")

    def _send_notices(self) -> None:
        for channel in channels_of(self._site.settings.notifications):
            _, failure = notify(self._site, channel)
            if failure is not None:
                self._say(f"{channel.name}: {failure}")

    def _notify_directly(self, found: list[HealthProblem], now: datetime) -> None:
        """What stands in no ledger, once when it begins and once when it ends."""
        standing = {one.kind: one for one in found if one.kind in _NOT_STORED}
        for kind, one in standing.items():
            if kind not in self._notified:
                self._say(f"alarm {kind.value}: {one.text}")
                if self._send("alarm_raised", one, now):
                    self._notified[kind] = one.subject
                    self._save_notified()
        for kind, subject in [item for item in self._notified.items() if item[0] not in standing]:
            self._say(f"cleared {kind.value}")
            if self._send("alarm_cleared", HealthProblem(kind, subject, "it can be read again"), now):
                del self._notified[kind]
                self._save_notified()

    def _save_notified(self) -> None:
        content = {kind.value: subject for kind, subject in self._notified.items()}
        # On a full disk the next watch says it once more, which is better than to say nothing.
        with suppress(OSError):
            write_whole(self._site.settings.paths.state / _NOTIFIED, json.dumps(content, indent=1).encode())

    def _send(self, event: str, one: HealthProblem, now: datetime) -> bool:
        """Whether nobody has to be told any more: one channel has taken it, or there is none."""
        notifications = self._site.settings.notifications
        channels = [one for one in channels_of(notifications) if event in notifications.told_by(one.name)]
        if not channels:
            return True
        message = Message(
            id=0,
            site=self._site.settings.site.name,
            event=event,
            kind=one.kind.value,
            subject=one.subject,
            text=one.text,
            happened_at=now,
        )
        taken = [self._send_by(channel, message) for channel in channels]
        return any(taken)

    def _send_by(self, channel: Channel, message: Message) -> bool:
        try:
            channel.send(message)
        except MqiError as error:
            self._say(f"{channel.name}: {error.message}")
            return isinstance(error, PartlyTakenError)
        return True


def _read_notified(path: Path) -> dict[AlarmKind, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {AlarmKind(kind): str(subject) for kind, subject in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _is_silenced(found: list[HealthProblem]) -> bool:
    """Whether somebody has switched the notifications off."""
    return any(one.kind is AlarmKind.SENSOR_STOPPED and one.subject == "notifications" for one in found)


def main() -> None:
    """Watch the site of the environment until this process is ended."""
    site = Site.from_environment()
    state = site.settings.paths.state
    state.mkdir(parents=True, exist_ok=True)
    if hold(state / WATCH_LOCK) is None:
        raise ConfigurationError("the service watch of this site runs already")
    watch = Watch(site.settings_file, _log)
    while True:
        try:
            watch.check()
        except Exception as error:  # noqa: BLE001 - a watch that dies of what it sees is none
            _log(f"a check has failed: {safe_text(error)}")
        time.sleep(POLL_SECONDS)


def _log(line: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except MqiError as error:
        sys.exit(f"mqi: {error.message}")
    except KeyboardInterrupt:
        sys.exit(130)
