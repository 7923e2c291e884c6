"""The pieces that become MCsquare's input, without MCsquare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydantic import ValidationError

from mqi_dagster.embedded_engine.bdl import RangeShifterInBeam, render_bdl, spot_at_nozzle_mm
from mqi_dagster.embedded_engine.ct_series import CtSeries, read_ct_series
from mqi_dagster.embedded_engine.driver import part_seed, plan_parts
from mqi_dagster.embedded_engine.output import OutputGrid, write
from mqi_dagster.embedded_engine.patient import averaging, patient_volume
from mqi_dagster.embedded_engine.phantom import to_engine_axes, water_fraction
from mqi_dagster.embedded_engine.plan_file import aimed
from mqi_dagster.embedded_engine.simulation import read_request
from mqi_dagster.embedded_engine.spots import SpotLayer, read_layers
from mqi_dagster.engine_contract.beam_model import EngineBeamModel, beam_model_for
from mqi_dagster.errors import EngineInputError
from mqi_dagster.machine import BeamModel, EnergyTable, Machine
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.plan.reading import read_ion_plan
from tests.embedded_engine.embedded_job import TYPICAL, Beam, Ct, write_ct, write_job, write_plan


def rows_of(library: str) -> list[list[float]]:
    """The numbers of the library's table."""
    lines = library.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("NominalEnergy"))
    return [[float(v) for v in line.split()] for line in lines[start + 1 :]]


def test_the_spot_at_the_nozzle_drifts_to_its_size_at_the_isocentre() -> None:
    # 3-4-5: 3 mm at the nozzle and 8 mrad over 500 mm make 5 mm.
    assert spot_at_nozzle_mm(5.0, 0.008, 500.0) == pytest.approx(3.0)
    with pytest.raises(EngineInputError, match="wider than the spot"):
        spot_at_nozzle_mm(4.0, 0.008, 500.0)


def test_the_library_never_holds_a_correlation_of_zero(generic: Machine) -> None:
    rows = rows_of(render_bdl(generic.beam_model, generic.sad_mm, [110.0, 150.0, 110.0], None))
    assert [row[0] for row in rows] == [110.0, 150.0, 151.0]
    for row in rows:
        assert [row[i] for i in (7, 10, 14, 17)] == [0.001] * 4
        assert row[3:5] == [1.0, 1.0]
        assert row[11] == 0.0
    # 0.8 MeV of 150 MeV; sqrt(4.4^2 - (0.0035 * 500)^2) mm.
    assert rows[1][2] == pytest.approx(0.533333, abs=1e-6)
    assert rows[1][5] == rows[1][8] == pytest.approx(4.037016, abs=1e-6)


def one_size(value: float) -> EnergyTable:
    return EnergyTable(energy_mev=(60.0, 250.0), value=(value, value))


def changed_model(generic: Machine, **changes: object) -> BeamModel:
    """GENERIC's model with other fields, read as a machine file is."""
    content = generic.beam_model.model_dump(mode="json")
    content |= {
        key: one_size(value).model_dump(mode="json") if isinstance(value, float) else value
        for key, value in changes.items()
    }
    return BeamModel.model_validate(content)


def test_x_and_y_have_sizes_divergences_and_correlations_of_their_own(generic: Machine) -> None:
    model = changed_model(
        generic,
        spot_plane="nozzle",
        spot_sigma_mm=3.0,
        spot_sigma_y_mm=6.0,
        angular_spread_rad=0.002,
        angular_spread_y_rad=0.004,
        correlation=-0.5,
        correlation_y=0.25,
    )
    row = rows_of(render_bdl(model, generic.sad_mm, [150.0], None))[0]
    # At the nozzle, where MCsquare wants them: nothing is changed on the way.
    assert row[4:11] == [1.0, 3.0, 0.002, -0.5, 6.0, 0.004, 0.25]
    assert row[11] == 0.0


