"""The one rule for where a case and its beams are: made, handed over, concluded, waiting, failed, and why.

A digest decides, never the order or the number of materialisations: the same dose made once more changes
nothing, another dose that was not handed over does. Sensors, boards, retention and commands ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.ledger.cluster_jobs import ClusterJob
from mqi_dagster.ledger.outcomes import RunOutcome, RunVerdict
from mqi_dagster.ledger.progress import ProgressReport
from mqi_dagster.lifecycle.case_facts import CaseFacts
from mqi_dagster.lifecycle.failures import CANCELLED, Cause, goes_on_by_itself, next_step
from mqi_dagster.lifecycle.jobs import beam_job, conclusion_job, intake_job
from mqi_dagster.lifecycle.materialisations import (
    CONCLUDED,
    DOSE,
    HANDED_OVER,
    MANIFEST,
    Materialisation,
    Materialisations,
)
from mqi_dagster.lifecycle.pipeline import Inventory
from mqi_dagster.lifecycle.runs import RunRow, RunState
from mqi_dagster.lifecycle.stages import CaseState, Stage, stage_of
from mqi_dagster.partitions import root_of
from mqi_dagster.store.digests import digest_of


def counts_since(events: Materialisations, case: str, arrival: Arrival | None) -> datetime | None:
    """When the results of a case were removed: what was made before does not count.

    None where they never were, and where the case was not taken in since: a removal that was cut short has
    left them.
    """
    if arrival is None or arrival.results_removed_at is None:
        return None
    taken_in = events.latest(MANIFEST, case)
    return arrival.results_removed_at if taken_in and taken_in.at >= arrival.results_removed_at else None


def conclusion_counts_since(removed_at: datetime | None, arrival: Arrival | None) -> datetime | None:
    """From when on a conclusion of a case counts, None where any does.

    Args:
        removed_at: What `counts_since` says of the case.
        arrival: Of the case, None where it has not come through the inbox.
    """
    withdrawn_at = arrival.marker_withdrawn_at if arrival is not None else None
    return max((moment for moment in (removed_at, withdrawn_at) if moment is not None), default=None)


def results_removed(arrival: Arrival | None, is_partition: bool, latest: RunRow | None) -> bool:
    """Whether at most the records of a concluded case are left, as after `retention.case_days`.

    Args:
        arrival: Of the case, None where it has not come through the inbox.
        is_partition: Whether the case is a partition now.
        latest: Its latest run that is recorded.
    """
    if is_partition:
        return False
    removed_at = arrival.results_removed_at if arrival is not None and not arrival.is_open else None
    if removed_at is not None and (latest is None or latest.created < removed_at):
        return True
    return latest is not None and latest.state is RunState.DONE and latest.job == conclusion_job.name


def settled(
    latest: RunRow | None,
    arrival: Arrival | None,
    removed: bool,
    beams: Collection[RunRow | None],
    concluded: Callable[[], bool],
) -> bool:
    """Whether `case_status` says that a case is concluded, where nothing of it ran since.

    Told from runs alone, so that what was concluded long ago costs nothing.

    Args:
        latest: The latest run of the case.
        arrival: Of the case, None where it has not come through the inbox.
        removed: What `results_removed` says of the case.
        beams: The latest run of each of its beams.
        concluded: Whether it was concluded with the results that its beams have now.
    """
    if latest is not None and latest.state is not RunState.DONE:
        return False
    if arrival is not None and (arrival.is_open or (latest is None and not arrival.ready)):
        return False
    if removed:
        return True
    done = bool(beams) and all(run is not None and run.state is RunState.DONE for run in beams)
    return latest is not None and latest.job == conclusion_job.name and done and concluded()


def why_not_handed_over(
    events: Materialisations, beam: str, inventory: Callable[[], Inventory], since: datetime | None = None
) -> str:
    """Why the dose of a beam's present delivery does not count as handed over; empty where it does.

    Args:
        events: What was made.
        beam: Beam key.
        inventory: What the case's inventory says; asked for only where that matters.
        since: What was made before counts for nothing.
    """
    if since is None and unchanged_since_conclusion(events, root_of(beam), [beam]):
        return ""
    if _version(events, beam, since) is None:
        return NOT_HANDED_OVER
    return "" if _is_of_its_inputs(events, beam, inventory) else DELIVERED_ANEW


def results_digest(
    events: Materialisations,
    beams: Iterable[str],
    inventory: Inventory,
    since: datetime | None = None,
) -> str | None:
    """Digest of what the beams of a case have handed over.

    None where one has not handed its dose over, or only that of an earlier delivery.

    Args:
        events: What was made.
        beams: Every beam key of the case.
        inventory: What the case's inventory says.
        since: What was made before counts for nothing.
    """
    versions = {
        beam: _version(events, beam, since) if _is_of_its_inputs(events, beam, lambda: inventory) else None
        for beam in beams
    }
    if not versions or None in versions.values():
        return None
    return digest_of(versions=versions, partial=inventory.partial)


def concluded(
    events: Materialisations,
    case: str,
    beams: Collection[str],
    arrival: Arrival | None,
    inventory: Callable[[], Inventory],
) -> bool:
    """Whether a case was concluded with the results that its beams have now.

    Args:
        events: What was made.
        case: Case key.
        beams: Every beam key of the case.
        arrival: Of the case, None where it has not come through the inbox. A conclusion from before its
            marker was withdrawn, or its results were removed, does not count.
        inventory: What the case's inventory says; asked for only where that matters.
    """
    end = events.number(CONCLUDED, case)
    if end is None or not beams:
        return False
    removed_at = counts_since(events, case, arrival)
    since = conclusion_counts_since(removed_at, arrival)
    if since is None and unchanged_since_conclusion(events, case, beams):
        return True
    made = events.latest(CONCLUDED, case)
    if made is None or (since is not None and made.at < since):
        return False
    results = results_digest(events, beams, inventory(), removed_at)
    if results is None or made.source is not None:
        return results is not None and made.source == results
    return all(_as_concluded_without_digest(events, beam, made) for beam in beams)


def unchanged_since_conclusion(events: Materialisations, case: str, beams: Iterable[str]) -> bool:
    """Whether nothing was made since the case was concluded: that run has compared every digest itself.

    Asks for numbers alone, and so costs nothing where they are known.
    """
    end, taken_in = events.number(CONCLUDED, case), events.number(MANIFEST, case)
    if end is None or taken_in is None or taken_in > end:
        return False
    numbers = [events.number(asset, beam) for beam in beams for asset in (DOSE, HANDED_OVER)]
    return all(number is not None and number < end for number in numbers)


def _as_concluded_without_digest(events: Materialisations, beam: str, end: Materialisation) -> bool:
    """Whether a beam has what it had when earlier code concluded its case, which did not say with what."""
    told, now = events.before(HANDED_OVER, beam, end.number), events.latest(HANDED_OVER, beam)
    return told is not None and now is not None and told.digest == now.digest


def _version(events: Materialisations, beam: str, since: datetime | None) -> str | None:
    """The dose of a beam and its hand-over; None where the latest dose was not handed over."""
    dose, handed = events.latest(DOSE, beam), events.latest(HANDED_OVER, beam)
    if dose is None or handed is None or dose.digest is None or handed.digest is None:
        return None
    if handed.source != dose.digest or (since is not None and min(dose.at, handed.at) < since):
        return None
    return f"{dose.digest}:{handed.digest}"


def _is_of_its_inputs(events: Materialisations, beam: str, inventory: Callable[[], Inventory]) -> bool:
    """Whether what a beam has handed over was made from the files that its case has now.

    Of what earlier code has handed over nobody knows it here: `conclusion_request` asks the runs.
    """
    handed = events.latest(HANDED_OVER, beam)
    if handed is None or handed.inputs is None:
        return True
    return handed.inputs == inventory().inputs.get(beam, handed.inputs)


NO_RUN_YET = "no run yet: at most 200 stand in the queue, the most urgent first"
NOT_HANDED_OVER = "its latest dose has not been handed over: materialise handed_over"
DELIVERED_ANEW = (
    "its files have changed since its latest dose: it is simulated anew by itself; where no run of it comes,"
    " materialise interpreted_csvs to handed_over"
)


@dataclass(frozen=True, slots=True)
class RunFailure:
    """What the bad end of a run means."""

    cause: str
    code: str | None
    """Class of the error."""
    again: bool
    """Whether infrastructure was lost, and it goes on by itself."""
    next_try: datetime | None = None
    """When, where that is known already."""
    taken_back: bool = False
    """Whether a person has said that it does not go on."""


def failure_of(outcome: RunOutcome | None, cause: Callable[[], Cause], served: bool) -> RunFailure:
    """What the end of a failed run means.

    Args:
        outcome: As the services have judged it; None where they have not yet, and will come to the same.
        cause: The first cause, asked for only then.
        served: Whether the services have launched the run.
    """
    if outcome is None:
        found = cause()
        return RunFailure(found.text, found.code, goes_on_by_itself(found, served))
    # A try that is settled while no other run has come was given up.
    again = outcome.verdict is RunVerdict.RETRY and outcome.settled_at is None and served
    taken_back = outcome.verdict is RunVerdict.CANCELLED
    return RunFailure(outcome.cause, outcome.code or None, again, outcome.next_try_at, taken_back)


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Where a case or a beam stands, and why."""

    state: CaseState
    stage: Stage
    reason: str = ""
    """Why it waits, or the first cause of its failure."""
    next_step: str | None = None
    """What to do about a failure."""
    percent: float = 0.0
    """Of the simulation, 100 once it is over; of a case the mean of its beams."""
    batch: int | None = None
    """Batch in work, from 1."""
    batches: int | None = None
    remaining_seconds: float | None = None
    """Of the simulation, from its own pace; None before two steps of it were timed."""
    at_work: bool = True
    """Whether it may hold a slot, and have a job on a cluster."""
    started: bool = True
    """Whether a run of it is recorded."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A partition's latest run, and what is known of it beside its row."""

    run: RunRow | None = None
    queued_because: str = ""
    priority: int = 0
    failure: RunFailure | None = None
    """What its end means, where it has failed."""
    served: bool = False
    """Whether the services have launched it, so that it can be executed again as a run."""
    steps: frozenset[str] = frozenset()
    """Steps that it executes; empty where it is all of them."""
    progress: ProgressReport | None = None
    """What a worker has reported last of the partition."""

    @property
    def report(self) -> ProgressReport | None:
        """What the worker of this run has reported: the row of an earlier run says nothing of this one."""
        return self.progress if self.progress is not None and self.progress.run_id == self.run_id else None

    @property
    def state(self) -> RunState:
        """How far the run is."""
        if self.failure is not None and self.failure.again:
            return RunState.AGAIN
        if self.failure is not None and self.failure.taken_back:
            return RunState.CANCELLED
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

    def broken(self) -> PartitionStatus | None:
        """What a run means that ended badly; None where it did not."""
        if self.state is RunState.CANCELLED:
            return PartitionStatus(CaseState.FAILED, Stage.CANCELLED, CANCELLED, next_step(None))
        failure = self.failure
        if failure is None:
            return None
        if failure.again:
            at = f" at {failure.next_try:%Y-%m-%d %H:%M:%S} UTC" if failure.next_try is not None else ""
            return PartitionStatus(
                CaseState.IN_WORK, Stage.RETRIED, f"goes on by itself{at}: {failure.cause}"
            )
        return PartitionStatus(CaseState.FAILED, Stage.FAILED, failure.cause, next_step(failure.code))


