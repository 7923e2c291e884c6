"""What is wrong with one case is seen there, and keeps no other case waiting."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.delivery.discovery import CaseFolder
from mqi_dagster.errors import StoreError
from mqi_dagster.lifecycle.arrived import cases_of
from mqi_dagster.lifecycle.lineage import latest_digest, require_passed
from mqi_dagster.resources.site import Site
from mqi_dagster.sensors import arrivals as arrivals_sensor
from mqi_dagster.synthetic.request import BuiltInPlan
from mqi_dagster.worklist import Worklist
from tests.chain.chain import PLAN, Chain
from tests.delivery.bad_entries import BEAM, delivery, name_not_utf8, nested_folders

ONE_BEAM = BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.05, energies_mev=(120.0,))


def reasons(chain: Chain) -> list[str]:
    return [row.reason for row in chain.site.ledger.arrivals.waiting()]


def test_a_refused_folder_name_is_seen_and_stops_no_other_case(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"site": {"timezone": "Asia/Seoul", "case_names": "folder"}})
    chain.deliver(plan=ONE_BEAM, case_name="A-PAT7431", patient_id="PAT7431")
    chain.deliver(plan=ONE_BEAM, case_name="B-second", patient_id="PAT9")
    chain.tick_sensors(rounds=2)

    assert [outcome.error for _, _, outcome in chain.runs if not outcome.success] == []
    assert chain.runs_of("conclusion") == ["B-second.fx0001"]
    assert reasons(chain) == [
        "the folder name contains the patient's ID: rename the folder, or set site.case_names to pseudonym,"
        " and the case is taken in by itself"
    ]


def test_an_arrival_on_which_our_code_breaks_is_seen_without_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def breaks(site: Site, arrival: CaseFolder) -> object:
        if "broken" in arrival.relative:
            looks.append(arrival.fingerprint)
            raise ValueError("Hong^Gildong")
        return cases_of(site, arrival)

    monkeypatch.setattr(arrivals_sensor, "cases_of", breaks)
    chain = Chain(tmp_path / "site")
    broken = chain.deliver(plan=ONE_BEAM, case_name="a-broken")
    chain.deliver(plan=BuiltInPlan(**{**ONE_BEAM.model_dump(), "spots": 9}), case_name="b")
    chain.tick_sensors(rounds=2)

    assert len(chain.runs_of("conclusion")) == 1
    (reason,) = reasons(chain)
    assert reason.startswith("ValueError at ")
    assert "Hong" not in reason
    assert len(looks) == 1, "while nothing of it changes it is not opened at every tick"
    (broken.folder / "note.txt").write_text("repaired")
    chain.tick_sensors()
    assert len(looks) == 2


def test_what_a_person_reports_in_the_pages_stops_no_sensor(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    for partition in ("not a beam", f"{case}__b02"):
        chain.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key="handed_over", partition=partition)
        )
    chain.instance.add_dynamic_partitions("case", ["not a case"])
    chain.tick("cases_to_conclude")
    assert chain.runs_of("conclusion") == []
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
    work.snapshot()
    assert [row.case for row in work.every_case()] == [case]
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == [case]


def test_a_fraction_that_falls_apart_is_said_and_loses_no_beam(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=PLAN)
    chain.tick_sensors(rounds=2)
    (case,) = chain.runs_of("conclusion")

    chain.change({"intake": {"fraction_window_minutes": 1e-4}})
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case]
    (reason,) = reasons(chain)
    assert "were one fraction are two now" in reason

    chain.change({"intake": {"fraction_window_minutes": 60}})
    chain.tick_sensors(rounds=2)
    assert reasons(chain) == []
    assert chain.runs_of("conclusion") == [case]


def test_a_digest_nobody_made_is_no_digest(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.instance.report_runless_asset_event(
        dg.AssetMaterialization(asset_key="raw_dose", partition="P1.fx0001__b02")
    )
    assert latest_digest(chain.instance, "raw_dose", "P1.fx0001__b02") is None
    with pytest.raises(StoreError, match="has not passed the check"):
        require_passed(chain.instance, "raw_dose", "engine_output", "P1.fx0001__b02")


def test_entries_that_cannot_be_looked_at_are_seen_and_stop_no_case(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"intake": {"stable_seconds": 0.001}})
    chain.deliver(plan=ONE_BEAM, case_name="good")
    inbox = chain.site.inbox
    name_not_utf8(inbox)
    sparse = delivery(inbox / "sparse" / BEAM) / "1.ptn"
    with sparse.open("wb") as stream:
        stream.truncate(10_000_000_000)
    with nested_folders(inbox, 60):
        chain.tick_sensors(rounds=2)
    assert [outcome.error for _, _, outcome in chain.runs if not outcome.success] == []
    assert len(chain.runs_of("conclusion")) == 1
    assert sorted(reasons(chain)) == [
        "a record in it has 10,000,000,000 bytes, more than 500 MB (intake.max_record_mb)",
        "cannot be read: folders are nested more than 32 deep (intake.max_folder_depth)",
        "the name of a file or folder in it is not UTF-8: rename it",
    ]
