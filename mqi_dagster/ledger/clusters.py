"""Clusters: whose turn it is to poll all jobs, and whether the last poll got an answer."""

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
    """How polling one cluster goes."""

    cluster: str
    turn: int
    """Rises with every poll, so that one who comes back late is recognised."""
    polling_until: datetime | None
    next_poll: datetime
    interval_seconds: float
    polled_at: datetime | None
    """The last poll that got an answer; for people who read the ledger after an outage."""
    failing_since: datetime | None
    failure: str
    used_bytes: float | None
    """What our folders took below the root when it was measured last."""
    measured_at: datetime | None


def _poll(row: Row[tuple[object, ...]]) -> ClusterPoll:
    return ClusterPoll(**row._mapping)


def _row_of(connection: Connection, cluster: str) -> ClusterPoll | None:
    row = connection.execute(select(CLUSTER).where(CLUSTER.c.cluster == cluster)).one_or_none()
    return None if row is None else _poll(row)


def _is_due(row: ClusterPoll, now: datetime, hold: timedelta) -> bool:
    """Whether a poll is due and nobody polls."""
    # A moment further ahead than anybody could have meant is of a clock that was set back.
    furthest = now + timedelta(seconds=row.interval_seconds) + _CLOCKS_DIFFER
    polls = row.polling_until is not None and now < row.polling_until <= now + hold + _CLOCKS_DIFFER
    return not polls and not now < row.next_poll <= furthest


class Clusters:
    """One row a cluster."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take_turn(self, cluster: str, *, shortest: timedelta, hold: timedelta) -> ClusterPoll | None:
        """The right to poll a cluster now, None while it is not due or somebody else polls.

        Args:
            cluster: Name of the cluster.
            shortest: Interval of the first poll.
            hold: Time after which one who polls and has not come back counts as gone.
        """
        # Every waiting run asks at every poll: one that only reads keeps no writer waiting.
        with self._database.read() as connection:
            row = _row_of(connection, cluster)
        if row is not None and not _is_due(row, self._database.clock(), hold):
            return None
        with self._database.write() as connection:
            now = self._database.clock()
            row = _row_of(connection, cluster)
            if row is None:
                connection.execute(
                    insert(CLUSTER).values(
                        cluster=cluster,
                        turn=0,
                        next_poll=now,
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
                .values(turn=row.turn + 1, polling_until=now + hold)
            )
            return _row_of(connection, cluster) if taken.rowcount == 1 else None

    def end_turn(
        self, turn: ClusterPoll, *, next_in: timedelta, interval: timedelta, failure: str | None = None
    ) -> None:
        """Give the turn back; one that has passed to somebody else changes nothing.

        Args:
            turn: As `take_turn` gave it.
            next_in: When the next poll is due.
            interval: Interval to remember.
            failure: Why there was no answer, None where there was one.
        """
        with self._database.write() as connection:
            now = self._database.clock()
            values: dict[str, object] = {
                "polling_until": None,
                "next_poll": now + next_in,
                "interval_seconds": interval.total_seconds(),
                "failure": failure or "",
            }
            if failure is None:
                values |= {"polled_at": now, "failing_since": None}
            elif turn.failing_since is None:
                values["failing_since"] = now
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == turn.cluster, CLUSTER.c.turn == turn.turn)
                .values(**values)
            )

    def leave_turn(self, turn: ClusterPoll) -> None:
        """Give the turn back without having seen anything: the next poll is due at once."""
        with self._database.write() as connection:
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == turn.cluster, CLUSTER.c.turn == turn.turn)
                .values(polling_until=None, next_poll=self._database.clock())
            )

    def poll_soon(self, cluster: str) -> None:
        """Make the next poll due now: something is known to have changed."""
        with self._database.write() as connection:
            connection.execute(
                update(CLUSTER).where(CLUSTER.c.cluster == cluster).values(next_poll=self._database.clock())
            )

    def get(self, cluster: str) -> ClusterPoll | None:
        """How polling a cluster goes."""
        with self._database.read() as connection:
            return _row_of(connection, cluster)

    def all(self) -> list[ClusterPoll]:
        """How polling every cluster goes."""
        with self._database.read() as connection:
            return [_poll(row) for row in connection.execute(select(CLUSTER).order_by(CLUSTER.c.cluster))]

    def record_usage(self, cluster: str, used_bytes: float) -> None:
        """Write down how much our folders take on a cluster."""
        with self._database.write() as connection:
            connection.execute(
                update(CLUSTER)
                .where(CLUSTER.c.cluster == cluster)
                .values(used_bytes=used_bytes, measured_at=self._database.clock())
            )
