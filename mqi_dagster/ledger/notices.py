"""Notices: what people outside are notified of, in order, by every channel at least once."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import ALARM, NOTICE, NOTICE_CHANNEL, NOTICED_STATUS


class NoticeEvent(StrEnum):
    """What has happened."""

    RAISED = "alarm_raised"
    CLEARED = "alarm_cleared"
    CONCLUDED = "case_concluded"
    STATUS = "status_changed"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to notify people of."""

    id: int
    """Rises with every notice; a receiver that gets one twice knows it by this."""
    event: NoticeEvent
    reference: str
    kind: str
    """Kind of the alarm, or of the partition whose status has changed; empty where it is neither."""
    subject: str
    """Case key, beam key, or name of a host or folder role."""
    text: str
    happened_at: datetime
    state: str = ""
    """Of the partition from then on; empty where no status has changed."""


@dataclass(frozen=True, slots=True)
class SeenStatus:
    """Where a partition stands, as somebody has seen it."""

    partition: str
    kind: str
    state: str
    run_id: str
    """The run that has failed, empty where none has: failed once more is another status."""
    text: str


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How far a channel has come."""

    channel: str
    notified_id: int
    """Everything up to this notice is sent."""
    notified_at: datetime | None
    tries: int
    """In vain, since the last success."""
    next_try_at: datetime | None
    failing_since: datetime | None
    """Since when nothing is taken, or not for everybody."""
    failure: str

    @property
    def trouble(self) -> str:
        """What is wrong with it, for people; empty where nothing is."""
        if self.failing_since is None:
            return ""
        # One that some recipients have is not tried again.
        what = "not taken" if self.tries else "not for everybody"
        return f"{what} since {self.failing_since:%Y-%m-%d %H:%M} UTC: {self.failure}"


def _notice(row: Row[tuple[object, ...]]) -> Notice:
    values = dict(row._mapping)
    values["event"] = NoticeEvent(values["event"])
    return Notice(**values)


def _state(connection: Connection, channel: str) -> ChannelState | None:
    row = connection.execute(select(NOTICE_CHANNEL).where(NOTICE_CHANNEL.c.channel == channel)).one_or_none()
    return None if row is None else ChannelState(**row._mapping)


def _noticed(connection: Connection) -> dict[str, tuple[str, str]]:
    rows = connection.execute(select(NOTICED_STATUS)).all()
    return {row.partition: (row.state, row.run_id) for row in rows}


def add_notice(
    connection: Connection,
    event: NoticeEvent,
    reference: str,
    kind: str,
    subject: str,
    text: str,
    happened_at: datetime,
    state: str = "",
) -> None:
    """Write a notice in the transaction of what it is about; the same event and reference once."""
    known = select(NOTICE.c.id).where(NOTICE.c.event == event.value, NOTICE.c.reference == reference)
    if connection.execute(known).one_or_none() is None:
        connection.execute(
            insert(NOTICE).values(
                event=event.value,
                reference=reference,
                kind=kind,
                subject=subject,
                text=text,
                happened_at=happened_at,
                state=state,
            )
        )


class Notices:
    """The notices and the channels that send them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_conclusion(self, run_id: str, case: str, text: str, happened_at: datetime) -> None:
        """Write down that a case has concluded; the same run once."""
        event = NoticeEvent.CONCLUDED
        with self._database.write() as connection:
            add_notice(connection, event, run_id, "", case, text, happened_at)

    def channel(self, channel: str) -> ChannelState:
        """How far a channel has come; a new one begins with what happens from now on."""
        with self._database.read() as connection:
            found = _state(connection, channel)
        if found is not None:
            return found
        with self._database.write() as connection:
            found = _state(connection, channel)
            if found is None:
                newest = connection.execute(select(func.max(NOTICE.c.id))).scalar_one() or 0
                connection.execute(
                    insert(NOTICE_CHANNEL).values(channel=channel, notified_id=newest, tries=0, failure="")
                )
                found = _state(connection, channel)
            assert found is not None
            return found

    def channels(self) -> list[ChannelState]:
        """Every channel that was ever open, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(NOTICE_CHANNEL).order_by(NOTICE_CHANNEL.c.channel)).all()
        return [ChannelState(**row._mapping) for row in rows]

    def record_statuses(self, seen: Collection[SeenStatus], happened_at: datetime) -> int:
        """Write a notice for each partition that stands elsewhere than the last notice of it said.

        Of what stood there when such notices began there is none. Whoever sees it, and however often, writes
        each change once.

        Args:
            seen: Every partition of the site.
            happened_at: When it was seen.

        Returns:
            How many notices were written.
        """
        now = {"": ("", ""), **{one.partition: (one.state, one.run_id) for one in seen}}
        with self._database.read() as connection:
            if _noticed(connection) == now:
                return 0
        with self._database.write() as connection:
            before = _noticed(connection)
            changed = {key: mark for key, mark in now.items() if before.get(key) != mark}
            for keys in batched([*changed, *(before.keys() - now.keys())]):
                connection.execute(delete(NOTICED_STATUS).where(NOTICED_STATUS.c.partition.in_(keys)))
            rows = [
                {"partition": key, "state": state, "run_id": run} for key, (state, run) in changed.items()
            ]
            if rows:
                connection.execute(insert(NOTICED_STATUS), rows)
            told = [one for one in seen if one.partition in changed] if before else []
            for one in told:
                add_notice(
                    connection, NoticeEvent.STATUS, secrets.token_hex(16), one.kind, one.partition, one.text,
                    happened_at, one.state,
                )  # fmt: skip
        return len(told)

    def due(self, channel: str, limit: int, events: Collection[str] | None = None) -> list[Notice]:
        """What a channel has to send now, oldest first; nothing while it waits for its next try.

        Args:
            channel: Name of the channel.
            limit: How many at most.
            events: What it sends at all; None: everything.
        """
        state, now = self.channel(channel), self._database.clock()
        # A moment further away than any wait is of a clock that was set back.
        if state.next_try_at is not None and now < state.next_try_at <= now + timedelta(days=1):
            return []
        query = select(NOTICE).where(NOTICE.c.id > state.notified_id).order_by(NOTICE.c.id).limit(limit)
        if events is not None:
            query = query.where(NOTICE.c.event.in_(sorted(events)))
        with self._database.read() as connection:
            newest = connection.execute(select(func.max(NOTICE.c.id))).scalar_one() or 0
            found = [_notice(row) for row in connection.execute(query).all()]
        if not found and newest > state.notified_id:
            passed = update(NOTICE_CHANNEL).where(
                NOTICE_CHANNEL.c.channel == channel, NOTICE_CHANNEL.c.notified_id < newest
            )
            with self._database.write() as connection:
                connection.execute(passed.values(notified_id=newest))
        return found

    def mark_notified(self, channel: str, notice: Notice, *, missed: str = "") -> None:
        """Write down that a channel has sent a notice, and with it all before.

        Args:
            channel: Name of the channel.
            notice: What was sent.
            missed: Whom it did not reach; stands as the channel's failure until one reaches everybody.
        """
        with self._database.write() as connection:
            now = self._database.clock()
            failing = func.coalesce(NOTICE_CHANNEL.c.failing_since, now) if missed else None
            connection.execute(
                update(NOTICE_CHANNEL)
                .where(NOTICE_CHANNEL.c.channel == channel, NOTICE_CHANNEL.c.notified_id < notice.id)
                .values(
                    notified_id=notice.id,
                    notified_at=now,
                    tries=0,
                    next_try_at=None,
                    failing_since=failing,
                    failure=missed,
                )
            )
            if notice.event is NoticeEvent.RAISED:
                connection.execute(
                    update(ALARM)
                    .where(ALARM.c.id == int(notice.reference), ALARM.c.notified_at.is_(None))
                    .values(notified_at=now)
                )

    def mark_failed(self, channel: str, failure: str, next_in: timedelta) -> None:
        """Write down that a channel's receiver does not take what is sent, and when to try again."""
        with self._database.write() as connection:
            now = self._database.clock()
            state = _state(connection, channel)
            if state is not None:
                connection.execute(
                    update(NOTICE_CHANNEL)
                    .where(NOTICE_CHANNEL.c.channel == channel)
                    .values(
                        tries=state.tries + 1,
                        next_try_at=now + next_in,
                        failing_since=state.failing_since or now,
                        failure=failure,
                    )
                )
