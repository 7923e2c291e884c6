"""Jobs on clusters: one row a job key, written before the job is submitted and for as long as it matters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.ledger.database import Database, batched
from mqi_dagster.ledger.tables import CLUSTER_JOB


class ClusterJobState(StrEnum):
    """Where a job on a cluster is."""

    RESERVED = "reserved"
    """Written down; whether sbatch was called is not known here."""
    QUEUED = "queued"
    HELD = "held"
    """It will not start or go on before a person or the scheduler lets it."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Ended without a verdict on the engine: node, controller, preemption."""

    @property
    def ended(self) -> bool:
        """Whether this job will not change any more."""
        return self not in _OPEN


_OPEN = (
    ClusterJobState.RESERVED,
    ClusterJobState.QUEUED,
    ClusterJobState.HELD,
    ClusterJobState.RUNNING,
)


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """One job key on one cluster."""

    cluster: str
    key: str
    """Digest and attempt: the job's comment on the cluster, and its folder's name."""
    partition: str
    folder: str
    """Folder below the cluster's root, without the key."""
    state: ClusterJobState
    job_id: str | None
    retired: tuple[str, ...]
    """Ids of earlier jobs of this key that were lost or cancelled and must never be taken for it again."""
    adopted: bool
    """Whether it was found on the cluster, where another ledger had asked for it: its failure is not ours."""
    submitted: str | None
    """When Slurm took the job, in Slurm's own words: tells it from another one with a reused id."""
    scheduler_state: str
    reason: str
    exit_code: int | None
    result: str | None
    """What the job has written about its end, as JSON."""
    missing_since: datetime | None
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    removed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What one poll of the cluster says about one job."""

    key: str
    job_id: str
    """The id that was polled; where the row has another one by now, nothing is written."""
    state: ClusterJobState
    scheduler_state: str = ""
    reason: str = ""
    exit_code: int | None = None
    result: str | None = None
    submitted: str | None = None
    missing_since: datetime | None = None
    adopted_id: str | None = None
    """The job that owns the folder, where it is another one."""


def _job(row: Row[tuple[object, ...]]) -> ClusterJob:
    values: dict[str, Any] = dict(row._mapping)
    values["state"] = ClusterJobState(values["state"])
    values["retired"] = tuple(part for part in values["retired"].split(",") if part)
    return ClusterJob(**values)


def _one(connection: Connection, cluster: str, key: str) -> ClusterJob | None:
    row = connection.execute(
        select(CLUSTER_JOB).where(CLUSTER_JOB.c.cluster == cluster, CLUSTER_JOB.c.key == key)
    ).one_or_none()
    return None if row is None else _job(row)


def _known(connection: Connection, cluster: str, key: str) -> ClusterJob:
    row = _one(connection, cluster, key)
    if row is None:
        raise InfrastructureError("the ledger knows no job of this key")
    return row


def _set(connection: Connection, cluster: str, key: str, **values: object) -> None:
    connection.execute(
        update(CLUSTER_JOB).where(CLUSTER_JOB.c.cluster == cluster, CLUSTER_JOB.c.key == key).values(**values)
    )


class ClusterJobs:
    """The jobs of every cluster."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reserve(self, cluster: str, key: str, partition: str, folder: str) -> ClusterJob:
        """Write a job down before it is submitted; one that has come to the cluster is left as it is."""
        with self._database.write() as connection:
            row, now = _one(connection, cluster, key), self._database.clock()
            if row is not None and row.state.ended and row.job_id is None:
                # It never came to the cluster, and now it is wanted again.
                _set(
                    connection,
                    cluster,
                    key,
                    state=ClusterJobState.RESERVED.value,
                    ended_at=None,
                    cancel_requested_at=None,
                    removed_at=None,
                    changed_at=now,
                )
            if row is None:
                connection.execute(
                    insert(CLUSTER_JOB).values(
                        cluster=cluster,
                        key=key,
                        partition=partition,
                        folder=folder,
                        state=ClusterJobState.RESERVED.value,
                        retired="",
                        adopted=False,
                        scheduler_state="",
                        reason="",
                        created_at=now,
                        changed_at=now,
                    )
                )
            return _known(connection, cluster, key)

    def retire(self, cluster: str, key: str, job_id: str) -> ClusterJob:
        """Set a job aside that ended without a verdict, so that the same key can be submitted again."""
        with self._database.write() as connection:
            row = _known(connection, cluster, key)
            if row.job_id == job_id:
                _set(
                    connection,
                    cluster,
                    key,
                    state=ClusterJobState.RESERVED.value,
                    job_id=None,
                    retired=",".join(dict.fromkeys((*row.retired, job_id))),
                    adopted=False,
                    submitted=None,
                    scheduler_state="",
                    reason="",
                    exit_code=None,
                    result=None,
                    missing_since=None,
                    ended_at=None,
                    cancel_requested_at=None,
                    removed_at=None,
                    changed_at=self._database.clock(),
                )
            return _known(connection, cluster, key)

    def mark_submitted(self, cluster: str, key: str, job_id: str, *, adopted: bool = False) -> ClusterJob:
        """Write down the id that a job was given; one that is known already changes nothing."""
        with self._database.write() as connection:
            row = _known(connection, cluster, key)
            if row.job_id != job_id:
                _set(
                    connection,
                    cluster,
                    key,
                    job_id=job_id,
                    # Slurm may give an id out again, and a job that was given up may live after all.
                    retired=",".join(one for one in row.retired if one != job_id),
                    adopted=adopted,
                    state=ClusterJobState.QUEUED.value,
                    submitted=None,
                    missing_since=None,
                    ended_at=None,
                    removed_at=None,
                    changed_at=self._database.clock(),
                )
            return _known(connection, cluster, key)

    def observe(self, cluster: str, observations: Sequence[Observation]) -> int:
        """Write down what a poll of the cluster has seen; how many rows it changed in their state.

        A row whose job has ended, or has another id by now, is left as it is.
        """
        changed = 0
        with self._database.write() as connection:
            for seen in observations:
                row = _one(connection, cluster, seen.key)
                if row is None or row.job_id != seen.job_id or row.state.ended:
                    continue
                now = self._database.clock()
                new = (seen.state, seen.scheduler_state, seen.reason)
                moved = new != (row.state, row.scheduler_state, row.reason)
                changed += moved
                _set(
                    connection,
                    cluster,
                    seen.key,
                    state=seen.state.value,
                    job_id=seen.adopted_id or seen.job_id,
                    scheduler_state=seen.scheduler_state,
                    reason=seen.reason,
                    exit_code=seen.exit_code,
                    result=seen.result,
                    # A requeued job, and one that owns the folder, has a time of its own.
                    submitted=seen.submitted or (None if seen.adopted_id else row.submitted),
                    missing_since=seen.missing_since,
                    changed_at=now if moved else row.changed_at,
                    ended_at=now if seen.state.ended else None,
                )
        return changed

    def request_cancel(self, cluster: str, key: str) -> ClusterJob | None:
        """Write down that a job is to be cancelled, before the cluster hears of it; None where none is."""
        with self._database.write() as connection:
            row = _one(connection, cluster, key)
            if row is not None and row.cancel_requested_at is None:
                now = self._database.clock()
                _set(connection, cluster, key, changed_at=now, cancel_requested_at=now)
            return _one(connection, cluster, key)

    def end_unsubmitted(self, cluster: str, key: str) -> None:
        """Write down that a reserved job never came to the cluster and is not wanted any more."""
        with self._database.write() as connection:
            row = _one(connection, cluster, key)
            if row is not None and row.job_id is None:
                now, state = self._database.clock(), ClusterJobState.CANCELLED.value
                _set(connection, cluster, key, changed_at=now, state=state, ended_at=now)

    def mark_lost(self, cluster: str, key: str, reason: str) -> None:
        """Count a job that has ended as lost: what it left behind is of no use."""
        with self._database.write() as connection:
            row = _one(connection, cluster, key)
            if row is not None and row.state.ended:
                state = ClusterJobState.LOST.value
                _set(connection, cluster, key, changed_at=self._database.clock(), state=state, reason=reason)

    def mark_removed(self, cluster: str, key: str) -> None:
        """Write down that the folder of a job that has ended is gone from the cluster."""
        with self._database.write() as connection:
            row = _one(connection, cluster, key)
            if row is not None and row.state.ended:
                now = self._database.clock()
                _set(connection, cluster, key, changed_at=now, removed_at=now)

    def get(self, cluster: str, key: str) -> ClusterJob | None:
        """The job of a key."""
        with self._database.read() as connection:
            return _one(connection, cluster, key)

    def all(self, cluster: str | None = None, partition: str | None = None) -> list[ClusterJob]:
        """Every job, oldest first, of a cluster or a partition where one is named."""
        query = select(CLUSTER_JOB).order_by(CLUSTER_JOB.c.created_at, CLUSTER_JOB.c.key)
        if cluster is not None:
            query = query.where(CLUSTER_JOB.c.cluster == cluster)
        if partition is not None:
            query = query.where(CLUSTER_JOB.c.partition == partition)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query).all()]

    def open(self, cluster: str) -> list[ClusterJob]:
        """The submitted jobs of a cluster that have not ended."""
        query = select(CLUSTER_JOB).where(
            CLUSTER_JOB.c.cluster == cluster,
            CLUSTER_JOB.c.job_id.is_not(None),
            CLUSTER_JOB.c.state.in_([state.value for state in _OPEN]),
        )
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query.order_by(CLUSTER_JOB.c.key)).all()]

    def newest(self, partitions: Collection[str]) -> dict[str, ClusterJob]:
        """The newest job of each partition that has one, in one question for every few hundred."""
        found: dict[str, ClusterJob] = {}
        with self._database.read() as connection:
            for some in batched(partitions):
                query = select(CLUSTER_JOB).where(CLUSTER_JOB.c.partition.in_(some))
                rows = connection.execute(query.order_by(CLUSTER_JOB.c.created_at, CLUSTER_JOB.c.key)).all()
                found.update((row.partition, _job(row)) for row in rows)
        return found

    def removable(self, cluster: str, ended_before: datetime) -> list[ClusterJob]:
        """The jobs that ended before a moment and whose folders are still on the cluster."""
        query = select(CLUSTER_JOB).where(
            CLUSTER_JOB.c.cluster == cluster,
            CLUSTER_JOB.c.state.not_in([state.value for state in _OPEN]),
            CLUSTER_JOB.c.ended_at < ended_before,
            CLUSTER_JOB.c.removed_at.is_(None),
        )
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query.order_by(CLUSTER_JOB.c.ended_at)).all()]
