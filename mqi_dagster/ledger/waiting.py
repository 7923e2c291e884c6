"""Who waits for a slot: the most urgent beam is first, and among equals the one that has waited longest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import WAITING

LONGEST = timedelta(minutes=10)
"""For longer no row counts after its run was heard of last."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One beam whose run waits for a slot."""

    beam: str
    owner: str
    """Run id."""
    host: str
    """Whose slots it waits for; empty for any."""
    kind: str
    priority: int
    reason: str
    since: datetime
    until: datetime
    """It counts until then; a run that lives moves it on."""


class WaitingRows(Database):
    """The beams that wait for a slot."""

    def waiting_beams(self) -> list[Waiting]:
        """Every beam whose run waits for a slot now, the one that is next first."""
        now = self._clock()
        with self._read() as connection:
            rows = connection.execute(
                select(WAITING)
                .where(WAITING.c.until >= now)
                .order_by(WAITING.c.priority.desc(), WAITING.c.since, WAITING.c.owner, WAITING.c.beam)
            ).all()
        return [Waiting(**row._mapping) for row in rows]

    def stop_waiting(self, beam: str, owner: str) -> None:
        """Forget that a run waits; nothing where it does not."""
        with self._write() as connection:
            remove_waiting(connection, beam, owner)


def remove_waiting(connection: Connection, beam: str, owner: str | None = None) -> None:
    """Take a beam out of those that wait."""
    this = [WAITING.c.beam == beam, *([] if owner is None else [WAITING.c.owner == owner])]
    connection.execute(delete(WAITING).where(*this))


def ahead_of(
    connection: Connection, beam: str, kind: str, host: str | None, priority: int, now: datetime
) -> tuple[int, bool]:
    """How many others wait for the same slots and come first, and whether the beam itself is written down.

    Args:
        connection: Inside the transaction that would give the slot.
        beam: Who asks; it may wait already.
        kind: Kind of slot.
        host: Whose slots; None for any.
        priority: Of the asking beam, now.
        now: Rows whose time is over, or lies beyond any that is ever given, are of runs that are gone.
    """
    rows = connection.execute(select(WAITING)).all()
    alive = [row for row in rows if row.kind == kind and now <= row.until <= now + LONGEST]
    own = next((row for row in alive if row.beam == beam), None)
    since, owner = (now, "") if own is None else (own.since, own.owner)
    others = [row for row in alive if row.beam != beam and (host is None or row.host in ("", host))]
    place = (-priority, since, owner, beam)
    ahead = sum((-row.priority, row.since, row.owner, row.beam) < place for row in others)
    return ahead, any(row.beam == beam for row in rows)


def note_waiting(connection: Connection, asked: Waiting) -> None:
    """Write down that a beam waits; the time since when stays while it does."""
    row = connection.execute(select(WAITING).where(WAITING.c.beam == asked.beam)).one_or_none()
    values = {
        "owner": asked.owner,
        "host": asked.host,
        "kind": asked.kind,
        "priority": asked.priority,
        "reason": asked.reason,
        "until": asked.until,
    }
    if row is None:
        connection.execute(insert(WAITING).values(beam=asked.beam, since=asked.since, **values))
        return
    same = all(row._mapping[name] == value for name, value in values.items() if name != "until")
    # Most polls change nothing: a write each would cost a disk's flush for every waiting run.
    if same and asked.since <= row.until and (row.until - asked.since) * 2 > asked.until - asked.since:
        return
    gone = row.until < asked.since
    connection.execute(
        update(WAITING)
        .where(WAITING.c.beam == asked.beam)
        .values(since=asked.since if gone else row.since, **values)
    )
