"""What Dagster's event log says of the runs of a case or a beam."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import dagster as dg

from mqi_dagster.dagster_internals import FINISHED_STATUSES
from mqi_dagster.lifecycle.causes import first_cause
from mqi_dagster.lifecycle.jobs import PARTITION_TAG
from mqi_dagster.lifecycle.lineage import latest_record

CONCLUSION = "conclusion"


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


def latest_run_of(instance: dg.DagsterInstance, partition: str) -> dg.DagsterRun | None:
    """The latest run that targeted a partition, however it was started."""
    records = instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: partition}), limit=1)
    return records[0].dagster_run if records else None


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


@dataclass(frozen=True, slots=True)
class LatestRun:
    """The latest run that targeted a partition."""

    state: RunState
    run_id: str | None = None
    job: str | None = None
    cause: str | None = None
    """First cause of its failure."""
    code: str | None = None
    """Class of the error (errors.py)."""
    known_to_services: bool = False
    """Whether the daemon has launched it, so that it can be re-executed as a run."""


def run_state(status: dg.DagsterRunStatus) -> RunState:
    """How far a run of this status is."""
    return _STATES.get(status, RunState.WORKING)


def latest_run(instance: dg.DagsterInstance, partition: str) -> LatestRun:
    """The latest run that targeted a partition, however it was started."""
    run = latest_run_of(instance, partition)
    if run is None:
        return LatestRun(RunState.NONE)
    state, served = run_state(run.status), run.remote_job_origin is not None
    if state is not RunState.FAILED:
        return LatestRun(state, run.run_id, run.job_name, known_to_services=served)
    cause = first_cause(instance, run.run_id)
    if cause.again and served:
        state = RunState.AGAIN
    return LatestRun(state, run.run_id, run.job_name, cause.text, cause.code, served)


def latest_value(instance: dg.DagsterInstance, asset: str, key: str, name: str) -> bool | None:
    """A truth value in the metadata of the latest materialisation of a partition."""
    record = latest_record(instance, asset, key)
    if record is None or record.asset_materialization is None:
        return None
    value = record.asset_materialization.metadata.get(name)
    return bool(value.value) if value is not None else None
