"""What an engine left: only a right, fresh, finite dose of this beam passes. And moqui's way end to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.engine_contract.job_view import JobView, mark_start
from mqi_dagster.engine_contract.output import RawDose, read_output
from mqi_dagster.engine_contract.progress import ProgressParser, engine_failure
from mqi_dagster.engine_contract.view import prepare_view
from mqi_dagster.errors import EngineError
from mqi_dagster.settings import CsvDialect, Engine, EngineProfile, OutputFormat, built_in_profiles
from tests.engine_contract.engine_cases import BeamCase

EMBEDDED, MOQUI = built_in_profiles()["embedded"], built_in_profiles()["moqui"]
PHANTOM = {"dimension": (4, 6, 5), "unit_mm": (2, 4, 2), "position_mm": (-4, -12, -7)}
TRANSCRIPT = Path(__file__).parent / "data" / "moqui_stdout.txt"

# moqui's header, line by line as its forks write it; Offset is the lower edge.
MOQUI_HEADER = """\
ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix 1 0 0 0 1 0 0 0 1
Offset {offset}
CenterOfRotation 0 0 0
AnatomicOrientation = RAI
DimSize = {size}
ElementType = MET_DOUBLE
ElementSpacing = {spacing}
ElementDataFile = {name}.raw
"""

Make = Callable[..., BeamCase]


def make_view(
    case: BeamCase, directory: Path, profile: EngineProfile, two_cm: bool, histories: float = 1e6
) -> JobView:
    return prepare_view(
        directory,
        profile=profile,
        plan_source=case.plan,
        plan_beam=case.beam,
        machine=case.machine,
        interpreted_dir=case.interpreted_dir,
        interpreted=case.interpreted,
        ct_files=(),
        engine=Engine.model_validate(
            {"histories": histories, "phantom": {"two_centimeter_mode": two_cm, **PHANTOM}}
        ),
    )


def dose(*shape: int) -> np.ndarray:
    """Distinct values in every voxel, shape (nz, ny, nx)."""
    return np.arange(1.0, np.prod(shape) + 1).reshape(shape)


def write_raw(view: JobView, stem: str, values: np.ndarray) -> None:
    (view.directory / "Dose" / f"{stem}.raw").write_bytes(values.astype("<f8").tobytes())


def write_mhd(view: JobView, stem: str, size: str, offset: str, spacing: str, name: str = "") -> None:
    text = MOQUI_HEADER.format(size=size, offset=offset, spacing=spacing, name=name or stem)
    (view.directory / "Dose" / f"{stem}.mhd").write_text(text)


@pytest.fixture
def embedded(beam_case: Make, tmp_path: Path) -> JobView:
    """A small box and its plane, both written well."""
    view = make_view(beam_case(2), tmp_path / "job", EMBEDDED, two_cm=True)
    box = dose(5, 6, 4)
    write_raw(view, "1G180:TX_1_Dose", box)
    write_mhd(view, "1G180:TX_1_Dose", "4 6 5", "-4 -12 -7", "2 4 2")
    write_raw(view, "1G180:TX_2_Dose", box[3:4])
    write_mhd(view, "1G180:TX_2_Dose", "4 6 1", "-4 -12 -1", "2 4 2")
    return view


def read(view: JobView, started_ns: int = 0, histories: int | None = 1_000_000) -> RawDose:
    return read_output(view, EMBEDDED, started_ns, histories)


def test_box_and_plane_are_read_with_first_voxel_centres(embedded: JobView) -> None:
    raw = read(embedded)
    assert raw.box is not None
    assert raw.plane is not None
    assert raw.box.values.shape == (5, 6, 4)
    assert raw.box.values.dtype == np.float64
    # x fastest: the second value of the file is the neighbour in x, the fifth the one in y.
    assert (raw.box.values[0, 0, 1], raw.box.values[0, 1, 0], raw.box.values[1, 0, 0]) == (2.0, 5.0, 25.0)
    assert raw.box.grid.origin_mm == (-3.0, -10.0, -6.0)
    assert raw.box.grid.spacing_mm == (2.0, 4.0, 2.0)
    assert raw.box.grid.axes == "phantom"
    assert raw.plane.grid.origin_mm == (-3.0, -10.0, 0.0)
    assert raw.plane.values.shape == (1, 6, 4)
    assert raw.plane.values[0, 0, 0] == 73.0
    assert raw.histories == 1e6


@pytest.mark.parametrize("histories", [0, 998_900, 1_001_100, None])
def test_histories_other_than_expected_are_refused(embedded: JobView, histories: int | None) -> None:
    with pytest.raises(EngineError, match="histor"):
        read(embedded, histories=histories)


@pytest.mark.parametrize("histories", [999_100, 1_000_900])
def test_histories_within_a_tenth_of_a_percent_pass(embedded: JobView, histories: int) -> None:
    assert read(embedded, histories=histories).histories == histories


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros((5, 6, 4)), "zero everywhere"),
        (np.where(dose(5, 6, 4) == 7, np.nan, 1.0), "finite"),
        (np.where(dose(5, 6, 4) == 7, np.inf, 1.0), "finite"),
        (np.where(dose(5, 6, 4) == 7, -1e-9, 1.0), "negative"),
        (dose(4, 6, 4), "96 voxels"),
        (np.zeros((0,)), "empty"),
    ],
)
def test_what_is_no_dose_is_refused(embedded: JobView, values: np.ndarray, text: str) -> None:
    write_raw(embedded, "1G180:TX_1_Dose", values)
    with pytest.raises(EngineError, match=text) as caught:
        read(embedded)
    assert "1G180:TX" in str(caught.value)


def test_a_zero_plane_beside_a_good_box_is_refused(embedded: JobView) -> None:
    write_raw(embedded, "1G180:TX_2_Dose", np.zeros((1, 6, 4)))
    with pytest.raises(EngineError, match="zero everywhere"):
        read(embedded)


def test_a_file_that_ends_within_a_value_is_refused(embedded: JobView) -> None:
    path = embedded.directory / "Dose/1G180:TX_1_Dose.raw"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(EngineError, match="within a value"):
        read(embedded)


def test_an_output_older_than_the_start_is_refused_to_the_nanosecond(embedded: JobView) -> None:
    path = embedded.directory / "Dose/1G180:TX_2_Dose.raw"
    os.utime(path, ns=(10**18, 10**18))
    assert read(embedded, started_ns=10**18).box is not None
    with pytest.raises(EngineError, match="older"):
        read(embedded, started_ns=10**18 + 1)


def test_the_start_mark_lies_between_old_and_new_outputs(embedded: JobView) -> None:
    for path in (embedded.directory / "Dose").iterdir():
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    started = mark_start(embedded)
    with pytest.raises(EngineError, match="older"):
        read(embedded, started)
    for path in (embedded.directory / "Dose").iterdir():
        path.write_bytes(path.read_bytes())
    assert read(embedded, started).box is not None


def test_no_output_and_another_beams_output_are_told_apart(embedded: JobView) -> None:
    folder = embedded.directory / "Dose"
    (folder / "1G180:TX_1_Dose.raw").rename(folder / "2S110_1_Dose.raw")
    with pytest.raises(EngineError, match="another beam"):
        read(embedded)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(EngineError, match="no output"):
        read(embedded)


@pytest.mark.parametrize(
    ("size", "offset", "spacing", "name", "text"),
    [
        ("4 6 5", "-4 -12 -7", "2 4 2", "2S110_1_Dose", "another dose"),
        ("6 4 5", "-4 -12 -7", "2 4 2", "", "not the one of the TPS file"),
        ("4 6 5", "-3 -10 -6", "2 4 2", "", "not the one of the TPS file"),
        ("4 6 5", "-4 -12 -7", "2 2 2", "", "not the one of the TPS file"),
        ("4 6", "-4 -12 -7", "2 4 2", "", "lacks"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    embedded: JobView, size: str, offset: str, spacing: str, name: str, text: str
) -> None:
    write_mhd(embedded, "1G180:TX_1_Dose", size, offset, spacing, name)
    with pytest.raises(EngineError, match=text):
        read(embedded)


def test_a_patient_dose_takes_its_grid_from_the_header_alone(embedded: JobView) -> None:
    tps = embedded.tps.model_copy(update={"using_phantom_geo": False, "two_centimeter_mode": False})
    view = embedded.model_copy(update={"tps": tps, "plane_stem": None})
    write_mhd(view, "1G180:TX_1_Dose", "5 4 6", "-100.5 20 7", "1.5 2 3")
    raw = read(view)
    assert raw.box.grid.axes == "patient"
    assert raw.box.grid.origin_mm == (-99.75, 21.0, 8.5)
    assert raw.box.values.shape == (6, 4, 5)
    with pytest.raises(EngineError, match="without a header"):
        read(view.model_copy(update={"with_header": False}))


def test_fetched_files_may_lie_elsewhere(embedded: JobView, tmp_path: Path) -> None:
    fetched = {}
    for name in embedded.outputs:
        target = tmp_path / "fetched" / Path(name).name
        target.parent.mkdir(exist_ok=True)
        (embedded.directory / name).rename(target)
        fetched[name] = target
    assert read_output(embedded, EMBEDDED, 0, 1_000_000, fetched).box.values[0, 0, 1] == 2.0


@pytest.mark.parametrize("layers", [1, 3])
def test_moqui_from_view_to_dose(beam_case: Make, tmp_path: Path, layers: int) -> None:
    # sum of N * K(110) = 2e6 * 1.394865, halved by ParticlesPerHistory, so that the square shows.
    case = beam_case(2, counts=((0,), (1_000_000, 1_000_000)), dialect=CsvDialect.FLAT)
    view = make_view(case, tmp_path / "job", MOQUI, two_cm=True, histories=1_394_865)
    assert view.particles_per_history == pytest.approx(0.5, rel=1e-5)
    csv = (view.directory / "Log_csv/log/1G180_TX/02_110.00MeV.csv").read_text()
    assert csv == "0.00,1.5,-2.5,1000000,0.06,1.5,-2.5,1000000\n"
    started = mark_start(view)

    # The engine: its transcript with this beam's histories, and its raw file of the scored slab.
    values = np.zeros((layers, 400, 400))
    values[:, 210, 150] = [4.0] if layers == 1 else [3.0, 4.0, 5.0]
    write_raw(view, "1G180:TX_2_Dose", values)
    transcript = TRANSCRIPT.read_bytes().replace(b": 107940", b": 1394700")

    parser = ProgressParser()
    assert parser.feed(transcript)[-1].fraction == 0.99
    parser.close()
    assert engine_failure(MOQUI, 0, parser, str) is None
    raw = read_output(view, MOQUI, started, parser.histories)
    assert raw.box is None
    assert raw.plane.values.shape == (1, 400, 400)
    assert raw.plane.values[0, 210, 150] == pytest.approx(16.0, rel=1e-4)
    assert np.count_nonzero(raw.plane.values) == 1
    assert raw.plane.grid.origin_mm == (-199.5, -199.5, 0.0)
    assert raw.plane.grid.spacing_mm == pytest.approx((1.0, 1.0, 2.0))
    with pytest.raises(EngineError, match="107940 histories"):
        read_output(view, MOQUI, started, 107_940)


def test_moqui_with_a_plain_phantom_leaves_a_box_with_its_own_header(beam_case: Make, tmp_path: Path) -> None:
    profile = MOQUI.model_copy(update={"output_format": OutputFormat.MHD, "histories_scale_power": 1})
    view = make_view(beam_case(3, dialect=CsvDialect.FLAT), tmp_path / "job", profile, two_cm=False)
    assert view.outputs == ("Dose/2S110_1_Dose.mhd", "Dose/2S110_1_Dose.raw")
    write_raw(view, "2S110_1_Dose", dose(5, 6, 4))
    write_mhd(view, "2S110_1_Dose", "4 6 5", "-4 -12 -7", "2 4 2")
    raw = read_output(view, profile, 0, 1_000_000)
    # 1e6 histories for 15399.75 protons: the dose is divided by 64.936 once.
    assert raw.box.values[0, 0, 1] == pytest.approx(2.0 / 64.93610604, rel=1e-6)


def test_two_layers_are_no_plane(beam_case: Make, tmp_path: Path) -> None:
    view = make_view(beam_case(2, dialect=CsvDialect.FLAT), tmp_path / "job", MOQUI, two_cm=True)
    write_raw(view, "1G180:TX_2_Dose", np.ones((2, 400, 400)))
    with pytest.raises(EngineError, match="2 layers"):
        read_output(view, MOQUI, 0, round(view.expected_histories))
