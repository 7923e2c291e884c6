"""Clusters: whose turn it is to look at all jobs, and whether the last look got an answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, insert, select, update

from mqi_dagster.ledger.database import Database
from mqi_dagster.ledger.tables import CLUSTER

_CLOCKS_DIFFER = timedelta(minutes=5)
"""By less, those of machines that share a ledger."""


@dataclass(frozen=True, slots=True)
class ClusterPoll:
    """The state of looking at one cluster."""

    cluster: str
    turn: int
    """Rises with every look, so that one who comes back late is recognised."""
    looking_until: datetime | None
    next_look: datetime
    interval_seconds: float
    looked_at: datetime | None
    """The last look that got an answer; for people who read the ledger after an outage."""
    failing_since: datetime | None
    failure: str
    used_bytes: float | None
    """What our folders took below the root when it was measured last."""
    measured_at: datetime | None


def _look(row: Row[tuple[object, ...]]) -> ClusterPoll:
    return ClusterPoll(**row._mapping)


def _row_of(connection: Connection, cluster: str) -> ClusterPoll | None:
    row = connection.execute(select(CLUSTER).where(CLUSTER.c.cluster == cluster)).one_or_none()
    return None if row is None else _look(row)


def _is_due(row: ClusterPoll, now: datetime, hold: timedelta) -> bool:
    """Whether a look is due and nobody looks."""
    # A moment further ahead than anybody could have meant is of a clock that was set back.
    furthest = now + timedelta(seconds=row.interval_seconds) + _CLOCKS_DIFFER
    looks = row.looking_until is not None and now < row.looking_until <= now + hold + _CLOCKS_DIFFER
    return not looks and not now < row.next_look <= furthest


class ClusterRows(Database):
    """One row a cluster."""

    def take_turn(self, cluster: str, *, shortest: timedelta, hold: timedelta) -> ClusterPoll | None:
        """The right to look at a cluster now, None while it is not due or somebody else looks.

        Args:
            cluster: Name of the cluster.
            shortest: Interval of the first look.
            hold: Time after which a looker that has not come back counts as gone.
        """
        # Every waiting beam asks at every poll: one that only reads keeps no writer waiting.
        with self._read() as connection:
            row = _row_of(connection, cluster)
        if row is not None and not _is_due(row, self._clock(), hold):
            return None
        with self._write() as connection:
            now = self._clock()
            row = _row_of(connection, cluster)
            if row is None:
                connection.execute(
                    insert(CLUSTER).values(
                        cluster=cluster,
                        turn=0,
                        next_look=now,
                        interval_seconds=shortest.total_seconds(),
                        failure="",
                    )
                )
                row = _row_of(connection, cluster)
                assert row is not None
            if not _is_due(row, now, hold):
                return None
            taken = connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == cluster, CLUSTER.c.turn == row.turn)
                .values(turn=row.turn + 1, looking_until=now + hold)
            )
            return _row_of(connection, cluster) if taken.rowcount == 1 else None

    def end_turn(
        self, look: ClusterPoll, *, next_in: timedelta, interval: timedelta, failure: str | None = None
    ) -> None:
        """Give the turn back; one that has passed to somebody else changes nothing.

        Args:
            look: As `take_turn` gave it.
            next_in: When the next look is due.
            interval: Interval to remember.
            failure: Why there was no answer, None where there was one.
        """
        with self._write() as connection:
            now = self._clock()
            values: dict[str, object] = {
                "looking_until": None,
                "next_look": now + next_in,
                "interval_seconds": interval.total_seconds(),
                "failure": failure or "",
            }
            if failure is None:
                values |= {"looked_at": now, "failing_since": None}
            elif look.failing_since is None:
                values["failing_since"] = now
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == look.cluster, CLUSTER.c.turn == look.turn)
                .values(**values)
            )

    def leave_turn(self, look: ClusterPoll) -> None:
        """Give the turn back without having seen anything: the next look is due at once."""
        with self._write() as connection:
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == look.cluster, CLUSTER.c.turn == look.turn)
                .values(looking_until=None, next_look=self._clock())
            )

    def poll_soon(self, cluster: str) -> None:
        """Make the next look due now: something is known to have changed."""
        with self._write() as connection:
            connection.execute(
                update(CLUSTER).where(CLUSTER.c.cluster == cluster).values(next_look=self._clock())
            )

    def cluster_poll(self, cluster: str) -> ClusterPoll | None:
        """How looking at a cluster goes."""
        with self._read() as connection:
            return _row_of(connection, cluster)

    def cluster_polls(self) -> list[ClusterPoll]:
        """How looking at every cluster goes."""
        with self._read() as connection:
            return [_look(row) for row in connection.execute(select(CLUSTER).order_by(CLUSTER.c.cluster))]

    def measured(self, cluster: str, used_bytes: float) -> None:
        """Write down how much our folders take on a cluster."""
        with self._write() as connection:
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == cluster)
                .values(used_bytes=used_bytes, measured_at=self._clock())
            )
