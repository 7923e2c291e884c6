"""A case's way with Dagster's real daemon, and through every kind of death."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import dagster as dg
import pytest

from tests.services.stack import BEAM_ASSETS, CASE_ASSETS, HOLD, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BACKFILL = """
mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""


def beams_of(case: str, count: int = 3) -> list[str]:
    """Beam keys of the built-in plan, whose beam 1 is a setup beam."""
    return [f"{case}__b{number:02d}" for number in range(2, 2 + count)]


def made_once(services: Stack, case: str, count: int = 3, *, interrupted: bool = False) -> None:
    """Every asset of every partition of a case was materialised exactly once, and the case concluded once.

    Args:
        interrupted: A retry makes again what came before the engine that died.
    """
    made = {asset: services.materialised(asset) for asset in (*BEAM_ASSETS, *CASE_ASSETS)}
    for asset in BEAM_ASSETS[2:] if interrupted else BEAM_ASSETS:
        assert {key: made[asset].get(key) for key in beams_of(case, count)} == dict.fromkeys(
            beams_of(case, count), 1
        ), asset
    assert [made[asset].get(case) for asset in CASE_ASSETS] == [1, 1]
    assert services.concluded(case) == 1


def worker_of(engine: int) -> int:
    """The run worker that started an engine."""
    return int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])


def one_engine(services: Stack) -> tuple[int, str]:
    """Pid and beam of the engine that runs now, once there is one."""

    def found() -> list[tuple[int, str]]:
        alive = services.engines()
        return [(pid, name) for what, pid, _, name in services.traced() if what == "start" and pid in alive]

    pid, name = wait_for(found, "an engine runs", 240, report=services.report)[-1]
    return int(pid), str(name)


def nothing_but_an_engine(services: Stack, case: str, began: int) -> bool:
    """Whether an engine runs and every beam of the case whose engine has ended is handed over.

    Args:
        services: The services.
        case: The only one that is in work.
        began: Lines of the engines' trace when it was delivered.
    """
    ended = [name for what, _, _, name in services.traced()[began:] if what == "end"]
    handed = [beam for beam in services.materialised("handed_over") if beam.startswith(case)]
    return len(services.engines()) == 1 and len(handed) == len(ended)


