"""Alarms: what a person should know now, each open once, and what it takes to close it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, Row, insert, select, true, update

from mqi_dagster.errors import InputError
from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.notices import NoticeEvent, add_notice
from mqi_dagster.ledger.tables import ALARM

_SEEN_AGAIN = timedelta(minutes=5)
"""An alarm that stands is written down again no more often: it is raised anew at every evaluation."""


class AlarmKind(StrEnum):
    """What an alarm is about."""

    BEAM_FAILED = "beam_failed"
    """A beam has failed for good."""
    CASE_FAILED = "case_failed"
    """The intake or the conclusion of a case has failed for good."""
    PARTITION_FAILED = "partition_failed"
    """What is neither a case nor a beam has failed for good."""
    RETRIED_LONG = "retried_long"
    """A case or beam is tried again and again, since infrastructure is away."""
    BEAM_STUCK = "beam_stuck"
    """An engine runs without progress."""
    BEAMS_WAITING = "beams_waiting"
    """Runs have stood in the queue for long, or runs in work wait for a slot or in a cluster's queue."""
    CLUSTER_AWAY = "cluster_away"
    """A cluster that beams wait for does not answer."""
    TARGET_AWAY = "target_away"
    """The host of the hand-over does not answer, or the folder there cannot be written."""
    JOBS_HELD = "jobs_held"
    """Jobs are held in a cluster's queue until a person releases them."""
    JOBS_LOST = "jobs_lost"
    """A cluster loses the jobs of a beam again and again."""
    GPU_LOST = "gpu_lost"
    """A GPU of the pool is not there any more."""
    QUOTA = "quota"
    """Our folders on a cluster take more than the site wants."""
    DISK_FULL = "disk_full"
    """A folder of the site has little room left."""
    INBOX_AWAY = "inbox_away"
    """The inbox cannot be read, or is an empty mount point."""
    DICOM_AWAY = "dicom_away"
    """The tree of DICOM files cannot be read, or is an empty mount point; or Orthanc does not answer."""
    SENSOR_FAILING = "sensor_failing"
    """A sensor fails again and again, or is not evaluated any more."""
    SENSOR_STOPPED = "sensor_stopped"
    """Somebody has switched a sensor off."""
    DAEMON_AWAY = "daemon_away"
    """Dagster's daemon does not run."""
    CODE_AWAY = "code_away"
    """The code location does not answer, or cannot be loaded."""
    WATCH_AWAY = "watch_away"
    """The service that watches the others does not run."""
    SERVICES_AWAY = "services_away"
    """No service runs, and something waits for them."""
    LEDGER_AWAY = "ledger_away"
    """The ledger cannot be read or written: this one can stand in no ledger."""
    IDENTITY_LEFT = "identity_left"
    """A case was taken in under a name that identifies the patient; what is out of reach stays."""
    RECORDS_AWAY = "records_away"
    """Dagster's database cannot be read."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, from its first raise to its end."""

    id: int
    kind: AlarmKind
    subject: str
    """Case key, beam key, or name of a host or folder role."""
    text: str
    """What is wrong and what to do, without paths and identifiers."""
    first_at: datetime
    last_at: datetime
    count: int
    """How often it was raised by a new event."""
    cleared_at: datetime | None
    notified_at: datetime | None
    """When the first channel of the notifications has sent it."""


def _alarm(row: Row[tuple[object, ...]]) -> Alarm:
    values = dict(row._mapping)
    values["kind"] = AlarmKind(values["kind"])
    return Alarm(**values)


