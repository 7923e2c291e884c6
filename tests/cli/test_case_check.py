"""`mqi case check` on whole and damaged cases, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.hu_table import PACKAGED_HU_TABLES
from mqi_dagster.machine import PACKAGED_MACHINES, Machines
from mqi_dagster.synthetic.defects import parse_defect
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout


def mqi(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def case(inbox: Path, machines: Machines, *defects: str, **changes: Any) -> Path:
    request = DeliveryRequest(
        plan=BuiltInPlan(beams=2, layers=2, spots=9, layer_seconds=0.1),
        layout=Layout.SIMPLE,
        defects=tuple(parse_defect(text) for text in defects),
        **changes,
    )
    return simulate_delivery(request, machines.named("GENERIC"), inbox).folder


def test_a_whole_case_passes_with_the_counts_of_every_layer(tmp_path: Path, machines: Machines) -> None:
    result = mqi("case", "check", case(tmp_path, machines), "--timezone", "Asia/Seoul", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["passed"], found["machine_id"], found["timezone"]) == (True, "GENERIC", "Asia/Seoul")
    layers = found["fractions"][0]["layers"]
    assert [(layer["beam_number"], layer["layer"]) for layer in layers] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert all(layer["raw_dose1_sum"] > 0 and abs(layer["ratio"] - 0.988) < 0.001 for layer in layers)


def test_a_truncated_record_does_not_pass_and_is_named(tmp_path: Path, machines: Machines) -> None:
    folder = case(tmp_path, machines, "truncated:beam=2,layer=1,bytes=8")
    result = mqi("case", "check", folder, "--timezone", "UTC")
    assert result.exit_code == 1
    assert "delivery 1, layer 1, record" in result.stdout and "not passed" in result.stdout


def test_the_qa_case_has_four_beams_of_0_990(qa: Path) -> None:
    result = mqi("case", "check", qa.parent, "--timezone", "Asia/Seoul", "--json")
    fraction = json.loads(result.stdout)["fractions"][0]
    assert [(beam["number"], beam["layers"]) for beam in fraction["beams"]] == [
        (2, 9),
        (3, 9),
        (4, 9),
        (5, 9),
    ]
    assert all(abs(beam["ratio"] - 0.990) < 0.001 for beam in fraction["beams"])
    assert len(fraction["layers"]) == 36


def test_an_unknown_machine_does_not_pass(tmp_path: Path, machines: Machines) -> None:
    only = tmp_path / "machines"
    only.mkdir()
    packaged = Path(__file__).parents[2] / "mqi_dagster" / "config" / "machines"
    (only / "g2.yaml").write_bytes((packaged / "g2.yaml").read_bytes())
    folder = case(tmp_path, machines)
    result = mqi("case", "check", folder, "--machines", only, "--timezone", "UTC", "--json")
    assert result.exit_code == 1
    assert "unknown-machine" in {finding["code"] for finding in json.loads(result.stdout)["findings"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "no such folder"],
        ["run", ".", "--out", "out", "--beams-order", "3,3"],
        ["run", ".", "--out", "out", "--beams-order", "b3"],
        ["run", ".", "--out", "out", "--histories", "1"],
        ["run", "."],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert mqi("case", *arguments).exit_code == 2


def test_a_folder_without_a_case_is_one_json_document_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = mqi("case", "run", tmp_path / "empty", "--out", tmp_path / "out", "--timezone", "UTC", "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert summary["status"] == "failed" and summary["cases"] == []
    assert "holds no case" in summary["error"] and str(tmp_path) not in summary["error"]


def test_a_site_of_a_person_is_not_rewritten(tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "mqi.yaml").write_text("# mine\nsite: {timezone: UTC}\n")
    result = mqi("case", "run", tmp_path, "--out", out, "--timezone", "Asia/Seoul")
    assert isinstance(result.exception, ConfigurationError)
    assert (out / "mqi.yaml").read_text() == "# mine\nsite: {timezone: UTC}\n"


def test_the_hu_table_of_the_site_is_named_and_a_scanner_without_one_is_a_fault(
    tmp_path: Path, machines: Machines
) -> None:
    folder = case(tmp_path / "in", machines, ct="water", ct_voxel_mm=10.0)
    site = tmp_path / "site"
    (site / "hu").mkdir(parents=True)
    packaged = (PACKAGED_HU_TABLES / "typical_120kv.yaml").read_text()
    settings = {"site": {"timezone": "UTC"}, "paths": {"hu_tables": "hu", "machines": str(PACKAGED_MACHINES)}}
    (site / "mqi.yaml").write_text(yaml.safe_dump(settings))
    (site / "hu" / "typical.yaml").write_text(packaged)
    result = mqi("case", "check", folder, "--site", site)
    assert result.exit_code == 0, result.output
    assert "CT: HU table TYPICAL_120KV (typical, not of this scanner)" in result.stdout
    other = packaged.replace("default: true", "default: false").replace(
        "scanners: []", "scanners: [{model: SOMATOM}]"
    )
    (site / "hu" / "typical.yaml").write_text(other)
    result = mqi("case", "check", folder, "--site", site, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["passed"] is False
    (fault,) = [finding for finding in found["findings"] if finding["severity"] == "error"]
    assert fault["code"] == "unknown-scanner"
    assert fault["message"].startswith("no HU table is for manufacturer mqi_dagster, 120 kV")


def test_a_wrong_delivery_is_whole_but_not_as_planned(tmp_path: Path, machines: Machines) -> None:
    folder = case(tmp_path, machines, "mirrored-x:beam=3,layer=2", "shifted-spots:beam=2,layer=1,x=2")
    result = mqi("case", "check", folder, "--timezone", "UTC")
    assert result.exit_code == 0
    assert "not as planned: beam 2, layer 1: shifted by +2.0 mm in x" in result.stdout
    assert "not as planned: beam 3, layer 2: x mirrored" in result.stdout
    assert "whole, but not as planned" in result.stdout
    found = json.loads(mqi("case", "check", folder, "--timezone", "UTC", "--json").stdout)
    assert (found["passed"], found["as_planned"]) == (True, False)
    comparison = found["fractions"][0]["beams"][0]["comparison"][0]
    assert comparison["mean_mm"]["x"] == pytest.approx(2.0, abs=0.05)


def test_limits_of_the_site_decide(tmp_path: Path, machines: Machines) -> None:
    folder = case(tmp_path / "in", machines, "shifted-spots:beam=2,layer=1,x=2")
    site = tmp_path / "site"
    assert mqi("init", site, "--timezone", "Asia/Seoul").exit_code == 0
    settings = site / "mqi.yaml"
    assert "position_mean_mm" in settings.read_text()
    wide = "delivery_check: {position_mean_mm: 2.5, position_p95_mm: 3.5}\n"
    settings.write_text(f"site: {{timezone: Asia/Seoul}}\npaths: {{machines: config/machines}}\n{wide}")
    result = mqi("case", "check", folder, "--site", site)
    assert result.exit_code == 0
    assert "not as planned" not in result.stdout