def never_two_at_once(traced: list[tuple[str, int, float, str]]) -> bool:
    """Whether each engine of a trace ended before the next one started."""
    kinds = [what for what, _, _, _ in traced]
    return kinds == ["start", "end"] * (len(kinds) // 2)


def test_a_case_dropped_into_the_inbox_is_handed_over_and_concluded_once(services: Stack) -> None:
    before = len(services.traced())
    case = services.case_of(services.deliver(seed=11))
    services.wait_for_conclusion(case)
    made_once(services, case)
    assert services.starts()[-3:].count("1G000:TX") == 1
    assert len(services.traced()) - before == 6
    target = services.handover / case
    receipts = [json.loads((target / beam / "receipt.json").read_text()) for beam in beams_of(case)]
    listed = {entry["name"]: entry["sha256"] for receipt in receipts for entry in receipt["entries"]}
    assert sum(name.endswith("/rt_dose.dcm") for name in listed) == 3
    for name, digest in listed.items():
        assert hashlib.sha256((services.handover / name).read_bytes()).hexdigest() == digest
    summary = (target / "summary.json").read_bytes()
    assert (target / "_COMPLETE").read_text() == f"{hashlib.sha256(summary).hexdigest()}  summary.json\n"
    runs = services.runs("beam", **{"mqi/case": case})
    assert [run.tags["mqi/progress"] for run in runs] == ["100 %"] * 3
    assert {run.tags["mqi/slot"].rpartition("/")[2] for run in runs} == {"cpu0"}


def test_a_case_survives_a_restart_of_the_services_in_the_middle_of_an_engine(services: Stack) -> None:
    services.steer(seconds=HOLD)
    case = services.case_of(services.deliver(seed=12))
    one_engine(services)
    (lease,) = services.ledger().leases.all()
    services.stop()
    assert services.processes() == {}
    # Its worker was asked to end, and not killed: it has put everything back itself.
    assert services.ledger().leases.all() == []
    assert [one.outcome for one in services.ledger().attempts.history(lease.partition)] == ["lost"]
    assert list((services.site / "state/work").iterdir()) == []
    assert [path for path in (services.site / "state").iterdir() if path.is_socket()] == []
    services.steer()
    services.start()
    services.wait_for_conclusion(case)
    made_once(services, case, interrupted=True)


@pytest.mark.parametrize("killed", ["worker", "what it was forked from"])
def test_a_run_whose_worker_is_killed_is_retried_and_its_engine_dies_with_it(
    services: Stack, killed: str
) -> None:
    services.steer(seconds=HOLD)
    case = services.case_of(services.deliver(seed=13 if killed == "worker" else 18))
    engine, beam = one_engine(services)
    before = len(services.starts(beam))
    worker = worker_of(engine)
    (warm,) = services.warm_processes()
    dying = 1 if killed == "worker" else len(services.workers())
    os.kill(worker if killed == "worker" else warm, signal.SIGKILL)
    wait_for(lambda: worker not in services.processes("forkserver"), "the end of the worker")
    wait_for(lambda: engine not in services.engines(), "the engine dies with its worker")
    services.steer()
    services.wait_for_conclusion(case)
    made_once(services, case, interrupted=True)
    assert len(services.starts(beam)) == before + 1
    retried = [run for run in services.runs("beam", **{"mqi/case": case}) if "mqi/retry_of" in run.tags]
    assert [run.status for run in retried] == [dg.DagsterRunStatus.SUCCESS] * dying
    assert services.ledger().leases.all() == []


@pytest.mark.gate
def test_death_of_the_daemon_and_then_of_everything_loses_and_repeats_nothing(services: Stack) -> None:
    services.steer(seconds=HOLD)
    before, began = len(services.starts()), len(services.traced())
    case = services.case_of(services.deliver(seed=14))
    engine, _ = one_engine(services)
    services.kill("daemon")
    assert engine in services.engines(), "an engine needs no daemon"
    services.start()
    wait_for(
        lambda: nothing_but_an_engine(services, case, began),
        "no beam is between two steps",
        report=services.report,
    )
    services.kill_everything()
    services.steer()
    services.start()
    services.wait_for_conclusion(case)
    made_once(services, case, interrupted=True)
    # Each of the two deaths cost at most the one engine that ran; nobody else was started twice.
    assert 3 <= len(services.starts()) - before <= 5


def test_a_backfill_from_the_pages_never_runs_two_engines_in_one_slot(services: Stack) -> None:
    names = tuple(f"{number}G000:TX" for number in range(1, 7))
    services.steer(seconds=0, failing=names)
    case = services.case_of(services.deliver(seed=15, beams=6))
    beams = beams_of(case, 6)
    wait_for(
        lambda: (
            [run.status for run in services.runs("beam", **{"mqi/case": case})]
            == [dg.DagsterRunStatus.FAILURE] * 6
        ),
        "six failed beams",
        300,
        report=services.report,
    )
    assert services.concluded(case) == 0
    services.steer(seconds=0.5)
    before = len(services.traced())
    params = {
        "assetSelection": [{"path": [asset]} for asset in BEAM_ASSETS],
        "partitionNames": beams,
        "fromFailure": False,
        "tags": [],
    }
    launched = services.graphql(BACKFILL, backfillParams=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    most = 0

    def concluded() -> bool:
        nonlocal most
        runs = services.runs(**{"dagster/backfill": launched["backfillId"]})
        most = max(most, sum(run.status is dg.DagsterRunStatus.STARTED for run in runs))
        return case in services.markers() and not services.unfinished()

    wait_for(concluded, "the case is concluded", 400, report=services.report)
    made = services.traced()[before:]
    assert sorted({name for _, _, _, name in made}) == sorted(names)
    assert never_two_at_once(made)
    assert most <= 3, "more run workers than the pool allows: one slot and a buffer of two"
    assert services.concluded(case) == 1
