"""The RT Dose as an independent reader sees it: pydicom's attributes and the bytes, nothing of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.dicom.own_objects import derived_uid
from mqi_dagster.dose.grid import DoseUnits, from_patient, from_phantom, plane_from_phantom
from mqi_dagster.dose.rt_dose import EngineStamp, Irradiation, write_rt_dose
from mqi_dagster.errors import DoseError, InfrastructureError
from mqi_dagster.settings import DoseType, SummationType
from mqi_dagster.settings.sections import RtDose
from tests.dose.dose_cases import (
    DIGEST,
    FRAME_UID,
    IRRADIATION,
    PLAN_UID,
    STUDY_UID,
    phantom_grid,
    request,
    write_plan,
)


def pixels(dataset: pydicom.FileDataset) -> np.ndarray:
    """Frames, rows, columns of dose, straight from the bytes."""
    kind = {16: "<u2", 32: "<u4"}[dataset.BitsAllocated]
    raw = np.frombuffer(dataset.PixelData, kind).astype(float) * float(dataset.DoseGridScaling)
    return raw.reshape(int(dataset.get("NumberOfFrames", 1)), dataset.Rows, dataset.Columns)


@pytest.mark.parametrize(("i", "j", "k"), [(0, 0, 0), (5, 1, 2), (2, 4, 3)])
def test_a_hot_voxel_stands_in_the_file_at_its_dicom_position(
    tmp_path: Path, plan_path: Path, i: int, j: int, k: int
) -> None:
    values = np.zeros((4, 5, 6))
    values[k, j, i] = 1.5
    grid = from_phantom(values, (-5.0, -6.0, -11.0), (2.0, 3.0, 4.0), DoseUnits.GY)
    write_rt_dose(tmp_path / "dose.dcm", grid, request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    (frame,), (row,), (column,) = np.nonzero(pixels(ds))
    # PS3.3 C.7.6.2.1.1: position = IPP + column * dc * X + row * dr * Y, and the frame's offset along X x Y.
    ipp, x, y = (
        np.array(ds.ImagePositionPatient, float),
        *np.array(ds.ImageOrientationPatient, float).reshape(2, 3),
    )
    dr, dc = map(float, ds.PixelSpacing)
    found = ipp + column * dc * x + row * dr * y + float(ds.GridFrameOffsetVector[frame]) * np.cross(x, y)
    engine_x, engine_y, engine_z = -5.0 + 2.0 * i, -6.0 + 3.0 * j, -11.0 + 4.0 * k
    assert found.tolist() == [engine_x, -engine_z, engine_y]


def test_the_position_is_the_centre_of_the_first_voxel(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    # Engine centres: x from -5, y from -6, z from -11 to +1 mm. Not the edges -6, -1 - 2, -7.5.
    assert [str(v) for v in ds.ImagePositionPatient] == ["-5", "-1", "-6"]
    assert [float(v) for v in ds.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert [float(v) for v in ds.PixelSpacing] == [4.0, 2.0]
    assert [float(v) for v in ds.GridFrameOffsetVector] == [0, 3, 6, 9, 12]
    assert (ds.NumberOfFrames, ds.Rows, ds.Columns) == (5, 4, 6)
    assert ds.FrameIncrementPointer == 0x3004000C


def test_the_plane_has_the_tags_of_the_planning_system(tmp_path: Path, plan_path: Path) -> None:
    values = np.random.default_rng(3).uniform(0, 1, (1, 402, 401))
    grid = plane_from_phantom(values, (-199.5, -200.5, -20.5), (1.0, 1.0, 2.0), DoseUnits.GY)
    write_rt_dose(tmp_path / "dose.dcm", grid, request(plan_path, bits=16))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    assert (ds.Rows, ds.Columns) == (402, 401)
    assert [float(v) for v in ds.ImagePositionPatient] == [-199.5, 20.5, -200.5]
    assert [float(v) for v in ds.ImageOrientationPatient] == [1, 0, 0, 0, 0, 1]
    assert [float(v) for v in ds.PixelSpacing] == [1, 1]
    assert ds.BitsAllocated == ds.BitsStored == 16
    assert ds.HighBit == 15
    assert "NumberOfFrames" not in ds
    assert "GridFrameOffsetVector" not in ds
    assert np.abs(pixels(ds)[0] - values[0]).max() <= values.max() / 65535


def test_every_dose_comes_back_within_half_a_scaling(tmp_path: Path, plan_path: Path) -> None:
    raw = np.random.default_rng(1).uniform(0.0, 2.0, (4, 5, 6))
    for bits in (16, 32):
        write_rt_dose(tmp_path / "dose.dcm", phantom_grid(seed=1), request(plan_path, bits=bits))
        ds = pydicom.dcmread(tmp_path / "dose.dcm")
        found = pixels(ds)
        expected = np.array(
            [[[raw[3 - row, frame, c] for c in range(6)] for row in range(4)] for frame in range(5)]
        )
        assert np.abs(found - expected).max() <= float(ds.DoseGridScaling) * 0.5000001


def test_the_dose_refers_to_its_plan_and_beam(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.2"
    assert (ds.Modality, ds.DoseUnits, ds.DoseType, ds.DoseSummationType) == (
        "RTDOSE",
        "GY",
        "PHYSICAL",
        "BEAM_SESSION",
    )
    (reference,) = ds.ReferencedRTPlanSequence
    assert reference.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.481.8"
    assert reference.ReferencedSOPInstanceUID == PLAN_UID
    (group,) = reference.ReferencedFractionGroupSequence
    assert group.ReferencedFractionGroupNumber == 7
    assert [b.ReferencedBeamNumber for b in group.ReferencedBeamSequence] == [5]
    assert ds.StudyInstanceUID == STUDY_UID
    assert ds.StudyDate == "20240203"
    assert (str(ds.PatientName), ds.PatientID, ds.PatientBirthDate) == ("Marker^김", "ID-77", "19700102")
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert ds.OperatorsName == ""
    assert ds.AccessionNumber == ds.StudyTime == ""
    assert ds.SeriesNumber == 5
    # The plan has no Study ID: 12 digits of SHA-256 of its Study Instance UID.
    assert ds.StudyID == "MQI" + hashlib.sha256(b"1.2.3.4.5.200").hexdigest()[:12].upper()


def test_the_dose_says_when_it_was_given_and_in_which_fraction(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    for what in ("Treatment", "Series", "Content", "Acquisition"):
        assert (ds[f"{what}Date"].value, ds[f"{what}Time"].value) == ("20240220", "140506.070000")
    assert ds.CurrentFractionNumber == 3
    assert "InstanceCreationDate" not in ds


def test_a_fraction_that_is_not_known_is_not_written(tmp_path: Path, plan_path: Path) -> None:
    unknown = Irradiation(IRRADIATION.begun_at, None)
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path, irradiation=unknown))
    assert "CurrentFractionNumber" not in pydicom.dcmread(tmp_path / "dose.dcm")


def test_a_receiver_that_knows_only_beams_gets_one(tmp_path: Path, plan_path: Path) -> None:
    made = request(plan_path, summation=SummationType.BEAM)
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), made)
    assert pydicom.dcmread(tmp_path / "dose.dcm").DoseSummationType == "BEAM"


def test_sixteen_bits_are_off_by_less_than_a_thousandth_of_a_percent(tmp_path: Path, plan_path: Path) -> None:
    raw = np.random.default_rng(1).uniform(0.0, 2.0, (4, 5, 6))
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(seed=1), request(plan_path, bits=RtDose().bits))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    assert ds.BitsAllocated == 16
    expected = raw[::-1].transpose(1, 0, 2)
    assert np.abs(pixels(ds) - expected).max() <= 1e-5 * raw.max()


def test_the_uids_are_derived_from_the_digest(tmp_path: Path, plan_path: Path) -> None:
    number = int(hashlib.sha256(("0f" * 32 + "series").encode()).hexdigest()[:32], 16)
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    assert ds.SeriesInstanceUID == f"2.25.{number}"
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    uids = {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID}
    assert len(uids) == 3
    assert all(len(uid) <= 64 for uid in uids)
    assert derived_uid("ab" * 32, "series") != ds.SeriesInstanceUID


def test_a_phantom_has_a_frame_of_its_own_and_a_patient_the_plans(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "phantom.dcm", phantom_grid(), request(plan_path))
    patient = from_patient(np.ones((2, 3, 4)), (0.5, 1.5, 2.5), (1, 1, 1), DoseUnits.GY)
    write_rt_dose(tmp_path / "patient.dcm", patient, request(plan_path))
    phantom_file, patient_file = (pydicom.dcmread(tmp_path / f"{n}.dcm") for n in ("phantom", "patient"))
    assert phantom_file.FrameOfReferenceUID != FRAME_UID
    assert phantom_file.FrameOfReferenceUID.startswith("2.25.")
    assert patient_file.FrameOfReferenceUID == FRAME_UID
    assert patient_file.PositionReferenceIndicator == "REF"


def test_a_plane_and_a_volume_of_one_beam_are_two_instances(tmp_path: Path, plan_path: Path) -> None:
    plane = plane_from_phantom(np.ones((1, 3, 4)), (0, 0, 0), (1, 1, 2), DoseUnits.GY)
    write_rt_dose(tmp_path / "plane.dcm", plane, request(plan_path))
    write_rt_dose(tmp_path / "volume.dcm", phantom_grid(), request(plan_path))
    first, second = (pydicom.dcmread(tmp_path / f"{n}.dcm") for n in ("plane", "volume"))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID


def test_the_engine_is_named_with_seed_histories_and_uncertainty(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    ds = pydicom.dcmread(tmp_path / "dose.dcm")
    (item,) = ds.ContributingEquipmentSequence
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert purpose.CodeMeaning == "Processing Equipment"
    assert (item.ManufacturerModelName, item.SoftwareVersions) == ("mqi-engine", "0.1.0 (MCsquare 1.1)")
    assert item.ContributionDescription == (
        "Monte Carlo dose; seed 42; histories 1000000; mean uncertainty above half maximum 2.31 %; "
        "digest " + DIGEST
    )
    assert list(ds.SoftwareVersions) == ["0.1.0", "pydicom 3.0.2"]
    assert ds.DoseComment == "delivered beam"


def test_effective_dose_is_physical_dose_times_rbe(tmp_path: Path, plan_path: Path) -> None:
    for kind in DoseType:
        made = request(plan_path, dose_type=kind, rbe=1.25)
        write_rt_dose(tmp_path / f"{kind}.dcm", phantom_grid(), made)
    physical, effective = (pydicom.dcmread(tmp_path / f"{kind}.dcm") for kind in ("PHYSICAL", "EFFECTIVE"))
    assert (physical.DoseType, effective.DoseType) == ("PHYSICAL", "EFFECTIVE")
    assert pixels(effective).max() / pixels(physical).max() == pytest.approx(1.25, rel=1e-8)


def test_a_relative_dose_says_so(tmp_path: Path, plan_path: Path) -> None:
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(units=DoseUnits.RELATIVE), request(plan_path))
    assert pydicom.dcmread(tmp_path / "dose.dcm").DoseUnits == "RELATIVE"


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, plan_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_rt_dose(tmp_path / "a.dcm", phantom_grid(), request(plan_path))
    write_rt_dose(tmp_path / "other" / "b.dcm", phantom_grid(), request(plan_path))
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "other" / "b.dcm").read_bytes()


def test_a_korean_name_keeps_its_bytes(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "p.dcm", charset="\\ISO 2022 IR 149", name="Hong^Gildong=洪^吉洞=홍^길동")
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan))
    name = pydicom.dcmread(tmp_path / "dose.dcm").PatientName
    assert (str(name.ideographic), str(name.phonetic)) == ("洪^吉洞", "홍^길동")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam_number": 9}, "no beam 9"),
        ({"beam_number": 1}, "0 fraction groups refer to beam 1"),
        ({"digest": "short"}, "64 hexadecimal"),
        ({"bits": 8}, "16 or 32, not 8"),
        ({"comment": "x" * 65}, "DoseComment"),
        ({"software_versions": ("two\\values",)}, "SoftwareVersions 1"),
        ({"engine": EngineStamp("mqi", "1\n2", 1, 1, None)}, "SoftwareVersions"),
        ({"rbe": 0.0}, "RBE"),
    ],
)
def test_a_request_that_cannot_be_met_leaves_no_file(
    tmp_path: Path, plan_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DoseError, match=message):
        write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path, **changes))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.dcm"]


@pytest.mark.parametrize("bad", [0.0, np.nan, -1.0])
def test_what_is_no_dose_leaves_no_file(tmp_path: Path, plan_path: Path, bad: float) -> None:
    values = np.full((2, 3, 4), bad)
    with pytest.raises(DoseError):
        write_rt_dose(
            tmp_path / "dose.dcm",
            from_patient(values, (0, 0, 0), (1, 1, 1), DoseUnits.GY),
            request(plan_path),
        )
    assert not (tmp_path / "dose.dcm").exists()


def test_a_folder_that_is_not_there_is_a_loss_of_infrastructure(tmp_path: Path, plan_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        write_rt_dose(tmp_path / "Marker" / "dose.dcm", phantom_grid(), request(plan_path))
    assert "Marker" not in str(caught.value)


def test_errors_about_the_plan_name_neither_path_nor_patient(tmp_path: Path) -> None:
    text = tmp_path / "Marker.dcm"
    text.write_text("no DICOM")
    for plan in (text, tmp_path / "Marker-absent.dcm"):
        with pytest.raises(DoseError) as caught:
            write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan))
        assert "Marker" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_no_warning_quotes_a_value_of_the_plan(
    tmp_path: Path, plan_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    plan = plan_path.read_bytes()
    assert plan.count(b"1.2.3.4.5.200") == 1
    plan_path.write_bytes(plan.replace(b"1.2.3.4.5.200", b"1.2.3.Marker0"))
    assert pydicom.dcmread(plan_path).StudyInstanceUID == "1.2.3.Marker0"
    assert any("Marker" in str(warning.message) for warning in recwarn.list)
    recwarn.clear()
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), request(plan_path))
    assert recwarn.list == []


def test_every_dose_of_the_qa_plan_can_be_written(tmp_path: Path, qa: Path) -> None:
    (plan,) = qa.glob("RP.*.dcm")
    for number in (2, 3, 4, 5):
        write_rt_dose(tmp_path / f"{number}.dcm", phantom_grid(), request(plan, beam_number=number))
        ds = pydicom.dcmread(tmp_path / f"{number}.dcm")
        group = ds.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence[0]
        assert group.ReferencedBeamSequence[0].ReferencedBeamNumber == number
        assert ds.PatientID == "QA0001"
