"""The HU table of a site: which one, by scanner, and that every result says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml

from mqi_dagster.assets.proton.intake import manifest_digest
from mqi_dagster.delivery.manifest import ScanEnd
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.hu_table import PACKAGED_HU_TABLES
from mqi_dagster.lifecycle.beam import hu_table_of, load_beam, read_manifest
from mqi_dagster.lifecycle.digests import raw_dose_digest
from tests.chain.chain import ONE_BEAM, Chain, deliver, mcsquare_engine

COARSE_CT = {"ct": "water", "ct_voxel_mm": 5.0, "ct_cube_mm": 140.0, "ct_margin_mm": 10.0}


def write_table(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    content = yaml.safe_load((PACKAGED_HU_TABLES / "typical_120kv.yaml").read_text())
    content |= {"id": "CT_ROOM_2", "calibrated": True, "default": False} | changes
    (folder / "ct.yaml").write_text(yaml.safe_dump(content))


def test_a_scanner_without_a_table_is_refused_at_intake_by_name(tmp_path: Path) -> None:
    write_table(tmp_path / "hu", scanners=[{"manufacturer": "mqi_dagster", "kvp": 100}])
    settings = {"engine": mcsquare_engine(8000), "paths": {"hu_tables": str(tmp_path / "hu")}}
    chain = Chain(tmp_path / "site", settings)
    chain.deliver(plan=ONE_BEAM, **COARSE_CT)
    chain.tick_sensors()
    ((job, _, outcome),) = chain.runs
    assert (job, outcome.success, outcome.code) == ("intake", False, "unknown-scanner")
    assert "no HU table is for manufacturer mqi_dagster, 120 kV (tables: CT_ROOM_2)" in outcome.error


@pytest.mark.slow
def test_every_result_in_a_ct_says_which_table_it_was_made_with(
    mcsquare: Installation, tmp_path: Path
) -> None:
    write_table(tmp_path / "hu", scanners=[{"manufacturer": "mqi_dagster"}])
    settings = {"engine": mcsquare_engine(8000), "paths": {"hu_tables": str(tmp_path / "hu")}}
    chain = Chain(tmp_path / "site", settings)
    chain.deliver(plan=ONE_BEAM, **COARSE_CT)
    chain.tick_sensors(rounds=2)
    (key,) = chain.runs_of("beam")
    case = chain.runs_of("intake")[0]
    assert chain.metadata("case_manifest", case)["HU table"] == "CT_ROOM_2"
    assert chain.metadata("raw_dose", key)["HU table"] == "CT_ROOM_2"
    assert chain.metadata("rt_dose", key)["HU table"] == "CT_ROOM_2"
    (path,) = chain.handover.rglob("rt_dose.dcm")
    assert pydicom.dcmread(path).DoseComment == "HU table CT_ROOM_2"
    assert chain.metadata("rt_dose", key)["ends of the scan"] == "none in the body"
    assert chain.summary(case)["beams"][0]["rt_dose"]["hu_table"] == "CT_ROOM_2"

    def digest() -> str:
        chain.reopen()
        beam = load_beam(chain.instance, chain.site.store, chain.site.machines, key)
        table = hu_table_of(chain.site, beam.manifest)
        version = str(chain.metadata("raw_dose", key)["version"])
        csvs = str(chain.digest("interpreted_csvs", key))
        return raw_dose_digest(beam, csvs, chain.site.settings.engine, version, table)

    assert digest() == chain.digest("raw_dose", key)
    # Another rule that leads to the same table changes nothing; a curve does.
    write_table(tmp_path / "hu", scanners=[{"kvp": 120.0}])
    assert digest() == chain.digest("raw_dose", key)
    curve = {"hu": [-1000, 0, 3000], "value": [0.0012, 1.01, 2.7]}
    write_table(tmp_path / "hu", scanners=[{"kvp": 120.0}], density_g_cm3=curve)
    assert digest() != chain.digest("raw_dose", key)


@pytest.mark.slow
def test_a_dose_in_a_scan_that_ends_in_the_body_says_so(mcsquare: Installation, tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", {"engine": mcsquare_engine(8000)})
    chain.deliver(plan=ONE_BEAM, **COARSE_CT | {"ct_margin_mm": 0.0})
    chain.tick_sensors(rounds=2)
    (key,) = chain.runs_of("beam")
    (path,) = chain.handover.rglob("rt_dose.dcm")
    assert pydicom.dcmread(path).DoseComment == "SCAN ENDS IN BODY; typical HU calibration"
    said = chain.metadata("rt_dose", key)["ends of the scan"]
    assert said.startswith("100 % of its spots enter the scan inside the body")
    assert "the scan ends inside the body (or the couch) at the feet: 100 % of that side" in said
    summary = chain.summary(chain.runs_of("intake")[0])["beams"][0]["rt_dose"]
    # 105 mm of range end in the cube of 140 mm: the beam enters in the body, and six sides are cut.
    assert len(summary["ends_of_scan"]) == 7
    assert chain.metadata("rt_dose", key)["HU table"] == "TYPICAL_120KV (typical, not of this scanner)"


def test_an_inventory_that_tells_of_a_cut_scan_is_another_one(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    case, _ = chain.run_intake()
    told = read_manifest(chain.instance, chain.site.store, case)
    assert manifest_digest(chain.site, told) == chain.digest("case_manifest", case)
    cut = told.model_copy(update={"scan_ends": (ScanEnd(beam=2, text="the scan ends"),)})
    assert manifest_digest(chain.site, cut) != manifest_digest(chain.site, told)
