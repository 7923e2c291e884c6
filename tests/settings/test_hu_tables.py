"""HU tables: read as their files say, chosen by scanner, and never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.errors import ConfigurationError, UnknownScannerError
from mqi_dagster.hu_table import MATERIALS, HuTable, HuTables, Scanner, read_hu_table, read_hu_tables

CONTENT: dict[str, Any] = {
    "id": "CT1",
    "calibrated": True,
    "default": True,
    "density_g_cm3": {"hu": [-1000, 0, 3000], "value": [0.0012, 1.0, 2.7]},
    "materials": {"hu": [-1000, -900, 200], "name": ["Air", "Water", "Bone_Cortical"]},
}
SIEMENS = Scanner("SIEMENS", "SOMATOM Confidence", "CT-ROOM-2", 120.0, "Hd40")


def table(**changes: Any) -> HuTable:
    return HuTable.model_validate(CONTENT | changes)


def test_the_packaged_table_says_that_it_is_typical(tmp_path: Path) -> None:
    (packaged,) = read_hu_tables(tmp_path / "absent").all
    assert (packaged.id, packaged.calibrated, packaged.default) == ("TYPICAL_120KV", False, True)
    densities = dict(packaged.engine_densities())
    assert (densities[0.0], densities[1000.0], densities[-100.0]) == (1.0, 1.55, 0.93)
    numbers = dict(packaged.engine_materials())
    assert (numbers[-1100.0], numbers[-30.0], numbers[30.0], numbers[1500.0]) == (13, 17, 46, 62)


def test_solid_water_is_a_density_and_a_stopping_power() -> None:
    solid = table(
        density_g_cm3={"hu": [-1000, 0, 20, 3000], "value": [0.0012, 1.0, 1.02, 2.7]},
        stopping_power={"hu": [-1000, 0, 20, 3000], "value": [0.001, 1.0, 1.0, 2.4]},
        materials={"hu": [-1000, -900, 200], "name": ["Air", "Water", "Solid_water"]},
    )
    rows = solid.engine_densities()
    at, value = zip(*rows, strict=True)
    # Of water, 1 g/cm3 stops as 1 does; Solid_water has 0.9877 of water's stopping power for its mass.
    assert np.interp([0.0, 10.0, 20.0], at, value).tolist() == [1.0, 1.0, 1.0]
    rsp_at_200 = 1.0 + 1.4 * 180 / 2980
    assert dict(rows)[200.0] == pytest.approx(rsp_at_200 / 0.9877, rel=1e-9)
    assert dict(rows)[199.95] == pytest.approx(rsp_at_200, abs=1e-4)
    assert rows[-1][0] > 3000.0


def test_the_table_whose_rule_says_most_is_taken() -> None:
    tables = HuTables(
        [
            table(id="ANY"),
            table(id="MAKER", default=False, scanners=[{"manufacturer": "siemens "}]),
            table(
                id="KV100",
                default=False,
                scanners=[{"manufacturer": "SIEMENS", "kvp": 100}, {"model": "other", "kvp": 80}],
            ),
            table(id="GANTRY", default=False, scanners=[{"machine": "G2", "kernel": "Hd40", "kvp": 120}]),
        ]
    )
    assert tables.of(SIEMENS, "G1").id == "MAKER"
    assert tables.of(SIEMENS, "G2").id == "GANTRY"
    assert tables.of(Scanner("SIEMENS", None, None, 100.0, None), "G1").id == "KV100"
    assert tables.of(Scanner("PHILIPS", "x", None, 100.0, None), "G1").id == "ANY"
    assert tables.of(Scanner(None, None, None, None, None), "G1").id == "ANY"


def test_an_unknown_scanner_is_named_where_no_table_is_for_all() -> None:
    tables = HuTables([table(default=False, scanners=[{"model": "SOMATOM go.Sim"}])])
    with pytest.raises(UnknownScannerError) as caught:
        tables.of(SIEMENS, "G1")
    assert caught.value.message == (
        "no HU table is for manufacturer SIEMENS, model SOMATOM Confidence, station CT-ROOM-2, 120 kV,"
        " kernel Hd40 (tables: CT1): add one, or give one default: true"
    )
    with pytest.raises(UnknownScannerError, match="a scanner that does not name itself"):
        tables.of(Scanner(None, None, None, None, None), "G1")
    long = Scanner("x\n\x1b[2J" * 90, None, None, None, None)
    with pytest.raises(UnknownScannerError) as caught:
        tables.of(long, "G1")
    assert len(caught.value.message) < 150
    assert caught.value.message.isprintable()


def test_two_tables_for_one_scanner_are_an_error() -> None:
    rules = [{"manufacturer": "SIEMENS"}]
    tables = HuTables([table(id=name, default=False, scanners=rules) for name in ("A", "B")])
    with pytest.raises(ConfigurationError, match="HU tables A and B are both for manufacturer SIEMENS"):
        tables.of(SIEMENS, "G1")
    with pytest.raises(ConfigurationError, match="default: true: A and B"):
        HuTables([table(id="A"), table(id="B")])
    with pytest.raises(ConfigurationError, match="two HU tables have the id A"):
        HuTables([table(id="A"), table(id="A", default=False, scanners=rules)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"density_g_cm3": {"hu": [-900, 3000], "value": [0.1, 2]}}, "hu must reach from -1000 to 3000"),
        ({"density_g_cm3": {"hu": [-1000, 3000], "value": [0, 2]}}, "density_g_cm3.value.0"),
        ({"density_g_cm3": {"hu": [-1000, 5, 5, 3000], "value": [1, 1, 1, 2]}}, "hu must ascend"),
        ({"density_g_cm3": {"hu": [-1000, 3000], "value": [0.1]}}, "the same length"),
        ({"density_g_cm3": None}, "density_g_cm3 or stopping_power must be given"),
        ({"materials": {"hu": [-1000], "name": ["Wax"]}}, "material 'Wax' is unknown (known: ABS_Resin"),
        ({"materials": {"hu": [0], "name": ["Water"]}}, "must begin at -1000 or below"),
        ({"default": False}, "is for no scanner"),
        ({"scanners": [{}]}, "says nothing"),
        ({"scanners": [{"vendor": "x"}]}, "scanners.0.vendor"),
        ({"id": "two words"}, "id:"),
        ({"slope": 1}, "slope: there is no such key"),
        ({"defualt": True}, "defualt: there is no such key; did you mean default?"),
    ],
)
def test_a_wrong_table_is_named_with_its_key(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "ct1.yaml").write_text(yaml.safe_dump(CONTENT | changes))
    with pytest.raises(ConfigurationError) as caught:
        read_hu_table(tmp_path / "ct1.yaml")
    assert caught.value.message.startswith("HU table ct1.yaml: ")
    assert says in caught.value.message


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no HU tables"):
        read_hu_tables(tmp_path)


def test_numbers_and_stopping_powers_are_those_of_the_engine(mcsquare: Installation) -> None:
    def stopping_power(name: str) -> float:
        lines = (mcsquare.materials / name / "G4_Stop_Pow.dat").read_text().splitlines()
        values = np.array([[float(v) for v in line.split()[:2]] for line in lines if line.strip()])
        return float(np.interp(100.0, values[:, 0], values[:, 1]))

    listed = {}
    for line in (mcsquare.materials / "list.dat").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0].isdigit() and int(words[0]) > 12:
            listed[words[1]] = int(words[0])
    assert {name: material.number for name, material in MATERIALS.items()} == listed
    water = stopping_power("Water")
    for name, material in MATERIALS.items():
        assert material.stopping_power_ratio == pytest.approx(stopping_power(name) / water, abs=6e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("density_g_cm3", {"hu": [-1000, float("nan"), 3000], "value": [0.0012, 1.0, 2.7]}),
        ("materials", {"hu": [float("nan"), -900], "name": ["Air", "Water"]}),
    ],
)
def test_a_table_holds_finite_numbers(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match="finite number"):
        table(**{key: value})


def test_below_the_first_boundary_a_voxel_is_of_the_first_material() -> None:
    low = table(stopping_power={"hu": [-1024, -200, 3000], "value": [0.001, 0.8, 2.4]})
    assert dict(low.engine_densities())[-1024.0] == pytest.approx(0.001 / 0.8881, rel=1e-9)
