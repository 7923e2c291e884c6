"""Machine files: found by name, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mqi_dagster.errors import ConfigurationError, UnknownMachineError
from mqi_dagster.machine import EnergyTable, Machines, read_machine, read_machines

PACKAGED = Path(__file__).resolve().parents[2] / "mqi_dagster" / "config" / "machines"


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("G1", "G1"),
        ("G1_LS", "G1"),
        ("G2", "G2"),
        ("TR2", "GENERIC"),
        ("TR3", "GENERIC"),
        ("GENERIC", "GENERIC"),
    ],
)
def test_a_treatment_machine_name_means_one_machine(machines: Machines, name: str, machine: str) -> None:
    assert machines.named(name).id == machine


@pytest.mark.parametrize("name", ["", "G3", "g1", "G1 "])
def test_an_unknown_machine_is_an_error_that_names_it(machines: Machines, name: str) -> None:
    with pytest.raises(UnknownMachineError, match=name or "empty"):
        machines.named(name)


def test_a_table_over_the_energy_holds_finite_numbers() -> None:
    with pytest.raises(ValueError, match="finite number"):
        EnergyTable(energy_mev=(70.0, 230.0), value=(float("nan"), 1.0))


def test_calibration_is_that_of_each_gantry(machines: Machines) -> None:
    g1, g2 = machines.named("G1"), machines.named("G2")
    assert (g1.record.mu_per_count, g2.record.mu_per_count) == (2.1125e-8, 2.12e-8)
    assert (g2.record.x_offset, g2.record.y_offset) == (24576, 32768)
    assert (g1.record.row_period_ms, g2.record.row_period_ms) == (0.0600745, 0.06)


@pytest.mark.parametrize(
    ("code", "factor"), [(1, 0.340426), (2, 1.0), (3, 2.978723), (4, 8.936170), (5, 26.808511)]
)
def test_range_factors_are_relative_to_code_2(machines: Machines, code: int, factor: float) -> None:
    assert machines.named("G2").range_factor(code) == pytest.approx(factor, abs=5e-7)


@pytest.mark.parametrize("code", [0, 6, -1])
def test_an_unknown_range_code_is_an_error_that_names_it(machines: Machines, code: int) -> None:
    with pytest.raises(UnknownMachineError, match=f"range code {code}"):
        machines.named("G2").range_factor(code)


def test_an_unknown_range_shifter_is_an_error_that_names_it(machines: Machines) -> None:
    assert machines.named("TR3").range_shifter("RS_3CM").water_equivalent_thickness_mm == 34.3
    with pytest.raises(UnknownMachineError, match="RS_5CM"):
        machines.named("TR3").range_shifter("RS_5CM")


def test_a_range_shifter_of_the_gantries_stands_on_the_snout(machines: Machines) -> None:
    # moqui centres it half its thickness above the snout; 50 and 40 mm are where its protons start.
    assert [machines.named(name).range_shifter_offset_mm for name in ("G1", "G2")] == [0.0, 0.0]


def test_only_the_generic_machine_is_commissioned(machines: Machines) -> None:
    assert {m.id: m.beam_model.commissioned for m in machines.all} == {
        "G1": False,
        "G2": False,
        "GENERIC": True,
    }


def test_protons_per_count_follow_the_published_tables(machines: Machines) -> None:
    # 70 MeV is the unit; 110 MeV: 1.418493333 * 0.983342911 on G2, 1.322953524 at 100 MeV on G1.
    assert machines.named("G2").protons_per_count(70) == pytest.approx(1.0, rel=1e-9)
    assert machines.named("G2").protons_per_count(110) == pytest.approx(1.394865, rel=1e-6)
    assert machines.named("G1").protons_per_count(100) == pytest.approx(1.322954, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "energy", "splines"),
    # The monotone splines through the published points, evaluated once.
    [("G1", 208.6, 2.25221191), ("G2", 94.5, 1.25442846), ("G2", 75.0, 1.04996366)],
)
def test_between_the_published_points_protons_follow_the_engines_splines(
    machines: Machines, name: str, energy: float, splines: float
) -> None:
    # A tenth of a per cent is all that the histories of a layer may differ from what moqui reports.
    assert machines.named(name).protons_per_count(energy) == pytest.approx(splines, rel=5e-4)


def test_a_table_interpolates_and_never_extrapolates() -> None:
    table = EnergyTable(energy_mev=(70, 80, 100), value=(1.0, 3.0, 2.0))
    assert [table.at(e) for e in (70, 75, 80, 90, 100)] == [1.0, 2.0, 3.0, 2.5, 2.0]
    for outside in (69.9, 100.1):
        with pytest.raises(ConfigurationError, match="outside the table"):
            table.at(outside)


def test_two_files_may_not_claim_the_same_name(tmp_path: Path) -> None:
    content = yaml.safe_load((PACKAGED / "g2.yaml").read_text())
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**content, "id": "OTHER"}))
    with pytest.raises(ConfigurationError, match="G2"):
        read_machines(tmp_path)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"names": []}, {"sad_mm": [0, 1]}])
def test_a_wrong_machine_file_is_refused_by_key(tmp_path: Path, change: dict[str, object]) -> None:
    content = {**yaml.safe_load((PACKAGED / "g2.yaml").read_text()), **change}
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match=next(iter(change))):
        read_machine(file)


def test_a_missing_calibration_key_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((PACKAGED / "g2.yaml").read_text())
    del content["record"]["mu_per_count"]
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match="mu_per_count"):
        read_machine(file)


def test_a_site_without_machine_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read_machines(tmp_path)
