"""What stands beside a beam's key, and the numbers in the metadata, are as people read them."""

from __future__ import annotations

import io
import re
from datetime import UTC
from pathlib import Path

import dagster as dg
import pydicom
import pytest
from rich.console import Console

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.case_show import show_case
from mqi_dagster.cli.results_table import print_results
from mqi_dagster.cli.screen import output
from mqi_dagster.cli.top_screen import detail_line, head_line, row_line
from mqi_dagster.operations.case_report import case_report
from mqi_dagster.operations.results import beam_rows
from mqi_dagster.worklist import Worklist
from tests.chain.chain import ONE_BEAM, Chain, deliver

BEAMS = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A concluded case of two beams."""
    chain = Chain(tmp_path_factory.mktemp("words") / "site")
    chain.deliver()
    chain.tick_sensors(rounds=3)
    assert [job for job, _, _ in chain.runs] == ["intake", "beam", "beam", "conclusion"]
    return chain


def case_of(chain: Chain) -> str:
    return chain.runs[0][1]


def test_the_assets_of_a_beam_say_which_beam_it_is(chain: Chain) -> None:
    case = case_of(chain)
    for asset in BEAMS:
        said = [chain.metadata(asset, f"{case}__b0{number}")["beam"] for number in (2, 3)]
        assert re.fullmatch(r".+, \d+\.\d-120\.0 MeV, gantry 0°", said[0]), asset
        assert re.fullmatch(r".+, \d+\.\d-150\.0 MeV, gantry \d+°", said[1]), asset


def test_the_inventory_and_the_summary_say_it_in_columns(chain: Chain) -> None:
    case = case_of(chain)
    first = chain.metadata("case_manifest", case)["beam table"][0]
    assert (first["beam"], first["highest energy [MeV]"], first["gantry angle [°]"]) == (2, 120.0, "0")
    summary = chain.summary(case)["beams"][0]
    assert summary["name"] == first["name"] != ""
    assert summary["energies_mev"][1] == pytest.approx(120.0)
    assert summary["gantry_deg"] == 0.0


def test_numbers_have_units_and_no_more_digits_than_are_worth_reading(chain: Chain) -> None:
    key = f"{case_of(chain)}__b02"
    found = {name: value for asset in BEAMS for name, value in chain.metadata(asset, key).items()}
    assert found["MU ratio"] == 0.988
    assert "maximum [Gy]" in found or "maximum [relative]" in found
    numbers = {name: value for name, value in found.items() if isinstance(value, float)}
    assert len(numbers) >= 5
    assert {name: value for name, value in numbers.items() if value != float(f"{value:.7g}")} == {}


def test_tables_and_boards_say_it_beside_the_key(chain: Chain) -> None:
    case = case_of(chain)
    label = chain.metadata("rt_dose", f"{case}__b02")["beam"]
    console = Console(record=True, width=60)
    print_results(console, beam_rows(chain.instance, chain.site, case))
    assert label in console.export_text()
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger).snapshot()
    row = next(row for row in work.beams if row.number == 2)
    assert row.label == label
    assert "name, energies, gantry" in head_line(False, 160).plain
    assert label in row_line(row, 160, False, UTC).plain
    assert label in detail_line(row, UTC).plain


def test_the_names_of_cases_that_were_taken_in_are_read_together_at_the_first_look(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    for seed in (1, 2, 3):
        chain.deliver(plan=ONE_BEAM, seed=seed)
    chain.tick("case_arrivals")
    beams = [f"{case}__b02" for case in chain.runs_of("intake")]
    assert len(beams) == 3
    chain.instance.add_dynamic_partitions("beam", beams)
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, labels_at_once=0)
    assert [sum(bool(row.label) for row in work.snapshot().beams) for _ in range(2)] == [3, 3]


def test_a_name_that_holds_a_number_of_the_examination_is_shown_without_it(tmp_path: Path) -> None:
    # One that holds the patient's ID or name is refused: there is nothing to show.
    folder = deliver(tmp_path / "in").folder
    (plan_file,) = folder.glob("RP*.dcm")
    plan = pydicom.dcmread(plan_file)
    plan.AccessionNumber = "ZQX-77431"
    (beam,) = (one for one in plan.IonBeamSequence if one.BeamNumber == 2)
    beam.BeamName = "AP ZQX-77431 " + "long " * 9
    plan.save_as(plan_file)
    chain = Chain(tmp_path / "site", given=folder)
    case, outcome = chain.run_intake()
    assert outcome.success
    name = chain.metadata("case_manifest", case)["beam table"][0]["name"]
    assert name.startswith("AP [redacted] long long") and len(name) <= 64


def test_the_report_of_a_case_says_of_a_beam_what_the_boards_say(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    key = f"{case}__b02"
    chain.instance.add_dynamic_partitions("beam", [key])
    chain.site.ledger.progress.record(key, "a run before", "simulating", percent=75.0)
    chain.instance.create_run_for_job(
        chain.definitions.resolve_job_def("beam"),
        tags={"dagster/partition": key},
        status=dg.DagsterRunStatus.STARTED,
    )
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
    work.snapshot()
    (listed,) = work.beams_of(case)
    report = case_report(chain.instance, chain.site, case)
    assert [beam.status for beam in report.beams] == [listed]
    assert (listed.stage.value, listed.percent) == ("interpreting", 0.0)
    printed = io.StringIO()
    show_case(output(file=printed), report, chain.site.timezone)
    assert "beam 2 (1G000:TX, 116.0-120.0 MeV, gantry 0°): interpreting the records" in printed.getvalue()
    assert "75 %" not in printed.getvalue()
