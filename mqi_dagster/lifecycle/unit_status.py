"""Where a unit stands that is worked on whole, and why: what is no case, and has no parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.case_status import NO_RUN_YET, PartitionStatus, RunFacts, reported_stage
from mqi_dagster.lifecycle.failures import next_step
from mqi_dagster.lifecycle.pipeline import AssetJob
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import CaseState, Stage

NOT_ALL_MADE = "its latest run has not made all of its results: materialise them"


def unit_status(
    jobs: Sequence[AssetJob],
    arrival: Arrival | None,
    latest: RunFacts,
    concluded: Callable[[], bool],
    command: str = "case",
) -> PartitionStatus:
    """Where a unit stands that is worked on whole, without parts.

    Args:
        jobs: In the order in which they follow each other.
        arrival: What the ledger knows of its arrival.
        latest: Its latest run.
        concluded: Whether it was concluded with the results that it has now.
        command: What follows `mqi` in the commands for it.
    """
    percent = latest.report.percent if latest.report is not None else 0.0
    found = replace(_status(jobs, arrival, latest, concluded), percent=percent)
    if found.next_step is None:
        return found
    code = latest.failure.code if latest.failure is not None else None
    return replace(found, next_step=next_step(code, command, served=latest.served))


def _status(
    jobs: Sequence[AssetJob], arrival: Arrival | None, latest: RunFacts, concluded: Callable[[], bool]
) -> PartitionStatus:
    broken = latest.broken()
    if broken is not None:
        return broken
    if latest.state is RunState.WAITING:
        return PartitionStatus(CaseState.IN_WORK, Stage.QUEUED, latest.queued_because)
    if latest.state is RunState.WORKING:
        if latest.report is not None:
            return PartitionStatus(CaseState.IN_WORK, *reported_stage(latest.report))
        name = latest.run.job if latest.run is not None else ""
        job = next((job for job in jobs if job.name == name), jobs[0])
        return PartitionStatus(CaseState.IN_WORK, job.stage(latest.steps))
    if arrival is not None and not arrival.ready and latest.state is RunState.NONE:
        return PartitionStatus(CaseState.WAITING, Stage.TREE, arrival.reason)
    if arrival is not None and arrival.is_open:
        return PartitionStatus(CaseState.WAITING, Stage.READY, NO_RUN_YET)
    if concluded():
        return PartitionStatus(CaseState.COMPLETE, Stage.CONCLUDED)
    reason = NO_RUN_YET if latest.state is RunState.NONE else NOT_ALL_MADE
    return PartitionStatus(CaseState.WAITING, Stage.WAITING, reason)