def test_a_correlation_at_the_isocentre_is_carried_back_to_the_nozzle(generic: Machine) -> None:
    model = changed_model(generic, spot_sigma_mm=5.0, angular_spread_rad=0.008, correlation=0.8)
    row = rows_of(render_bdl(model, generic.sad_mm, [150.0], None))[0]
    # 3-4-5: 5^2 - 2 * 0.8 * 5 * 4 + 4^2 = 3^2 mm2, and 0.8 * 5 = 4, so nothing of the correlation is left.
    assert row[5:8] == row[8:11] == [3.0, 0.008, 0.001]
    narrow = changed_model(generic, spot_sigma_mm=3.0, angular_spread_rad=0.008, correlation=0.0)
    row = rows_of(render_bdl(narrow, generic.sad_mm, [150.0], None))[0]
    # A waist at the isocentre: 3^2 + 4^2 = 5^2, and the beam converges with -4/5.
    assert row[5:8] == [5.0, 0.008, -0.8]


def test_a_second_gaussian_stands_behind_the_first(generic: Machine) -> None:
    second = {
        "weight": one_size(0.125).model_dump(),
        "spot_sigma_mm": one_size(10.0).model_dump(),
        "spot_sigma_y_mm": one_size(12.0).model_dump(),
        "angular_spread_rad": one_size(0.006).model_dump(),
        "correlation": one_size(0.1).model_dump(),
    }
    model = changed_model(generic, spot_plane="nozzle", second_gaussian=second)
    row = rows_of(render_bdl(model, generic.sad_mm, [150.0], None))[0]
    assert (row[4], row[11]) == (0.875, 0.125)
    assert row[12:] == [10.0, 0.006, 0.1, 12.0, 0.006, 0.1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"correlation": 1.0}, "correlation must lie between -1 and 1"),
        ({"correlation_y": -1.0}, "correlation_y must lie between -1 and 1"),
        ({"spot_sigma_y_mm": 0.0}, "spot_sigma_y_mm must be above 0"),
        ({"spot_plane": "snout"}, "isocenter"),
        ({"second_gaussian": {"weight": 1.0}}, "second_gaussian"),
    ],
)
def test_a_spot_that_cannot_be_is_refused(changes: dict[str, object], says: str, generic: Machine) -> None:
    with pytest.raises(ValidationError, match=says):
        changed_model(generic, **changes)


def test_energies_outside_a_table_of_the_halo_are_refused(generic: Machine) -> None:
    short = EnergyTable(energy_mev=(60.0, 140.0), value=(0.1, 0.1)).model_dump()
    second = {
        "weight": short,
        "spot_sigma_mm": one_size(10.0).model_dump(),
        "angular_spread_rad": one_size(0.006).model_dump(),
    }
    model = changed_model(generic, second_gaussian=second)
    with pytest.raises(EngineInputError, match=r"lies outside second_gaussian\.weight"):
        render_bdl(model, generic.sad_mm, [150.0], None)


def test_what_a_machine_file_does_not_say_changes_no_digest(generic: Machine) -> None:
    assert sorted(generic.beam_model.model_dump(mode="json")) == [
        "angular_spread_rad",
        "commissioned",
        "energy_spread_mev",
        "mean_energy_mev",
        "nozzle_to_isocenter_mm",
        "protons_per_mu",
        "spot_sigma_mm",
    ]


@pytest.mark.parametrize("energy", [59.9, 250.1])
def test_energies_outside_the_beam_model_are_refused(energy: float, generic: Machine) -> None:
    with pytest.raises(EngineInputError, match="lies outside mean_energy_mev"):
        render_bdl(generic.beam_model, generic.sad_mm, [150.0, energy], None)


def test_a_range_shifter_stands_in_the_library(generic: Machine) -> None:
    library = render_bdl(generic.beam_model, generic.sad_mm, [150.0], RangeShifterInBeam(34.3, 300.0))
    assert "Range Shifter parameters\nRS_ID = RS\nRS_type = binary\n" in library
    assert "RS_WET = 34.300000\n" in library