class Alarms:
    """The alarms, at most one open row for each kind and subject."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def raise_(
        self, kind: AlarmKind | str, subject: str, text: str, happened_at: datetime | None = None
    ) -> Alarm:
        """Open an alarm, or say once more that it stands.

        Args:
            kind: What it is about.
            subject: Case key, beam key, or name of a host or folder role.
            text: What is wrong and what to do, without paths and identifiers.
            happened_at: When the event that raises it happened; the same event twice counts once. None for
                a state that is evaluated again and again.
        """
        wanted = AlarmKind(kind)
        query = select(ALARM).where(
            ALARM.c.kind == wanted.value, ALARM.c.subject == subject, ALARM.c.cleared_at.is_(None)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is not None and not self._worth_a_write(_alarm(row), text, happened_at):
            return _alarm(row)
        with self._database.write() as connection:
            now = self._database.clock()
            row = connection.execute(query).one_or_none()
            if row is None:
                made = connection.execute(
                    insert(ALARM)
                    .values(
                        kind=wanted.value,
                        subject=subject,
                        text=text,
                        first_at=happened_at or now,
                        last_at=happened_at or now,
                        count=1,
                    )
                    .returning(ALARM.c.id)
                ).scalar_one()
                add_notice(connection, NoticeEvent.RAISED, str(made), wanted.value, subject, text, now)
            else:
                known = _alarm(row)
                new = happened_at is not None and happened_at > known.last_at
                connection.execute(
                    update(ALARM)
                    .where(ALARM.c.id == known.id)
                    .values(
                        text=text,
                        last_at=max(known.last_at, happened_at or now),
                        count=known.count + new,
                    )
                )
            return _alarm(connection.execute(query).one())

    def _worth_a_write(self, alarm: Alarm, text: str, happened_at: datetime | None) -> bool:
        if happened_at is not None:
            return happened_at > alarm.last_at
        return text != alarm.text or abs(self._database.clock() - alarm.last_at) > _SEEN_AGAIN

    def clear(self, kind: AlarmKind | str, subject: str) -> bool:
        """Close an alarm whose cause is gone; whether it was open."""
        return self.clear_all([kind], [subject]) > 0

    def clear_all(self, kinds: Collection[AlarmKind | str], subjects: Collection[str]) -> int:
        """Close the open alarms of some kinds and subjects; how many there were."""
        query = select(ALARM).where(
            ALARM.c.kind.in_([AlarmKind(kind).value for kind in kinds]),
            ALARM.c.subject.in_(sorted(set(subjects))),
            ALARM.c.cleared_at.is_(None),
        )
        with self._database.read() as connection:
            if connection.execute(query.limit(1)).one_or_none() is None:
                return 0
        with self._database.write() as connection:
            return self._clear(connection, [_alarm(row) for row in connection.execute(query).all()])

    def dismiss(self, number: int) -> Alarm:
        """Close an alarm because a person says so; a state that goes on raises it anew.

        Raises:
            InputError: No open alarm has this number.
        """
        query = select(ALARM).where(ALARM.c.id == number, ALARM.c.cleared_at.is_(None))
        with self._database.write() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise InputError(f"no open alarm has the number {number}; `mqi alarms` lists them")
            self._clear(connection, [_alarm(row)])
            return _alarm(connection.execute(select(ALARM).where(ALARM.c.id == number)).one())

    def _clear(self, connection: Connection, alarms: list[Alarm]) -> int:
        now = self._database.clock()
        for alarm in alarms:
            connection.execute(update(ALARM).where(ALARM.c.id == alarm.id).values(cleared_at=now))
            event, reference = NoticeEvent.CLEARED, str(alarm.id)
            add_notice(connection, event, reference, alarm.kind.value, alarm.subject, alarm.text, now)
        return len(alarms)

    def open(self) -> list[Alarm]:
        """The alarms that stand, the newest first."""
        return self._newest_first(ALARM.c.cleared_at.is_(None))

    def all(self) -> list[Alarm]:
        """Every alarm that was ever raised, the newest first."""
        return self._newest_first(true())

    def _newest_first(self, wanted: ColumnElement[bool]) -> list[Alarm]:
        query = select(ALARM).where(wanted).order_by(ALARM.c.first_at.desc(), ALARM.c.id.desc())
        with self._database.read() as connection:
            return [_alarm(row) for row in connection.execute(query).all()]
