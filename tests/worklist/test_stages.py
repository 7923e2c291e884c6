"""Every stage of a beam and a case, from the records that say so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import AssetObservationData, DagsterEvent
from dagster._core.events.log import EventLogEntry

from mqi_dagster.ledger.cluster_jobs import ClusterJobState, Observation
from mqi_dagster.ledger.leases import Need
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.lifecycle.stages import WorkPhase, stage_of
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, Stage
from tests.worklist.seeded import BEGAN, Seeded

CASE = "P0000000A1.fx0001"
BEAM = f"{CASE}__b02"
GPU = {"mqi/gpu": "simulation", "mqi/case": CASE}


def stands(site: Seeded) -> tuple[CaseStatus, BeamStatus | None]:
    work = site.worklist()
    work.snapshot(BEGAN + timedelta(seconds=31))
    case = work.case(CASE)
    assert case is not None
    beams = work.beams_of(CASE)
    return case, beams[0] if beams else None


def taken_in(site: Seeded) -> None:
    site.arrive(CASE)
    site.partitions("case", [CASE])
    site.run("intake", CASE, "SUCCESS")
    site.made("case_manifest", [CASE])
    site.partitions("beam", [BEAM])
    site.daemon_alive()


def test_a_case_in_the_inbox_says_why_it_waits(seeded: Seeded) -> None:
    seeded.arrive(CASE, ready=False, reason="1 of 3 beams have come; layers or beams are missing")
    case, beam = stands(seeded)
    assert (case.state, case.stage, beam) == (CaseState.WAITING, Stage.INBOX, None)
    assert case.reason == "1 of 3 beams have come; layers or beams are missing"
    assert case.since == BEGAN and case.beams_total is None


def test_a_ready_case_waits_for_its_intake(seeded: Seeded) -> None:
    seeded.arrive(CASE, asked=False, priority=7)
    case, _ = stands(seeded)
    assert (case.stage, case.reason) == (Stage.READY, "its intake has not been started yet")
    assert case.priority == 7


@pytest.mark.parametrize(
    ("status", "reason"),
    [("QUEUED", "starts next"), ("STARTED", "")],
)
def test_a_case_is_taken_in(seeded: Seeded, status: str, reason: str) -> None:
    seeded.arrive(CASE)
    seeded.partitions("case", [CASE])
    seeded.run("intake", CASE, status)
    seeded.daemon_alive()
    case, _ = stands(seeded)
    assert (case.state, case.stage, case.reason) == (CaseState.IN_WORK, Stage.INTAKE, reason)


def test_a_beam_without_a_run_waits(seeded: Seeded) -> None:
    taken_in(seeded)
    case, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.WAITING, Stage.WAITING)
    assert beam.reason.startswith("no run yet")
    assert (case.stage, case.reason) == (Stage.WAITING, "not every beam has been started yet")
    assert (case.beams_done, case.beams_total) == (0, 1)


def test_a_queued_beam_says_what_it_waits_for(seeded: Seeded) -> None:
    taken_in(seeded)
    for number in range(1, 4):
        other = f"P0000000B{number}.fx0001__b01"
        seeded.run("beam", other, "STARTED", tags={**GPU, "mqi/case": f"other {number}"})
    seeded.run("beam", f"{CASE[:-1]}9__b01", "QUEUED", tags={**GPU, "dagster/priority": "5"})
    seeded.run("beam", BEAM, "QUEUED", tags={**GPU, "dagster/priority": "2"})
    case, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.IN_WORK, Stage.QUEUED)
    assert beam.reason == (
        "the pool is full: 3 of 3 (slots and execution.pool_buffer); 1 of higher priority go first"
    )
    assert (beam.priority, beam.since, beam.elapsed_seconds) == (2, BEGAN, None)
    assert (case.state, case.stage) == (CaseState.IN_WORK, Stage.BEAMS)


def test_a_beam_waits_behind_its_own_case_or_for_the_daemon(seeded: Seeded) -> None:
    taken_in(seeded)
    for number in range(1, 5):
        seeded.run("conclusion", f"P0000000B{number}.fx0001", "STARTED", tags={"mqi/case": CASE})
    seeded.run("beam", BEAM, "QUEUED", tags=GPU)
    assert stands(seeded)[1].reason == "4 runs of its case are in work"  # type: ignore[union-attr]
    later = seeded.worklist()
    later.snapshot(BEGAN + timedelta(seconds=300))
    assert later.beams_of(CASE)[0].reason == "Dagster's daemon does not run"


def test_a_run_waits_for_those_that_hand_over_to_its_target(seeded: Seeded) -> None:
    taken_in(seeded)
    configuration = Path(seeded.instance.root_directory) / "dagster.yaml"
    upload = {"key": "mqi/upload", "value": {"applyLimitPerUniqueValue": True}, "limit": 2}
    for number, target in enumerate(("clinic", "clinic", "elsewhere"), start=1):
        seeded.run("conclusion", f"P0000000B{number}.fx0001", "STARTED", tags={"mqi/upload": target})
    for key, target in ((BEAM, "clinic"), (f"{CASE}__b03", "elsewhere"), (f"{CASE}__b04", None)):
        seeded.partitions("beam", [key])
        seeded.run("beam", key, "QUEUED", tags={**GPU, **({"mqi/upload": target} if target else {})})
    content = yaml.safe_load(configuration.read_text())
    content["concurrency"]["runs"]["tag_concurrency_limits"].append(upload)
    configuration.write_text(yaml.safe_dump(content))
    with open_instance(seeded.site.settings) as seeded.instance:
        work = seeded.worklist()
        work.snapshot(BEGAN + timedelta(seconds=31))
        assert [beam.reason for beam in work.beams_of(CASE)] == [
            "2 runs that hand over to clinic are in work (handover.max_runs)",
            "starts next",
            "starts next",
        ]


@pytest.mark.parametrize(
    ("phase", "stage"),
    [
        ("waiting", Stage.WAITING_FOR_SLOT),
        ("waiting for the cluster", Stage.WAITING_FOR_CLUSTER),
        ("preparing", Stage.PREPARING),
        ("submitting", Stage.SUBMITTING),
        ("queued", Stage.QUEUED_ON_CLUSTER),
        ("simulating", Stage.SIMULATING),
        ("verifying", Stage.VERIFYING),
        ("simulated", Stage.MAKING_RT_DOSE),
        ("waiting for the target", Stage.WAITING_FOR_TARGET),
    ],
)
def test_a_beam_in_work_is_where_its_worker_says(seeded: Seeded, phase: str, stage: Stage) -> None:
    taken_in(seeded)
    run = seeded.run("beam", BEAM, "STARTED", tags=GPU)
    seeded.ledger().progress.record(BEAM, run, phase, 4, 10, 37.5, message="why", attempt=2)
    _, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.IN_WORK, stage)
    assert (beam.percent, beam.batch, beam.batches, beam.reason) == (37.5, 4, 10, "why")
    assert beam.elapsed_seconds == 30.0 and beam.remaining_seconds is None


def test_every_phase_that_a_worker_can_report_has_a_stage_of_its_own() -> None:
    stages = [stage_of(phase) for phase in WorkPhase]
    assert Stage.IN_WORK not in stages and len(set(stages)) == len(stages)


def test_a_phase_that_only_other_code_knows_stands_on_the_board_in_its_own_words(seeded: Seeded) -> None:
    taken_in(seeded)
    run = seeded.run("beam", BEAM, "STARTED", tags=GPU)
    seeded.ledger().progress.record(BEAM, run, "warming up", percent=12.5)
    _, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.IN_WORK, Stage.IN_WORK)
    assert (beam.reason, beam.percent) == ("warming up", 12.5)


def test_before_its_worker_has_reported_a_beam_is_interpreted(seeded: Seeded) -> None:
    taken_in(seeded)
    seeded.ledger().progress.record(BEAM, "an earlier run", "simulating", percent=80.0)
    seeded.run("beam", BEAM, "STARTED", tags=GPU)
    _, beam = stands(seeded)
    assert beam is not None and (beam.stage, beam.percent) == (Stage.INTERPRETING, 0.0)


def test_a_run_that_begins_after_the_simulation_makes_the_rt_dose(seeded: Seeded) -> None:
    taken_in(seeded)
    seeded.run("beam", BEAM, "STARTED", tags=GPU, steps=["rt_dose", "handed_over"])
    _, beam = stands(seeded)
    assert beam is not None and (beam.stage, beam.percent) == (Stage.MAKING_RT_DOSE, 100.0)


def test_a_simulated_beam_names_its_slot_and_its_job(seeded: Seeded) -> None:
    taken_in(seeded)
    run, ledger = seeded.run("beam", BEAM, "STARTED", tags=GPU), seeded.ledger()
    ledger.slots.declare("cluster", [Slot(SlotKind.GPU, 3)])
    ledger.leases.acquire(BEAM, run, Need(SlotKind.GPU), stale_after=timedelta(seconds=60))
    for _ in range(2):
        attempt = ledger.attempts.begin(BEAM, "d" * 64, run)
        ledger.attempts.end(attempt, "failed", "the engine crashed")
    ledger.attempts.begin(BEAM, "d" * 64, run)
    ledger.jobs.reserve("cluster", "key", BEAM, "place")
    ledger.jobs.mark_submitted("cluster", "key", "4711")
    ledger.jobs.observe(
        "cluster", [Observation("key", "4711", ClusterJobState.QUEUED, "PENDING", "Resources")]
    )
    ledger.clusters.take_turn("cluster", shortest=timedelta(seconds=1), hold=timedelta(seconds=9))
    ledger.progress.record(BEAM, run, "queued", message="Resources")
    _, beam = stands(seeded)
    assert beam is not None
    assert (beam.slot, beam.job, beam.job_state) == ("cluster/gpu3", "4711", "queued (PENDING)")
    assert (beam.attempt, beam.stage, beam.reason) == (3, Stage.QUEUED_ON_CLUSTER, "Resources")


def observe(site: Seeded, run: str, percent: int, second: float) -> None:

    observation = dg.AssetObservation("raw_dose", partition=BEAM, metadata={"progress [%]": percent})
    event = DagsterEvent(
        dg.DagsterEventType.ASSET_OBSERVATION.value,
        "beam",
        event_specific_data=AssetObservationData(observation),
    )
    moment = (BEGAN + timedelta(seconds=second)).timestamp()
    site.instance.store_event(EventLogEntry(None, "info", "", run, moment, dagster_event=event))


def test_the_rest_of_a_simulation_is_reckoned_from_its_own_pace(seeded: Seeded) -> None:
    taken_in(seeded)
    run = seeded.run("beam", BEAM, "STARTED", tags=GPU)
    seeded.ledger().progress.record(BEAM, run, "simulating", 2, 10, 10.0)
    observe(seeded, run, 10, 11)
    assert stands(seeded)[1].remaining_seconds is None  # type: ignore[union-attr]
    seeded.ledger().progress.record(BEAM, run, "simulating", 4, 10, 30.0)
    observe(seeded, run, 20, 16)
    observe(seeded, run, 30, 21)
    # 2 percent a second from 21 s on: 35 s, of which 10 are over at 31 s.
    assert stands(seeded)[1].remaining_seconds == pytest.approx(25.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "stage", "reason"),
    [
        ("FAILURE", Stage.FAILED, "the plan has no beam 3"),
        ("CANCELED", Stage.CANCELLED, "cancelled by an operator"),
    ],
)
def test_what_ended_badly_says_why_and_what_to_do(
    seeded: Seeded, status: str, stage: Stage, reason: str
) -> None:
    taken_in(seeded)
    run = seeded.run("beam", BEAM, status, tags=GPU, seconds=12)
    if status == "FAILURE":
        seeded.judged(run, BEAM, "failed", reason)
    case, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.FAILED, stage)
    assert (beam.reason, beam.next_step) == (reason, "`mqi case retry` once the cause is gone")
    assert beam.elapsed_seconds == 12.0
    assert (case.state, case.stage, case.reason) == (CaseState.FAILED, stage, reason)


def test_a_lost_worker_is_retried_and_that_is_no_failure(seeded: Seeded) -> None:
    taken_in(seeded)
    run = seeded.run("beam", BEAM, "FAILURE", tags=GPU)
    case, beam = stands(seeded)
    assert beam is not None and (beam.state, beam.stage) == (CaseState.IN_WORK, Stage.RETRIED)
    assert (case.state, case.stage) == (CaseState.IN_WORK, Stage.BEAMS)
    seeded.judged(run, BEAM, "retry", "the disk is full")
    _, beam = stands(seeded)
    assert beam is not None and beam.stage is Stage.RETRIED
    assert beam.reason.startswith("goes on by itself at 2026-03-04 08:0")
    assert beam.reason.endswith(" UTC: the disk is full")


def test_a_handed_over_beam_waits_for_the_conclusion_of_its_case(seeded: Seeded) -> None:
    taken_in(seeded)
    seeded.run("beam", BEAM, "SUCCESS", tags=GPU)
    seeded.made("rt_dose", [BEAM])
    assert stands(seeded)[1].stage is Stage.WAITING  # type: ignore[union-attr]
    seeded.made("handed_over", [BEAM])
    case, beam = stands(seeded)
    assert beam is not None and (beam.stage, beam.percent) == (Stage.HANDED_OVER, 100.0)
    assert (case.stage, case.reason) == (Stage.WAITING, "its conclusion has not been started yet")
    run = seeded.run("conclusion", CASE, "STARTED")
    assert stands(seeded)[0].stage is Stage.CONCLUDING
    seeded.ledger().progress.record(CASE, run, "waiting for the target", message="no connection to the host")
    case, _ = stands(seeded)
    assert (case.state, case.stage) == (CaseState.IN_WORK, Stage.WAITING_FOR_TARGET)
    assert case.reason == "no connection to the host"
    seeded.ledger().progress.record(CASE, run, "concluding")
    case, _ = stands(seeded)
    assert (case.stage, case.reason) == (Stage.CONCLUDING, "")
    seeded.run("conclusion", CASE, "SUCCESS")
    seeded.made("case_handed_over", [CASE])
    case, _ = stands(seeded)
    assert (case.state, case.stage, case.beams_done) == (CaseState.COMPLETE, Stage.CONCLUDED, 1)


def test_a_silent_cluster_that_somebody_waits_for_is_told_before_it_is_an_alarm(seeded: Seeded) -> None:
    seeded.daemon_alive()
    ledger, minute = seeded.ledger(), timedelta(minutes=1)
    turn = ledger.clusters.take_turn("farm", shortest=minute, hold=minute)
    assert turn is not None
    ledger.clusters.end_turn(turn, next_in=minute, interval=minute, failure="no route to host")
    assert seeded.worklist().snapshot(BEGAN).alarms == [], "nobody uses it"
    ledger.slots.declare("farm", [Slot(SlotKind.GPU, 0)])
    ledger.leases.acquire(BEAM, "run", Need(SlotKind.GPU, "farm"), stale_after=minute)
    (told,) = seeded.worklist().snapshot(BEGAN).alarms
    assert (told.id, told.kind, told.subject, told.since) == (None, "cluster_away", "farm", BEGAN)
    assert told.text == (
        "no answer since 2026-03-04 08:00 UTC: no route to host."
        " What waits for it goes on by itself once it answers"
    )
