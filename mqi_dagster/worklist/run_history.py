"""What Dagster's event log says of the runs of a case or a beam."""

from dataclasses import dataclass
from enum import StrEnum

import dagster as dg

from mqi_dagster.sensors.queue import PARTITION_TAG

RUN_KEY_TAG = "dagster/run_key"


class RunState(StrEnum):
    """How far the latest run of a partition is."""

    NONE = "not started"
    WAITING = "queued"
    WORKING = "in work"
    DONE = "done"
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
    records = instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: partition}), limit=1)
    if not records:
        return LatestRun(RunState.NONE)
    run = records[0].dagster_run
    state = run_state(run.status)
    cause, code = first_cause(instance, run.run_id) if state is RunState.FAILED else (None, None)
    return LatestRun(state, run.run_id, run.job_name, cause, code, run.remote_job_origin is not None)


def first_cause(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str | None]:
    """Text and class of the error that a failed run ended with.

    A failing check fails its run with a text that names only the check: what the check found is told.
    """
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in entries:
        data = entry.get_dagster_event().step_failure_data if entry.dagster_event else None
        if data is None:
            continue
        if data.user_failure_data is not None:
            code = data.user_failure_data.metadata.get("error")
            text = data.user_failure_data.description or "failed without a word"
            return text, str(code.value) if code is not None else None
        found = _failed_checks(instance, run_id)
        if found:
            return found, "check"
        kind = data.error.cls_name if data.error is not None else None
        return f"step {entry.step_key} failed: {kind or 'unknown error'}", None
    return "the run ended without an error of its own: its worker is gone", None


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> str:
    texts = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        evaluation = entry.asset_check_evaluation
        if evaluation is None or evaluation.passed or evaluation.severity is not dg.AssetCheckSeverity.ERROR:
            continue
        place = f"{evaluation.asset_key.to_user_string()} has not passed {evaluation.check_name}"
        texts.append(f"{place}: {evaluation.description}" if evaluation.description else place)
    return "; ".join(texts)


def latest_record(instance: dg.DagsterInstance, asset: str, key: str) -> dg.EventLogRecord | None:
    """The latest materialisation of an asset's partition."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key]), limit=1
    ).records
    return records[0] if records else None


def latest_value(instance: dg.DagsterInstance, asset: str, key: str, name: str) -> bool | None:
    """A truth value in the metadata of the latest materialisation of a partition."""
    record = latest_record(instance, asset, key)
    if record is None or record.asset_materialization is None:
        return None
    value = record.asset_materialization.metadata.get(name)
    return bool(value.value) if value is not None else None
