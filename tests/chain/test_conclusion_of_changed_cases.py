"""A case whose beams fail, go or come anew concludes once it can, and never with a dose of before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mqi_dagster.assets.proton import handover
from mqi_dagster.lifecycle import materialisations
from mqi_dagster.lifecycle.beam import find_manifest
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.sensors.beams import beam_requests
from mqi_dagster.synthetic.delivery import SimulatedCase
from tests.chain import ended_runs
from tests.chain.boards import stage
from tests.chain.chain import ONE_BEAM, PLAN, Chain, deliver, deliver_other_records

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
    return [f"{number}: {beam.stage.value}: {beam.reason}" for number, beam in reading.beams.items()]


DONE = "handed_over: "
ANEW = (
    "waiting: its files have changed since its latest dose: it is simulated anew by itself; where no run of"
    " it comes, materialise interpreted_csvs to handed_over"
)


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
    assert "its files have changed since its latest dose" in outcome.error and f"{case}__b03" in outcome.error


def test_a_dose_that_was_made_while_the_case_is_concluded_is_not_told_of(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.deliver(plan=PLAN)
    case = simulated(chain)
    true = handover._results

    def and_then_another_dose(*arguments: Any) -> str:
        found = true(*arguments)
        chain.change({"rt_dose": {"bits": 48 - chain.site.settings.rt_dose.bits}})
        assert chain.run_asset("rt_dose", f"{case}__b03").success
        return found

    monkeypatch.setattr(handover, "_results", and_then_another_dose)
    outcome = chain.conclude(case)
    assert not outcome.success
    assert "the present rt_dose is not the one that was handed over" in outcome.error
    assert not (chain.handover / case / "_COMPLETE").exists()


def test_an_inventory_that_has_not_passed_its_check_concludes_nothing(chain: Chain) -> None:
    delivered = chain.deliver(plan=PLAN)
    case = simulated(chain)
    take_out(chain, delivered, 3)
    assert chain.run_asset("case_manifest", case).success
    assert chain.tick("cases_to_conclude") == []
    outcome = chain.conclude(case)
    assert not outcome.success
    assert "the latest case_manifest has not passed the check integrity" in outcome.error
    assert not (chain.handover / case / "_COMPLETE").exists()
    assert chain.run("intake", case).success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert chain.summary(case)["missing_beams"] == [3]


def test_a_case_whose_latest_intake_has_failed_is_not_concluded_with_the_one_before(chain: Chain) -> None:
    chain.deliver(plan=PLAN)
    case = simulated(chain)
    run = ended_runs.started(chain, "intake", case)
    ended_runs.failed(chain, run, "a record is cut off", "delivery", "never")
    assert chain.run("beam", f"{case}__b03").success
    assert chain.tick("cases_to_conclude") == []
    assert chain.run("intake", case).success
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]


def test_what_earlier_code_has_handed_over_counts_for_the_files_that_were_asked_for(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Earlier code did not say which files a hand-over is of.
    monkeypatch.setattr(materialisations, "INPUTS", "not told")
    chain.change({"intake": {"fraction_window_minutes": 0.0001}})
    delivered = chain.deliver("unfinished:beam=2,layer=1", plan=ONE_BEAM)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")
    assert (chain.summary(case)["partial"], chain.summary(case)["beams"][0]["layers"]) == (True, 1)

    whole = deliver(tmp_path / "aside", plan=ONE_BEAM)
    shutil.rmtree(delivered.deliveries[0].folder)
    shutil.copytree(whole.deliveries[0].folder, delivered.deliveries[0].folder)
    for _ in range(2):
        chain.tick("case_arrivals")
    assert chain.runs_of("intake") == [case, case]
    assert chain.tick("cases_to_conclude") == [], "what was delivered since has not been simulated yet"
    chain.tick("beams_to_simulate")
    assert [request.partition_key for request in chain.tick("cases_to_conclude")] == [case]
    assert (chain.summary(case)["partial"], chain.summary(case)["beams"][0]["layers"]) == (False, 2)


def test_what_was_concluded_already_is_not_asked_for_again_where_a_step_was_repeated(chain: Chain) -> None:
    chain.deliver(plan=PLAN)
    case = simulated(chain)
    assert len(chain.tick("cases_to_conclude")) == 1
    assert chain.run_asset("interpreted_csvs", f"{case}__b02").success
    assert chain.tick("cases_to_conclude") == []


def test_a_beam_is_asked_for_again_where_the_images_of_its_case_have_changed(chain: Chain) -> None:
    chain.deliver(plan=PLAN)
    case = simulated(chain)
    manifest = find_manifest(chain.instance, chain.site.store, case)
    assert manifest is not None

    def keys(*images: str) -> list[str | None]:
        entries = tuple(manifest.plan.model_copy(update={"sha256": image}) for image in images)
        changed = manifest.model_copy(update={"ct_series": entries})
        return [request.run_key for request in beam_requests(changed, "local", 0)]

    assert keys("a", "b") == keys("b", "a")
    told = [keys(), keys("a"), keys("b"), keys("a", "b")]
    assert len({key for some in told for key in some}) == 8
