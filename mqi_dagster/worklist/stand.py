"""The one rule for where a case and a beam stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.progress import Progress
from mqi_dagster.lifecycle.causes import CANCELLED, next_step
from mqi_dagster.partitions import split_beam_key, split_case_key
from mqi_dagster.worklist.manifests import missing
from mqi_dagster.worklist.rows import BeamStand, CaseStand
from mqi_dagster.worklist.run_history import RunState
from mqi_dagster.worklist.runs import CONCLUSION, RunRow
from mqi_dagster.worklist.stages import PHASES, CaseState, Stage

_SIMULATION = frozenset({"interpreted_csvs", "simulation"})
NO_RUN_YET = "no run yet: at most 200 stand in the queue, the most urgent first"
NOT_HANDED_OVER = "its latest dose has not been handed over: materialise handed_over"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A partition's latest run, and what is known of it beside its row."""

    run: RunRow | None = None
    queued_because: str = ""
    priority: int = 0
    again: bool = False
    """Whether it has ended since infrastructure was lost, and goes on by itself."""
    next_try: datetime | None = None
    """When, where that is known already."""
    cause: str | None = None
    code: str | None = None
    """Class of the error."""
    steps: frozenset[str] = frozenset()
    """Steps that it executes; empty where it is all of them."""

    @property
    def state(self) -> RunState:
        """How far the run is."""
        return self.run.state if self.run is not None else RunState.NONE

    @property
    def run_id(self) -> str | None:
        """Its id."""
        return self.run.run_id if self.run is not None else None

    @property
    def since(self) -> datetime | None:
        """When it was asked for, started or ended, whichever came last."""
        return None if self.run is None else self.run.ended or self.run.started or self.run.created

    def elapsed(self, now: datetime) -> float | None:
        """Seconds from its start to its end or to now."""
        if self.run is None or self.run.started is None:
            return None
        return max(0.0, ((self.run.ended or now) - self.run.started).total_seconds())

    def broken(self) -> tuple[CaseState, Stage, str, str | None] | None:
        """State, stage, reason and next step of a run that ended badly; None where it did not."""
        if self.state is RunState.CANCELLED:
            return CaseState.FAILED, Stage.CANCELLED, CANCELLED, next_step(None)
        if self.state is not RunState.FAILED:
            return None
        if self.again:
            at = f" at {self.next_try:%Y-%m-%d %H:%M:%S} UTC" if self.next_try is not None else ""
            return CaseState.IN_WORK, Stage.RETRIED, f"goes on by itself{at}: {self.cause}", None
        return CaseState.FAILED, Stage.FAILED, self.cause or "failed without a cause", next_step(self.code)


@dataclass(frozen=True, slots=True)
class BeamFacts:
    """What the ledger and the event log know of a beam."""

    progress: Progress | None = None
    attempt: int | None = None
    place: str | None = None
    job: ClusterJob | None = None
    handed_over: bool = False
    remaining: float | None = None


def beam_stand(beam: str, latest: RunFacts, facts: BeamFacts, now: datetime) -> BeamStand:
    """Where a beam stands.

    Args:
        beam: Beam key.
        latest: Its latest run.
        facts: What else is known of it.
        now: UTC.
    """
    case, number = split_beam_key(beam)
    stand = BeamStand(
        beam=beam,
        case=case,
        number=number,
        state=CaseState.WAITING,
        stage=Stage.WAITING,
        reason=NO_RUN_YET,
        attempt=facts.attempt,
        priority=latest.priority,
        since=latest.since,
        run=latest.run_id,
        elapsed_seconds=latest.elapsed(now),
    )
    broken = latest.broken()
    if broken is not None:
        state, stage, reason, step = broken
        return _but(stand, state=state, stage=stage, reason=reason, next_step=step, **_place(facts))
    if latest.state is RunState.NONE:
        return stand
    if latest.state is RunState.DONE:
        if not facts.handed_over:
            return _but(stand, reason=NOT_HANDED_OVER)
        done = {"state": CaseState.COMPLETE, "stage": Stage.HANDED_OVER, "percent": 100.0}
        return _but(stand, reason="", **done)
    if latest.state is RunState.WAITING:
        queued = {"state": CaseState.IN_WORK, "stage": Stage.QUEUED, "reason": latest.queued_because}
        return _but(stand, **queued, **_place(facts))
    return _but(stand, state=CaseState.IN_WORK, **_at_work(latest, facts), **_place(facts))


def _but(stand: BeamStand, **changes: object) -> BeamStand:
    return stand.model_copy(update=changes)