@pytest.mark.parametrize(("in_plan", "distance"), [(None, 343.0), (173.8, 173.8)])
def test_the_plan_places_the_range_shifter_or_else_snout_and_offset(
    in_plan: float | None, distance: float, generic: Machine, tmp_path: Path
) -> None:
    beam = Beam({150.0: [(0.0, 0.0, 10)]}, snout=300.0, shifter="RS_3CM", shifter_distance=in_plan)
    request = read_request(write_job(tmp_path, beam, generic))
    shifter = request.field.shifter
    assert shifter is not None
    assert shifter.water_equivalent_thickness_mm == 34.3
    assert shifter.isocenter_distance_mm == pytest.approx(distance)


def test_y_is_aimed_so_that_the_second_turn_brings_it_back() -> None:
    aim = aimed(np.array([[0.0, 100.0], [200.0, 100.0]]), (2000.0, 2000.0), 500.0)
    assert aim[0].tolist() == [0.0, 100.0]
    # At the nozzle y' * 3/4; from there a slope of y'/2000 * sqrt(1 + 0.1^2) over 500 mm.
    assert aim[1, 1] * 0.75 + 500 * aim[1, 1] / 2000 * 1.00498756 == pytest.approx(100.0, abs=1e-6)


@pytest.fixture
def planned(generic: Machine, tmp_path: Path) -> tuple[PlanBeam, EngineBeamModel]:
    """A beam of 110.125 and 90 MeV with its model; counts are divided by 10."""
    write_plan(tmp_path / "RP.dcm", Beam({110.125: [(0.0, 0.0, 1)], 90.0: [(0.0, 0.0, 1)]}))
    beam = read_ion_plan(tmp_path / "RP.dcm").beam(1)
    return beam, beam_model_for(generic, beam, 10.0)


def layers_of(
    folder: Path, files: dict[str, str], planned: tuple[PlanBeam, EngineBeamModel]
) -> list[SpotLayer]:
    (folder / "log" / "field").mkdir(parents=True)
    for name, content in files.items():
        (folder / "log" / "field" / name).write_bytes(content.encode())
    return read_layers(folder / "log", *planned)


ROWS = "0.06,1.5,-2,100\r\n0.12,1.5,-2,0\r\n0.18,-3.25,4,300\r\n"
FLAT = "0.06,1.5,-2,100,0.12,1.5,-2,0,0.18,-3.25,4,300"


@pytest.mark.parametrize("content", [ROWS, ROWS.replace("\r", ""), FLAT, FLAT + "\n"])
def test_both_dialects_give_the_same_protons(
    content: str, planned: tuple[PlanBeam, EngineBeamModel], tmp_path: Path
) -> None:
    (layer,) = layers_of(tmp_path, {"01_110.13MeV.csv": content}, planned)
    assert (layer.number, layer.energy_mev) == (1, 110.125)
    assert layer.positions_mm.tolist() == [[1.5, -2.0], [-3.25, 4.0]]
    # 1e-5 MU per count, ten times, and 2.7e6 + 0.8e6 * 10.125 / 50 protons per MU at 110.125 MeV.
    np.testing.assert_allclose(layer.protons, np.array([100, 300]) * 1e-4 * 2.862e6)


