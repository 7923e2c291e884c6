"""A case whose beams fail, go or come anew concludes once it can, and never with a dose of before."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.synthetic.delivery import SimulatedCase
from tests.chain import ended_runs
from tests.chain.boards import stage
from tests.chain.chain import PLAN, Chain, deliver_other_records

INVALID = "the machine file is wrong"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site")


def simulated(chain: Chain) -> str:
    """A case whose beams are handed over."""
    for _ in range(2):
        chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    (case,) = chain.runs_of("intake")
    return case


def fail(chain: Chain, beam: str, *assets: str) -> None:
    """A run of a beam that fails for good, of some of its assets alone where they are named."""
    selection = frozenset(dg.AssetKey(asset) for asset in assets) or None
    run = ended_runs.started(chain, "beam", beam, selection=selection)
    ended_runs.failed(chain, run, INVALID, "unknown-machine", "never")


def take_out(chain: Chain, delivered: SimulatedCase, beam: int) -> None:
    """Remove the delivery of a beam, for which nobody waits any longer."""
    (folder,) = (found.folder for found in delivered.deliveries if found.beam == beam)
    shutil.rmtree(folder)
    chain.change({"intake": {"fraction_window_minutes": 0.0001}})


def reasons(chain: Chain, case: str) -> list[str]:
    reading = read_case(chain.instance, chain.site, case)
    return [f"{beam.number}: {beam.stage.value}: {beam.reason}" for beam in reading.beams]


DONE = "handed_over: "
ANEW = "waiting: it was delivered anew since its latest dose: its new run has not been started yet"


def test_it_concludes_without_the_beam_that_failed_once_its_delivery_was_taken_out(chain: Chain) -> None:
    delivered = chain.deliver(plan=PLAN)
    case = simulated(chain)
    fail(chain, f"{case}__b03")
    assert chain.tick("cases_to_conclude") == []

    take_out(chain, delivered, 3)
    for _ in range(2):
        chain.tick("case_arrivals")
        chain.tick("beams_to_simulate")
    assert chain.runs_of("intake") == [case, case]
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert chain.runs_of("beam") == [f"{case}__b02", f"{case}__b03"]
    assert stage(chain, case) == "concluded"
    assert chain.summary(case)["missing_beams"] == [3]
    assert chain.tick("cases_to_conclude") == []


@pytest.mark.parametrize("asset", ["interpreted_csvs", "rt_dose", "handed_over"])
def test_it_concludes_once_what_failed_was_made_alone_as_it_was_before(chain: Chain, asset: str) -> None:
    chain.deliver(plan=PLAN)
    case = simulated(chain)
    fail(chain, f"{case}__b03", asset)
    assert chain.tick("cases_to_conclude") == []
    assert chain.run_asset(asset, f"{case}__b03").success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert stage(chain, case) == "concluded"


def test_it_is_not_concluded_with_what_a_beam_had_before_it_was_delivered_anew(
    chain: Chain, tmp_path: Path
) -> None:
    delivered = chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    before = {beam["beam"]: beam["rt_dose"]["digest"] for beam in chain.summary(case)["beams"]}

    deliver_other_records(delivered.folder, 2, 3, plan=PLAN, aside=tmp_path / "aside")
    for _ in range(2):
        chain.tick("case_arrivals")
    assert chain.runs_of("intake") == [case, case]
    assert reasons(chain, case) == [f"2: {ANEW}", f"3: {ANEW}"]
    assert stage(chain, case) == "waiting"
    assert chain.tick("cases_to_conclude") == []

    # One of the two has its new dose.
    first, second = chain.tick("beams_to_simulate", launch=False)
    assert chain.run("beam", f"{case}__b02", {"dagster/run_key": str(first.run_key)}).success
    assert reasons(chain, case) == [f"2: {DONE}", f"3: {ANEW}"]
    assert chain.tick("cases_to_conclude") == []
    assert chain.run("beam", f"{case}__b03", {"dagster/run_key": str(second.run_key)}).success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert reasons(chain, case) == [f"2: {DONE}", f"3: {DONE}"]
    after = {beam["beam"]: beam["rt_dose"]["digest"] for beam in chain.summary(case)["beams"]}
    assert before.keys() == after.keys() == {2, 3}
    assert not set(before.values()) & set(after.values())
    assert stage(chain, case) == "concluded"


def test_by_hand_it_is_not_concluded_with_an_old_dose_either(chain: Chain, tmp_path: Path) -> None:
    delivered = chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    deliver_other_records(delivered.folder, 3, plan=PLAN, aside=tmp_path / "aside")
    for _ in range(2):
        chain.tick("case_arrivals")
    # Its interpretation is new, its dose is not.
    assert chain.run_asset("interpreted_csvs", f"{case}__b03").success
    assert reasons(chain, case) == [f"2: {DONE}", f"3: {ANEW}"]
    outcome = chain.conclude(case)
    assert not outcome.success
    assert "delivered anew" in outcome.error and f"{case}__b03" in outcome.error


def test_an_inventory_that_has_not_passed_its_check_concludes_nothing(chain: Chain) -> None:
    delivered = chain.deliver(plan=PLAN)
    case = simulated(chain)
    take_out(chain, delivered, 3)
    assert chain.run_asset("case_manifest", case).success
    assert chain.tick("cases_to_conclude") == []
    assert chain.run("intake", case).success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert chain.summary(case)["missing_beams"] == [3]