@dataclass(frozen=True, slots=True)
class BeamFacts:
    """What the ledger and the event log know of a beam."""

    attempt: int | None = None
    slot: str | None = None
    job: ClusterJob | None = None
    why_not_handed_over: str = NOT_HANDED_OVER
    """Why its dose does not count as handed over; empty where it does."""
    remaining: float | None = None


def beam_status(latest: RunFacts, facts: BeamFacts) -> PartitionStatus:
    """Where a beam stands.

    Args:
        latest: Its latest run.
        facts: What else is known of it.
    """
    broken = latest.broken()
    if broken is not None:
        return broken
    if latest.state in (RunState.NONE, RunState.DONE):
        # A run that is not recorded any more has made its results all the same.
        if not facts.why_not_handed_over:
            return PartitionStatus(CaseState.COMPLETE, Stage.HANDED_OVER, percent=100.0, at_work=False)
        reason = facts.why_not_handed_over
        if latest.state is RunState.NONE and reason == NOT_HANDED_OVER:
            reason = NO_RUN_YET
        started = latest.run is not None
        return PartitionStatus(CaseState.WAITING, Stage.WAITING, reason, at_work=False, started=started)
    if latest.state is RunState.WAITING:
        return PartitionStatus(CaseState.IN_WORK, Stage.QUEUED, latest.queued_because)
    report = latest.report
    if report is None:
        stage = beam_job.stage(latest.steps)
        percent = 100.0 if stage is Stage.MAKING_RT_DOSE else 0.0
        return PartitionStatus(CaseState.IN_WORK, stage, percent=percent)
    stage, reason = reported_stage(report)
    return PartitionStatus(
        CaseState.IN_WORK,
        stage,
        reason,
        percent=report.percent,
        batch=report.batch,
        batches=report.batches,
        remaining_seconds=facts.remaining if stage is Stage.SIMULATING else None,
    )


