"""Folders of earlier code open, migrate and go on."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import dagster as dg
import pytest

from mqi_dagster.ledger.database import revision_of
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.lifecycle.beam import read_manifest
from mqi_dagster.lifecycle.lineage import latest_has_passed, resolve
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.partitions import beam_key
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from tests.ledger.ledger_rows import deliveries_by_fraction

ARCHIVE = Path(__file__).parent / "main_job" / "site.tar.xz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("upgrade")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(target, filter="data")
    (target / "site" / "secret").chmod(0o600)
    return target / "site"


def test_every_result_of_the_concluded_case_is_found_and_whole(folder: Path) -> None:
    site = Site(folder / "mqi.yaml")
    with open_instance(read_settings(folder / "mqi.yaml")) as instance:
        (case,) = instance.get_dynamic_partitions("case")
        beams = sorted(instance.get_dynamic_partitions("beam"))
        assert beams == [beam_key(case, 2), beam_key(case, 3)]
        manifest = read_manifest(instance, site.store, case)
        assert [len(beam.layers) for beam in manifest.beams] == [2, 2]
        for beam in beams:
            for asset in ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over"):
                resolve(instance, site.store, asset, beam)
            assert latest_has_passed(instance, "rt_dose", "readback", beam)
        summary = resolve(instance, site.store, "case_handed_over", case)
        assert [beam["beam"] for beam in json.loads(summary.path("summary.json").read_bytes())["beams"]] == [
            2,
            3,
        ]


def test_the_ledger_opens_and_knows_the_fraction(folder: Path) -> None:
    site = Site(folder / "mqi.yaml")
    (row,) = site.ledger.arrivals.all()
    assert (row.kind, site.ledger.arrivals.all("course")) == ("case", [])
    assert revision_of(ledger_url(site.settings)) == "0010"
    plan, _, number = row.case.partition(".fx")
    assert number == "0001"
    assert list(deliveries_by_fraction(site.ledger, plan)) == [1]
    assert [slot.kind.value for slot in site.ledger.slots.all()] == ["cpu"]


def test_the_command_lists_the_case_as_complete(folder: Path) -> None:
    mqi = Path(sys.executable).parent / "mqi"
    answer = subprocess.run(
        [mqi, "case", "list", "--site", folder, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (case,) = json.loads(answer.stdout)
    assert case["state"] == "complete"
    assert (case["beams_done"], case["beams_total"]) == (2, 2)


def test_dagster_keeps_the_history(folder: Path) -> None:
    with open_instance(read_settings(folder / "mqi.yaml")) as instance:
        runs = instance.get_runs()
        assert {run.job_name for run in runs} == {"intake", "beam", "conclusion"}
        assert all(run.status is dg.DagsterRunStatus.SUCCESS for run in runs)
