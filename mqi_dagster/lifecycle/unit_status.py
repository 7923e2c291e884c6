"""Where a unit stands that is worked on whole, and why: what is no case, and has no parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.pipeline import Job
from mqi_dagster.lifecycle.runs import RunState
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.lifecycle.status import NO_RUN_YET, CaseStatus, RunFacts, reported_stage

NOT_ALL_MADE = "its latest run has not made all of its results: materialise them"


def unit_status(
    key: str, jobs: Sequence[Job], arrival: Arrival | None, latest: RunFacts, concluded: Callable[[], bool]
) -> CaseStatus:
    """Where a unit stands that is worked on whole, without parts.

    Args:
        key: Of its partition.
        jobs: In the order in which they follow each other.
        arrival: What the ledger knows of its arrival.
        latest: Its latest run.
        concluded: Whether it was concluded with the results that it has now.
    """
    state, stage, reason, step = _unit_state(jobs, arrival, latest, concluded)
    return CaseStatus(
        case=key,
        fraction=None,
        arrived=arrival.first_seen if arrival is not None else None,
        state=state,
        stage=stage,
        reason=reason,
        next_step=step,
        percent=latest.report.percent if latest.report is not None else 0.0,
        priority=arrival.priority if arrival is not None else latest.priority,
        since=latest.since or (arrival.first_seen if arrival is not None else None),
        run=latest.run_id,
    )


def _unit_state(
    jobs: Sequence[Job], arrival: Arrival | None, latest: RunFacts, concluded: Callable[[], bool]
) -> tuple[CaseState, Stage, str, str | None]:
    """State, stage, reason and next step."""
    broken = latest.broken()
    if broken is not None:
        return broken
    if latest.state is RunState.WAITING:
        return CaseState.IN_WORK, Stage.QUEUED, latest.queued_because, None
    if latest.state is RunState.WORKING:
        if latest.report is not None:
            return CaseState.IN_WORK, *reported_stage(latest.report), None
        name = latest.run.job if latest.run is not None else ""
        job = next((job for job in jobs if job.name == name), jobs[0])
        return CaseState.IN_WORK, job.stage(latest.steps), "", None
    if arrival is not None and not arrival.ready and latest.state is RunState.NONE:
        return CaseState.WAITING, Stage.INBOX, arrival.reason, None
    if arrival is not None and arrival.is_open:
        return CaseState.WAITING, Stage.READY, NO_RUN_YET, None
    if concluded():
        return CaseState.COMPLETE, Stage.CONCLUDED, "", None
    reason = NO_RUN_YET if latest.state is RunState.NONE else NOT_ALL_MADE
    return CaseState.WAITING, Stage.WAITING, reason, None