def reported_stage(report: ProgressReport) -> tuple[Stage, str]:
    """Stage and reason of what a worker has reported."""
    stage = stage_of(report.phase)
    return stage, report.message or (report.phase if stage is Stage.IN_WORK else "")


def case_status(
    arrival: Arrival | None,
    latest: RunFacts,
    facts: CaseFacts | None,
    beams: Mapping[int, PartitionStatus] | None,
    concluded: bool,
) -> PartitionStatus:
    """Where a case stands.

    Args:
        arrival: What the ledger knows of its arrival.
        latest: Its latest run.
        facts: What its inventory says, where that makes a difference.
        beams: Where its beams stand, by number; None where it has not been taken in.
        concluded: Whether it was concluded with the results that its beams have now, or had when they were
            removed.
    """
    percents = [beam.percent for _, beam in sorted((beams or {}).items())]
    found = _case_status(arrival, latest, facts, beams, concluded)
    return replace(found, percent=sum(percents) / len(percents) if percents else 0.0)


def _case_status(
    arrival: Arrival | None,
    latest: RunFacts,
    facts: CaseFacts | None,
    beams: Mapping[int, PartitionStatus] | None,
    concluded: bool,
) -> PartitionStatus:
    if latest.state is RunState.WORKING and latest.report is not None:
        return PartitionStatus(CaseState.IN_WORK, *reported_stage(latest.report))
    if latest.state in (RunState.WAITING, RunState.WORKING):
        concludes = latest.run is not None and latest.run.job == conclusion_job.name
        job = conclusion_job if concludes else intake_job
        return PartitionStatus(CaseState.IN_WORK, job.stage(()), latest.queued_because)
    broken = latest.broken()
    if broken is not None and broken.state is CaseState.IN_WORK:
        return broken
    failed = {number: beam for number, beam in (beams or {}).items() if beam.state is CaseState.FAILED}
    if any(beam.state is CaseState.IN_WORK for beam in (beams or {}).values()):
        return PartitionStatus(CaseState.IN_WORK, Stage.BEAMS, _failed(failed))
    if arrival is not None and not arrival.ready and latest.state is RunState.NONE:
        return PartitionStatus(CaseState.WAITING, Stage.INBOX, arrival.reason)
    if broken is not None:
        return broken
    for _, beam in sorted(failed.items()):
        return PartitionStatus(CaseState.FAILED, beam.stage, beam.reason, beam.next_step)
    return _not_failed(arrival, facts, beams, concluded)