def test_layers_are_ordered_by_number_and_empty_ones_dropped(
    planned: tuple[PlanBeam, EngineBeamModel], tmp_path: Path
) -> None:
    layers = layers_of(tmp_path, {"02_90.00MeV.csv": ROWS, "01_110.13MeV.csv": "0.06,0,0,0\r\n"}, planned)
    assert [layer.number for layer in layers] == [2]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"01_110.13MeV.csv": "0.06,1.5,-2,1.5\r\n"}, "a count no integer"),
        ({"01_110.13MeV.csv": FLAT.replace("300", "2.5")}, "a count no integer"),
        ({"01_110.13MeV.csv": "0.06,1.5,-2,-1\r\n"}, "a count is negative"),
        ({"01_110.13MeV.csv": "0.06,nan,-2,1\r\n"}, "a position is not finite"),
        ({"01_110.13MeV.csv": "0.06,abc,-2,1\r\n"}, "a value is no number"),
        ({"01_110.13MeV.csv": "0.06,,-2,1\r\n"}, "one of them is missing"),
        ({"01_110.13MeV.csv": ROWS + "0.24,1\r\n"}, "a row is shorter"),
        ({"01_110.13MeV.csv": FLAT + ",1"}, "neither rows"),
        ({"01_110.13MeV.csv": FLAT + "\n" + FLAT}, "neither rows"),
        ({"01_110.13MeV.csv": ""}, "neither rows"),
        ({"01_110.13MeV.csv": "0.06,0,0,0\r\n"}, "the beam has no counts"),
        ({"01_110.14MeV.csv": ROWS}, "110.14 MeV in the name, 110.125 MeV in the plan"),
        ({"03_90.00MeV.csv": ROWS}, "the beam has no layer of this number"),
        ({"notes.csv": ROWS}, "not named like a layer"),
        ({"01_110.13MeV.csv": ROWS, "001_110.13MeV.csv": ROWS}, "two files of one layer"),
        ({}, "the beam has no counts"),
    ],
)
def test_csvs_that_cannot_be_the_beam_are_refused(
    files: dict[str, str], says: str, planned: tuple[PlanBeam, EngineBeamModel], tmp_path: Path
) -> None:
    with pytest.raises(EngineInputError, match=says):
        layers_of(tmp_path, files, planned)


def test_two_folders_of_csvs_are_refused(planned: tuple[PlanBeam, EngineBeamModel], tmp_path: Path) -> None:
    (tmp_path / "log" / "other").mkdir(parents=True)
    with pytest.raises(EngineInputError, match="2 folders of CSVs instead of one"):
        layers_of(tmp_path, {"01_110.13MeV.csv": ROWS}, planned)


def test_a_voxel_cut_by_the_surface_holds_its_share_of_water() -> None:
    # Voxels from 14 to 17, 17 to 20, 20 to 23 mm, surface at 18.
    assert water_fraction(14.0, 3.0, 3, 18.0).tolist() == [1.0, pytest.approx(1 / 3), 0.0]


def test_the_engine_axes_are_x_then_patient_z_then_against_y() -> None:
    dicom = np.zeros((4, 3, 2))
    dicom[3, 0, 1] = 1.0  # highest z, lowest y, highest x
    assert np.argwhere(to_engine_axes(dicom)).tolist() == [[2, 3, 1]]


def test_histories_are_split_in_whole_vectors_and_never_depend_on_the_machine() -> None:
    parts = plan_parts(100_000, 3, 42)
    assert [part.histories for part in parts] == [33344, 33328, 33328]
    assert sum(part.histories for part in plan_parts(20_004, 4, 42)) == 20_000
    assert len({part.seed for part in parts}) == 3
    assert [part.seed for part in plan_parts(5_000, 3, 42)] == [part.seed for part in parts]
    # Single precision inside a part: 10 million histories are 4 parts, 1e8 are 40 whatever the setting.
    assert len(plan_parts(10_000_000, 2, 42)) == 4
    assert len(plan_parts(100_000_000, 4, 42)) == 40


@pytest.mark.parametrize("seed", [-(2**31), -1932780356, -1, 0, 2**31 - 1])
def test_seeds_of_parts_are_positive(seed: int) -> None:
    assert all(1 <= part_seed(seed, index) < 2**31 for index in range(100))


def test_averaging_keeps_the_sum_along_a_ray() -> None:
    weights = averaging(4, 3.0, 6, 2.0)
    assert weights.sum(axis=1).tolist() == pytest.approx([1.0] * 6)
    assert weights[1].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert (weights @ [3.0, 0.0, 0.0, 6.0]).sum() * 2.0 == pytest.approx(27.0)
    assert averaging(1, 3.0, 2, 2.0).sum(axis=1).tolist() == [1.0, 0.5]