def _place(facts: BeamFacts) -> dict[str, object]:
    job = facts.job
    if job is None or (job.state.ended and facts.place is None):
        return {"place": facts.place}
    words = f"{job.state.value} ({job.scheduler_state})" if job.scheduler_state else job.state.value
    return {"place": facts.place, "job": job.job_id, "job_state": words}


def _at_work(latest: RunFacts, facts: BeamFacts) -> dict[str, object]:
    report = facts.progress
    # The row of an earlier run says nothing of this one.
    if report is None or report.run_id != latest.run_id:
        skipped = bool(latest.steps) and not latest.steps & _SIMULATION
        stage = Stage.MAKING_RT_DOSE if skipped else Stage.INTERPRETING
        return {"stage": stage, "reason": "", "percent": 100.0 if skipped else 0.0}
    stage = PHASES[report.phase]
    return {
        "stage": stage,
        "reason": report.message,
        "percent": report.percent,
        "batch": report.batch,
        "batches": report.batches,
        "remaining_seconds": facts.remaining if stage is Stage.SIMULATING else None,
    }


def case_stand(
    case: str,
    arrival: Arrival | None,
    latest: RunFacts,
    manifest: CaseManifest | None,
    beams: Sequence[BeamStand] | None,
    concluded: bool,
) -> CaseStand:
    """Where a case stands.

    Args:
        case: Case key.
        arrival: What the ledger knows of its arrival.
        latest: Its latest run.
        manifest: Its manifest, where that makes a difference.
        beams: Where its beams stand; None where it has not been taken in.
        concluded: Whether it was concluded with the results that its beams have now, or had when they were
            removed.
    """
    state, stage, reason, step = _case_state(arrival, latest, manifest, beams, concluded)
    rows = beams or ()
    return CaseStand(
        case=case,
        fraction=split_case_key(case)[1],
        arrived=arrival.first_seen if arrival is not None else None,
        state=state,
        stage=stage,
        reason=reason,
        next_step=step,
        beams_done=sum(row.stage is Stage.HANDED_OVER for row in rows),
        beams_total=len(rows) if beams is not None else None,
        percent=sum(row.percent for row in rows) / len(rows) if rows else 0.0,
        priority=arrival.priority if arrival is not None else latest.priority,
        since=latest.since or (arrival.first_seen if arrival is not None else None),
        run=latest.run_id,
    )


Verdict = tuple[CaseState, Stage, str, str | None]


def _case_state(
    arrival: Arrival | None,
    latest: RunFacts,
    manifest: CaseManifest | None,
    beams: Sequence[BeamStand] | None,
    concluded: bool,
) -> Verdict:
    if latest.state in (RunState.WAITING, RunState.WORKING):
        concludes = latest.run is not None and latest.run.job == CONCLUSION
        stage = Stage.CONCLUDING if concludes else Stage.INTAKE
        return CaseState.IN_WORK, stage, latest.queued_because, None
    broken = latest.broken()
    if broken is not None and broken[0] is CaseState.IN_WORK:
        return broken
    rows = beams or ()
    failed = [row for row in rows if row.state is CaseState.FAILED]
    if any(row.state is CaseState.IN_WORK for row in rows):
        return CaseState.IN_WORK, Stage.BEAMS, _failed(failed), None
    if arrival is not None and not arrival.ready and latest.state is RunState.NONE:
        return CaseState.WAITING, Stage.INBOX, arrival.reason, None
    if broken is not None:
        return broken
    for row in failed:
        return CaseState.FAILED, row.stage, row.reason, row.next_step
    return _not_failed(arrival, manifest, beams, concluded)


def _failed(rows: Sequence[BeamStand]) -> str:
    return f"beam {', '.join(str(row.number) for row in rows)} has failed" if rows else ""


def _not_failed(
    arrival: Arrival | None,
    manifest: CaseManifest | None,
    beams: Sequence[BeamStand] | None,
    concluded: bool,
) -> Verdict:
    waiting = CaseState.WAITING
    if arrival is not None and arrival.is_open:
        return waiting, Stage.READY, "its intake has not been started yet", None
    if beams is None and concluded:
        return CaseState.COMPLETE, Stage.CONCLUDED, "its results were removed since", None
    if beams is None:
        return waiting, Stage.READY, "it has not been taken in yet", None
    for row in beams:
        if row.stage is not Stage.HANDED_OVER:
            reason = row.reason if row.run is not None else "not every beam has been started yet"
            return waiting, Stage.WAITING, reason, None
    if not concluded:
        return waiting, Stage.WAITING, "its conclusion has not been started yet", None
    if manifest is not None and manifest.partial:
        return CaseState.PARTIAL, Stage.CONCLUDED, missing(manifest), None
    return CaseState.COMPLETE, Stage.CONCLUDED, "", None