def _failed(beams: Collection[int]) -> str:
    return f"beam {', '.join(map(str, sorted(beams)))} has failed" if beams else ""


def _not_failed(
    arrival: Arrival | None,
    facts: CaseFacts | None,
    beams: Mapping[int, PartitionStatus] | None,
    concluded: bool,
) -> PartitionStatus:
    if arrival is not None and arrival.is_open:
        return PartitionStatus(CaseState.WAITING, Stage.READY, "its intake has not been started yet")
    if beams is None and concluded:
        return PartitionStatus(CaseState.COMPLETE, Stage.CONCLUDED, "its results were removed since")
    if beams is None:
        return PartitionStatus(CaseState.WAITING, Stage.READY, "it has not been taken in yet")
    for _, beam in sorted(beams.items()):
        if beam.stage is not Stage.HANDED_OVER:
            reason = beam.reason if beam.started else "not every beam has been started yet"
            return PartitionStatus(CaseState.WAITING, Stage.WAITING, reason)
    if not concluded:
        return PartitionStatus(CaseState.WAITING, Stage.WAITING, "its conclusion has not been started yet")
    if facts is not None and facts.partial:
        return PartitionStatus(CaseState.PARTIAL, Stage.CONCLUDED, _missing(facts))
    return PartitionStatus(CaseState.COMPLETE, Stage.CONCLUDED)


def _missing(facts: CaseFacts) -> str:
    """What a partial case lacks."""
    if facts.missing_beams:
        return "no delivery of beam " + ", ".join(map(str, facts.missing_beams))
    return f"layers of beam {', '.join(map(str, facts.incomplete_beams))} were not delivered"