def marked_ct() -> Ct:
    values = np.full((5, 6, 7), -1000, np.int16)
    values[1, 2, 3] = 400
    return Ct(values, (-10.0, 20.0, -30.0), (1.0, 2.0, 2.5))


def test_slices_are_ordered_by_their_position(tmp_path: Path) -> None:
    write_ct(tmp_path, marked_ct())
    series = read_ct_series(tmp_path)
    assert np.argwhere(series.hounsfield > 0).tolist() == [[1, 2, 3]]
    assert series.hounsfield[1, 2, 3] == 400.0
    assert series.first_mm == (-10.0, 20.0, -30.0)
    assert series.spacing_mm == (1.0, 2.0, 2.5)


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path, marked_ct())
    (tmp_path / "CT0000.dcm").unlink()  # the third of five
    with pytest.raises(EngineInputError, match="not evenly spaced"):
        read_ct_series(tmp_path)


@pytest.mark.parametrize("keyword", ["PatientPosition", "RescaleSlope", "ImagePositionPatient"])
def test_a_slice_without_what_places_or_scales_it_is_refused(keyword: str, tmp_path: Path) -> None:
    write_ct(tmp_path, marked_ct())
    one = pydicom.dcmread(tmp_path / "CT0000.dcm")
    delattr(one, keyword)
    one.save_as(tmp_path / "CT0000.dcm")
    with pytest.raises(EngineInputError, match=f"a slice has no {keyword}"):
        read_ct_series(tmp_path)


def test_slices_in_another_order_of_axes_are_refused(tmp_path: Path) -> None:
    write_ct(tmp_path, marked_ct())
    one = pydicom.dcmread(tmp_path / "CT0000.dcm")
    one.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    one.save_as(tmp_path / "CT0000.dcm")
    with pytest.raises(EngineInputError, match="not axial"):
        read_ct_series(tmp_path)


def test_a_folder_without_ct_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineInputError, match="no CT beside the plan"):
        read_ct_series(tmp_path)


def test_the_patient_keeps_its_mass_and_place_at_two_millimetres() -> None:
    values = np.full((20, 30, 40), -1000.0, np.float32)
    values[5:15, 10:20, 12:28] = 0.0
    volume = patient_volume(CtSeries(values, (-20.0, 7.0, 100.0), (1.5, 2.0, 3.0)), TYPICAL)
    water = volume.hounsfield.astype(np.float64) + 1000.0
    # 10 x 10 x 16 voxels of 3 x 2 x 1.5 mm.
    assert water.sum() / 1000.0 * 8.0 == pytest.approx(10 * 10 * 16 * 9.0, rel=1e-3)
    centre = [
        (
            water.sum(axis=tuple(o for o in range(3) if o != 2 - a))
            * (volume.first_mm[a] + 2.0 * np.arange(n))
        ).sum()
        / water.sum()
        for a, n in zip((0, 1, 2), reversed(water.shape), strict=True)
    ]
    # Middle of voxels 12..27, 10..19 and 5..14.
    assert centre == pytest.approx([-20.0 + 1.5 * 19.5, 7.0 + 2.0 * 14.5, 100.0 + 3.0 * 9.5], abs=1e-2)
    density = volume.density()
    assert density.max() == pytest.approx(1.0)
    assert density.min() == pytest.approx(0.0012)


def test_a_raw_dose_runs_along_x_first_and_its_header_gives_the_edge(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    write(tmp_path, "B_1_Dose", OutputGrid(values, (-4.0, -3.0, -2.0), (2.0, 2.0, 2.0)), True)
    assert np.fromfile(tmp_path / "B_1_Dose.raw", "<f8").tolist() == list(range(24))
    header = (tmp_path / "B_1_Dose.mhd").read_text()
    for line in ("Offset = -4.0 -3.0 -2.0", "DimSize = 4 3 2", "ElementType = MET_DOUBLE"):
        assert line in header.splitlines()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["B_1_Dose.mhd", "B_1_Dose.raw"]
