"""The folder an engine is given: one beam, one folder, nothing of the patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pydicom
import pytest

from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.engine_contract.beam_model import read_beam_model
from mqi_dagster.engine_contract.job_view import JobView, engine_beam_name, log_folder_name
from mqi_dagster.engine_contract.tps import parse_tps
from mqi_dagster.engine_contract.view import prepare_view
from mqi_dagster.errors import EngineInputError
from mqi_dagster.plan.model import PlanRangeShifter
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.settings import CsvDialect, Engine, EngineProfile, built_in_profiles
from mqi_dagster.synthetic.ct import write_water_ct
from mqi_dagster.synthetic.request import DeliveryRequest
from tests.engine_contract.engine_cases import MARKERS, BeamCase

EMBEDDED, MOQUI = built_in_profiles()["embedded"], built_in_profiles()["moqui"]
Make = Callable[..., BeamCase]


def view_of(
    case: BeamCase,
    directory: Path,
    profile: EngineProfile = EMBEDDED,
    ct: tuple[InputFile, ...] = (),
    seen_as: PurePosixPath | None = None,
    gpu: int = 0,
    histories: float = 1e6,
) -> JobView:
    return prepare_view(
        directory,
        profile=profile,
        plan_source=case.plan,
        plan_beam=case.beam,
        machine=case.machine,
        interpreted_dir=case.interpreted_dir,
        interpreted=case.interpreted,
        ct_files=ct,
        engine=Engine.model_validate({"histories": histories}),
        gpu_index=gpu,
        seen_as=seen_as,
    )


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_view_holds_one_beam_in_one_folder(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    view = view_of(case, tmp_path / "job")
    assert files_of(tmp_path / "job") == [
        "Log_csv/beam_model.json",
        "Log_csv/log/1G180_TX/01_150.00MeV.csv",
        "Log_csv/log/1G180_TX/02_110.00MeV.csv",
        "Log_csv/plan/RP.dcm",
        "moqui_tps.in",
        "view.json",
    ]
    assert (tmp_path / "job" / "Dose").is_dir()
    for name, sha in view.manifest.items():
        assert hashlib.sha256((tmp_path / "job" / name).read_bytes()).hexdigest() == sha
    assert sorted(view.manifest) == [name for name in files_of(tmp_path / "job") if name != "view.json"]
    assert view.outputs == tuple(
        f"Dose/1G180:TX_{child}_Dose{suffix}" for child in (1, 2) for suffix in (".mhd", ".raw")
    )
    assert view.argv == ("mqi-engine", f"{tmp_path}/job/moqui_tps.in")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interpreted-2", "job", "source"]


def test_with_a_setup_beam_numbered_1_every_beam_keeps_name_and_energies(
    beam_case: Make, tmp_path: Path
) -> None:
    for number, name in ((2, "1G180:TX"), (3, "2S110")):
        view = view_of(beam_case(number), tmp_path / f"job{number}")
        reduced = read_ion_plan(view.directory / "Log_csv/plan/RP.dcm")
        assert [(b.number, b.name) for b in reduced.beams] == [(1, name)]
        assert reduced.setup_beam_numbers == ()
        assert [layer.energy_mev for layer in reduced.beams[0].layers] == [150.0, 110.0]
        dataset = pydicom.dcmread(view.directory / "Log_csv/plan/RP.dcm")
        references = dataset.FractionGroupSequence[0].ReferencedBeamSequence
        assert [int(r.ReferencedBeamNumber) for r in references] == [1]
        assert parse_tps(view.tps_path.read_text()).beam_numbers == (1,)


def test_every_known_way_of_finding_the_folder_ends_at_the_beam(beam_case: Make, tmp_path: Path) -> None:
    for number, name in ((2, "1G180:TX"), (3, "2S110")):
        view = view_of(beam_case(number), tmp_path / f"job{number}")
        folders = sorted(p.name for p in (view.directory / "Log_csv/log").iterdir())
        (beam_number,) = view.tps.beam_numbers
        assert len(folders) == 1
        by_index = folders[beam_number - 1]
        assert by_index == folders[0]
        pattern = re.compile(r"(\d+G\d{3})")
        in_name, in_folder = pattern.search(name), pattern.search(folders[0])
        by_field = bool(in_name and in_folder and in_name[1] == in_folder[1])
        assert by_field or folders[0] == name or folders[0] in name


@pytest.mark.parametrize(
    ("name", "folder"),
    [("1G180:TX", "1G180_TX"), ("2S110", "2S110"), ("A B", "A B"), ("앞:1", "앞:1"), ("x-1_Y", "x-1_Y")],
)
def test_the_folder_is_sanitised_where_it_is_still_found(name: str, folder: str) -> None:
    assert log_folder_name(name) == folder


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("1G180:TX", "1G180:TX"),
        ("A B.1", "A B.1"),
        ("1G180/TX", "1G180_TX"),
        ("../x", "_._x"),
        (".hidden", "_hidden"),
        ("-rf", "_rf"),
        ("a\nb\x00c", "a_b_c"),
        ("a ", "a_"),
        ("/", "_"),
    ],
)
def test_a_name_that_cannot_name_files_is_given_to_the_engine_as_one_that_can(name: str, seen: str) -> None:
    assert engine_beam_name(name) == seen


def test_a_beam_without_a_name_is_refused() -> None:
    with pytest.raises(EngineInputError, match="no name"):
        engine_beam_name("")


def test_a_beam_with_a_slash_in_its_name_is_simulated_like_any_other(
    plan: Path, beam_case: Make, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(plan)
    dataset.IonBeamSequence[1].BeamName = "1G180/TX"
    dataset.save_as(plan)
    view = view_of(beam_case(2), tmp_path / "job")
    assert view.beam_name == "1G180_TX"
    assert pydicom.dcmread(view.directory / "Log_csv/plan/RP.dcm").IonBeamSequence[0].BeamName == "1G180_TX"
    assert [path.name for path in (view.directory / "Log_csv/log").iterdir()] == ["1G180_TX"]
    assert view.outputs[0] == "Dose/1G180_TX_1_Dose.mhd"


def test_moqui_gets_flat_csvs_and_no_beam_model(beam_case: Make, tmp_path: Path) -> None:
    view = view_of(beam_case(2, dialect=CsvDialect.FLAT), tmp_path / "job", MOQUI, gpu=3, histories=8e3)
    assert "Log_csv/beam_model.json" not in view.manifest
    assert view.outputs == ("Dose/1G180:TX_2_Dose.raw",)
    assert view.tps.gpu_id == 3
    assert view.particles_per_history == 1.0
    assert view.expected_histories == 7030 + 1394 + 2789 + 4184


def test_csvs_in_another_dialect_are_refused(beam_case: Make, tmp_path: Path) -> None:
    with pytest.raises(EngineInputError, match=r"rows.*flat"):
        view_of(beam_case(2), tmp_path / "job", MOQUI)
    assert not (tmp_path / "job").exists()


def test_two_range_shifters_are_refused_for_every_engine(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    shifters = tuple(PlanRangeShifter(n, "SNOUT_DEG_B", None, None) for n in (0, 1))
    both = replace(case, beam=replace(case.beam, range_shifters=shifters))
    with pytest.raises(EngineInputError, match="more than one range shifter"):
        view_of(both, tmp_path / "job")


def test_csvs_of_another_beam_are_refused(beam_case: Make, tmp_path: Path) -> None:
    case, other = beam_case(2), beam_case(3)
    mixed = BeamCase(case.plan, case.beam, case.machine, other.interpreted_dir, other.interpreted)
    with pytest.raises(EngineInputError, match="another beam"):
        view_of(mixed, tmp_path / "job")


def test_a_changed_csv_is_found_while_copying_and_nothing_is_left(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    csv = case.interpreted_dir / "log/1G180_TX/02_110.00MeV.csv"
    csv.write_bytes(csv.read_bytes().replace(b"1000", b"1001"))
    with pytest.raises(EngineInputError, match="not the published one") as caught:
        view_of(case, tmp_path / "job")
    assert caught.value.where.layer == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interpreted-2", "source"]


def test_an_earlier_folder_of_the_job_is_replaced_as_a_whole(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    first = view_of(case, tmp_path / "job")
    stale = tmp_path / "job" / "Dose" / "1G180:TX_1_Dose.raw"
    stale.write_bytes(b"old")
    again = view_of(case, tmp_path / "job")
    assert not stale.exists()
    assert again == first


def test_a_folder_of_something_else_is_left_alone(beam_case: Make, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "precious.txt").write_text("x")
    with pytest.raises(EngineInputError, match="something else"):
        view_of(beam_case(2), tmp_path / "job")
    assert files_of(tmp_path / "job") == ["precious.txt"]
    assert not (tmp_path / ".job.partial").exists()


def test_paths_are_those_of_the_engines_machine(beam_case: Make, tmp_path: Path) -> None:
    view = view_of(beam_case(2), tmp_path / "job", seen_as=PurePosixPath("/scratch/mqi/k1"))
    assert view.argv == ("mqi-engine", "/scratch/mqi/k1/moqui_tps.in")
    text = view.tps_path.read_text()
    assert "OutputDir /scratch/mqi/k1/Dose\n" in text
    assert str(tmp_path) not in text


def test_a_placeholder_left_in_a_path_or_command_fails_before_start(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    with pytest.raises(EngineInputError, match="placeholder"):
        view_of(case, tmp_path / "{case}")
    profile = EMBEDDED.model_copy(update={"command": ("run", "{tps}", "--gpu={gpu}")})
    with pytest.raises(EngineInputError, match="placeholder"):
        view_of(case, tmp_path / "job", profile)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interpreted-2", "source"]


def test_the_beam_model_file_carries_the_machines_numbers(beam_case: Make, tmp_path: Path) -> None:
    view = view_of(beam_case(2, dividing_factor=10.0), tmp_path / "job")
    model = read_beam_model(view.directory / "Log_csv/beam_model.json")
    assert (model.machine_id, model.sad_mm, model.range_shifters) == ("G2", (2597.0, 2223.0), {})
    per_count = 1.418493333 * 0.983342911
    assert model.protons_per_written_count(110.0) == pytest.approx(10 * per_count, rel=1e-9)
    (view.directory / "Log_csv/beam_model.json").write_text("[]")
    with pytest.raises(EngineInputError):
        read_beam_model(view.directory / "Log_csv/beam_model.json")


def test_a_ct_goes_in_blanked_and_turns_the_phantom_off(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    plan = pydicom.dcmread(case.plan)
    request = DeliveryRequest(ct_cube_mm=20, ct_margin_mm=5, ct_voxel_mm=10)
    write_water_ct(tmp_path / "ct", plan, (10.0, -20.0, 30.0), request)
    slices = sorted((tmp_path / "ct").iterdir())
    entries = tuple(
        InputFile(path=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size=p.stat().st_size)
        for p in slices
    )
    view = view_of(case, tmp_path / "job", ct=entries)
    assert not view.tps.using_phantom_geo
    assert view.outputs == ("Dose/1G180:TX_1_Dose.mhd", "Dose/1G180:TX_1_Dose.raw")
    copies = [pydicom.dcmread(p) for p in (view.directory / "Log_csv/plan").glob("CT_*.dcm")]
    sources = [pydicom.dcmread(p) for p in slices]
    assert len(copies) == len(sources) == 3
    for keyword in ("ImagePositionPatient", "PixelData", "RescaleIntercept", "PixelSpacing", "Rows"):
        assert sorted(str(c[keyword].value) for c in copies) == sorted(str(c[keyword].value) for c in sources)
    assert len({c.SeriesInstanceUID for c in copies}) == 1
    uids = {str(s[k].value) for s in sources for k in ("SOPInstanceUID", "StudyInstanceUID")}
    assert not uids & {str(c[k].value) for c in copies for k in ("SOPInstanceUID", "StudyInstanceUID")}
    assert view_of(case, tmp_path / "again", ct=entries[::-1]).manifest.items() >= {
        (k, v) for k, v in view.manifest.items() if k.endswith(".dcm")
    }
    moqui = beam_case(3, dialect=CsvDialect.FLAT)
    assert view_of(moqui, tmp_path / "moqui", MOQUI, ct=entries).tps.using_phantom_geo


def test_nothing_of_the_patient_stands_in_a_view(beam_case: Make, tmp_path: Path) -> None:
    case = beam_case(2)
    plan = pydicom.dcmread(case.plan)
    assert all(marker.encode() in case.plan.read_bytes() for marker in MARKERS)
    request = DeliveryRequest(ct_cube_mm=20, ct_margin_mm=5, ct_voxel_mm=10)
    write_water_ct(tmp_path / "ct", plan, (10.0, -20.0, 30.0), request)
    entries = tuple(
        InputFile(path=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size=p.stat().st_size)
        for p in (tmp_path / "ct").iterdir()
    )
    view = view_of(case, tmp_path / "job", ct=entries)
    uids = [str(plan.SOPInstanceUID), str(plan.StudyInstanceUID), str(plan.FrameOfReferenceUID)]
    for path in view.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for text in (*MARKERS, *uids):
                assert text.encode() not in content, path.name
