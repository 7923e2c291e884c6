"""What Dagster's event log says of the runs of a case or a beam."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import dagster as dg

from mqi_dagster.dagster_internals import FINISHED_STATUSES
from mqi_dagster.lifecycle.jobs import PARTITION_TAG
from mqi_dagster.lifecycle.lineage import latest_record


@dataclass(frozen=True, slots=True)
class RunRow:
    """What is needed of one run."""

    id: int
    run_id: str
    job: str
    status: str
    partition: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    tagged: datetime | None
    """When a run that waits was last given other tags, which order the queue; None of all others."""

    @property
    def state(self) -> RunState:
        """How far it is."""
        return run_state(dg.DagsterRunStatus(self.status))

    @property
    def unfinished(self) -> bool:
        """Whether it is queued or in work."""
        return self.status in _UNFINISHED


UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES]
_UNFINISHED = frozenset(status.value for status in UNFINISHED)


def any_unfinished(instance: dg.DagsterInstance, partitions: list[str]) -> bool:
    """Whether a run of one of the partitions is queued or running, however it was started."""
    if not partitions:
        return False
    tags = {PARTITION_TAG: partitions}
    return instance.get_runs_count(dg.RunsFilter(tags=tags, statuses=UNFINISHED)) > 0


def latest_run_record(instance: dg.DagsterInstance, partition: str) -> dg.RunRecord | None:
    """The latest run that targeted a partition, however it was started, with its times."""
    records = instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: partition}), limit=1)
    return records[0] if records else None


def latest_run_of(instance: dg.DagsterInstance, partition: str) -> dg.DagsterRun | None:
    """The latest run that targeted a partition, however it was started."""
    record = latest_run_record(instance, partition)
    return None if record is None else record.dagster_run


def latest_run_succeeded(instance: dg.DagsterInstance, partition: str) -> bool:
    """Whether the latest run that targeted a partition ended in success."""
    run = latest_run_of(instance, partition)
    return run is not None and run.status is dg.DagsterRunStatus.SUCCESS


class RunState(StrEnum):
    """How far the latest run of a partition is."""

    NONE = "not started"
    WAITING = "queued"
    WORKING = "in work"
    DONE = "done"
    AGAIN = "tried again"
    """Infrastructure has ended it; it goes on by itself."""
    FAILED = "failed"
    CANCELLED = "cancelled"


_STATES = {
    dg.DagsterRunStatus.SUCCESS: RunState.DONE,
    dg.DagsterRunStatus.FAILURE: RunState.FAILED,
    dg.DagsterRunStatus.CANCELED: RunState.CANCELLED,
    dg.DagsterRunStatus.QUEUED: RunState.WAITING,
    dg.DagsterRunStatus.NOT_STARTED: RunState.WAITING,
}


def run_state(status: dg.DagsterRunStatus) -> RunState:
    """How far a run of this status is."""
    return _STATES.get(status, RunState.WORKING)


def run_row(record: dg.RunRecord) -> RunRow:
    """What is needed of a run."""
    run = record.dagster_run
    return RunRow(
        id=record.storage_id,
        run_id=run.run_id,
        job=run.job_name,
        status=run.status.value,
        partition=run.tags.get(PARTITION_TAG),
        created=record.create_timestamp,
        started=_moment(record.start_time),
        ended=_moment(record.end_time),
        tagged=record.update_timestamp if run_state(run.status) is RunState.WAITING else None,
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def latest_value(instance: dg.DagsterInstance, asset: str, key: str, name: str) -> bool | None:
    """A truth value in the metadata of the latest materialisation of a partition."""
    record = latest_record(instance, asset, key)
    if record is None or record.asset_materialization is None:
        return None
    value = record.asset_materialization.metadata.get(name)
    return bool(value.value) if value is not None else None
