"""Every rule of an RT Dose is noticed when it is broken, by the name of the attribute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mqi_dagster.dose.comparison import greatest_difference
from mqi_dagster.dose.grid import (
    DoseFrame,
    DoseGrid,
    DoseUnits,
    from_patient,
    from_phantom,
    plane_from_phantom,
)
from mqi_dagster.dose.readback import RtDoseReport, verify_rt_dose
from mqi_dagster.dose.rt_dose import Irradiation, as_written, write_rt_dose
from mqi_dagster.dose.stored_image import stored_grid
from mqi_dagster.errors import DoseError
from mqi_dagster.settings import DoseType, SummationType
from tests.dose.dose_cases import DIGEST, FRAME_UID, IRRADIATION, phantom_grid, position_mm, request

Change = Callable[[pydicom.FileDataset], object]


def written(folder: Path, plan_path: Path, grid: DoseGrid, **changes: object) -> Path:
    path = folder / "dose.dcm"
    write_rt_dose(path, grid, request(plan_path, **changes))
    return path


def verify(path: Path, plan_path: Path, expected: DoseGrid | None, **changes: object) -> RtDoseReport:
    fields: dict[str, object] = {
        "plan_path": plan_path,
        "beam_number": 5,
        "frame": DoseFrame.PHANTOM,
        "units": DoseUnits.GY,
        "dose_type": DoseType.PHYSICAL,
        "summation": SummationType.BEAM_SESSION,
        "irradiation": IRRADIATION,
        "expected": expected,
        "digest": DIGEST,
    }
    return verify_rt_dose(path, **(fields | changes))  # type: ignore[arg-type]


def change(path: Path, alter: Change) -> None:
    dataset = pydicom.dcmread(path)
    alter(dataset)
    dataset.save_as(path)


def put(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def drop(keyword: str) -> Change:
    return lambda dataset: delattr(dataset, keyword)


def in_reference(keyword: str, value: object) -> Change:
    def alter(dataset: pydicom.FileDataset) -> None:
        reference = dataset.ReferencedRTPlanSequence[0]
        group = reference.ReferencedFractionGroupSequence[0]
        item = next(i for i in (reference, group, group.ReferencedBeamSequence[0]) if keyword in i)
        setattr(item, keyword, value)

    return alter


def in_engine(keyword: str) -> Change:
    return lambda dataset: delattr(dataset.ContributingEquipmentSequence[0], keyword)


@pytest.mark.parametrize("bits", [16, 32])
def test_what_the_writer_wrote_is_accepted_and_reported(tmp_path: Path, plan_path: Path, bits: int) -> None:
    path = written(tmp_path, plan_path, phantom_grid(), bits=bits)
    report = verify(path, plan_path, phantom_grid())
    values = np.random.default_rng(1).uniform(0.0, 2.0, (4, 5, 6))
    assert report.maximum == pytest.approx(values.max(), rel=1e-4)
    assert (report.frames, report.rows, report.columns) == (5, 4, 6)
    assert report.spacing_mm == (2.0, 4.0, 3.0)
    assert report.r80_mm is None
    dataset = pydicom.dcmread(path)
    assert dataset.BitsAllocated == bits
    grid = stored_grid(dataset, DoseFrame.PHANTOM)
    assert grid.values.mean() == pytest.approx(values.mean(), rel=1e-4)
    assert greatest_difference(grid, phantom_grid()) <= values.max() / 65535


def test_planes_and_patients_are_accepted(tmp_path: Path, plan_path: Path) -> None:
    plane = plane_from_phantom(
        np.random.default_rng(2).random((1, 7, 9)), (-4, -3, 0), (1, 1, 2), DoseUnits.GY
    )
    assert verify(written(tmp_path, plan_path, plane), plan_path, plane).frames == 1
    patient = from_patient(
        np.random.default_rng(2).random((3, 7, 9)), (-4, -3, 0), (1, 1, 2), DoseUnits.RELATIVE
    )
    path = written(tmp_path, plan_path, patient)
    report = verify(path, plan_path, patient, frame=DoseFrame.PATIENT, units=DoseUnits.RELATIVE)
    assert report.units == "RELATIVE"


def test_effective_dose_is_compared_after_the_rbe(tmp_path: Path, plan_path: Path) -> None:
    made = request(plan_path, dose_type=DoseType.EFFECTIVE, rbe=1.1)
    write_rt_dose(tmp_path / "dose.dcm", phantom_grid(), made)
    expected = as_written(phantom_grid(), made)
    report = verify(tmp_path / "dose.dcm", plan_path, expected, dose_type=DoseType.EFFECTIVE)
    assert report.maximum == pytest.approx(1.1 * phantom_grid().values.max(), rel=1e-8)
    with pytest.raises(DoseError, match="PixelData"):
        verify(tmp_path / "dose.dcm", plan_path, phantom_grid(), dose_type=DoseType.EFFECTIVE)


def test_the_range_is_reported_where_the_surface_is_known(tmp_path: Path, plan_path: Path) -> None:
    along = np.array([0.0, 0.5, 1.0, 0.6])
    grid = from_phantom(along[:, None, None] * np.ones((4, 3, 3)), (0, 0, -20), (2, 2, 4), DoseUnits.GY)
    # Planes at engine z = -20, -16, -12, -8: doses 0.6, 1, 0.5, 0 at 8, 12, 16, 20 mm below y = 0.
    report = verify(written(tmp_path, plan_path, grid), plan_path, grid, water_surface_y_mm=0.0)
    assert report.r80_mm == pytest.approx(12.0 + 4.0 * 0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("alter", "keyword"),
    [
        (put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "SOPClassUID"),
        (put("Modality", "CT"), "Modality"),
        (put("StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
        (put("SeriesInstanceUID", "1.2.3.4.5.201"), "SeriesInstanceUID"),
        (put("SeriesInstanceUID", "1.2.3"), "SeriesInstanceUID"),
        (put("SOPInstanceUID", "1.2.3"), "MediaStorageSOPInstanceUID"),
        (put("PatientID", "somebody else"), "PatientID"),
        (put("FrameOfReferenceUID", FRAME_UID), "FrameOfReferenceUID"),
        (put("FrameOfReferenceUID", "1.2.3"), "FrameOfReferenceUID"),
        (drop("FrameOfReferenceUID"), "FrameOfReferenceUID"),
        (put("DoseSummationType", "PLAN"), "DoseSummationType"),
        (put("DoseSummationType", "BEAM"), "DoseSummationType"),
        (put("TreatmentDate", "20240221"), "TreatmentDate"),
        (put("TreatmentTime", "140506.08"), "TreatmentTime"),
        (put("CurrentFractionNumber", 4), "CurrentFractionNumber"),
        (drop("CurrentFractionNumber"), "CurrentFractionNumber"),
        (put("SeriesDate", ""), "SeriesDate"),
        (put("SeriesNumber", 2), "SeriesNumber"),
        (put("StudyID", ""), "StudyID"),
        (put("DoseUnits", "RELATIVE"), "DoseUnits"),
        (put("DoseUnits", "CGY"), "DoseUnits"),
        (put("DoseType", "EFFECTIVE"), "DoseType"),
        (put("DoseGridScaling", "0"), "DoseGridScaling"),
        (put("DoseGridScaling", "-1"), "DoseGridScaling"),
        (drop("DoseGridScaling"), "DoseGridScaling"),
        (put("DoseGridScaling", "1e-9"), "PixelData"),
        (put("PixelData", b"\0" * 480), "PixelData"),
        (put("PixelData", b"\1" * 400), "PixelData"),
        (put("BitsStored", 12), "BitsStored"),
        (put("PixelRepresentation", 1), "PixelRepresentation"),
        (put("NumberOfFrames", 4), "PixelData"),
        (drop("NumberOfFrames"), "PixelData"),
        (drop("FrameIncrementPointer"), "FrameIncrementPointer"),
        (drop("GridFrameOffsetVector"), "GridFrameOffsetVector"),
        (put("GridFrameOffsetVector", [0, 3, 6, 9]), "GridFrameOffsetVector"),
        (put("GridFrameOffsetVector", [0, 3, 6, 9, 13]), "GridFrameOffsetVector"),
        (put("GridFrameOffsetVector", [5, 8, 11, 14, 17]), "GridFrameOffsetVector"),
        (put("GridFrameOffsetVector", [0, -3, -6, -9, -12]), "GridFrameOffsetVector"),
        (put("GridFrameOffsetVector", [0, 4, 8, 12, 16]), "GridFrameOffsetVector"),
        (put("ImagePositionPatient", [-6, -3, -7.5]), "ImagePositionPatient"),
        (put("ImagePositionPatient", [-5, -1]), "ImagePositionPatient"),
        (put("ImageOrientationPatient", [1, 0, 0, 0, 0, 1]), "ImageOrientationPatient"),
        (put("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "ImageOrientationPatient"),
        (put("PixelSpacing", [2, 4]), "PixelSpacing"),
        (put("PixelSpacing", [4, 0]), "PixelSpacing"),
        (in_reference("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.481.5"), "ReferencedSOPClassUID"),
        (in_reference("ReferencedSOPInstanceUID", "1.2.3"), "ReferencedSOPInstanceUID"),
        (in_reference("ReferencedFractionGroupNumber", 1), "ReferencedFractionGroupNumber"),
        (in_reference("ReferencedBeamNumber", 2), "ReferencedBeamNumber"),
        (drop("ReferencedRTPlanSequence"), "ReferencedRTPlanSequence"),
        (drop("ContributingEquipmentSequence"), "ContributingEquipmentSequence"),
        (in_engine("SoftwareVersions"), "ContributingEquipmentSequence.SoftwareVersions"),
        (in_engine("PurposeOfReferenceCodeSequence"), "PurposeOfReferenceCodeSequence"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, plan_path: Path, alter: Change, keyword: str) -> None:
    path = written(tmp_path, plan_path, phantom_grid())
    change(path, alter)
    with pytest.raises(DoseError) as caught:
        verify(path, plan_path, phantom_grid())
    assert caught.value.message.startswith(keyword + ":")
    assert caught.value.where.kind == "RT Dose"
    assert "ID-77" not in str(caught.value)


def test_a_fraction_number_that_nobody_knows_is_refused(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid())
    unknown = Irradiation(IRRADIATION.begun_at, None)
    with pytest.raises(DoseError, match="CurrentFractionNumber: is not known"):
        verify(path, plan_path, phantom_grid(), irradiation=unknown)


def test_the_summation_type_is_the_one_of_the_settings(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid(), summation=SummationType.BEAM)
    verify(path, plan_path, phantom_grid(), summation=SummationType.BEAM)
    with pytest.raises(DoseError, match="DoseSummationType: is not BEAM_SESSION"):
        verify(path, plan_path, phantom_grid())
    # A site's own command may give the dose of a beam either type.
    verify(path, plan_path, phantom_grid(), digest=None)
    change(path, put("DoseSummationType", "PLAN"))
    with pytest.raises(DoseError, match="DoseSummationType: is not BEAM_SESSION or BEAM"):
        verify(path, plan_path, phantom_grid(), digest=None)


def test_one_pixel_off_by_one_is_noticed(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid(), bits=16)

    def alter(dataset: pydicom.FileDataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, "<u2").copy()
        pixels[17] ^= 1
        dataset.PixelData = pixels.tobytes()

    change(path, alter)
    with pytest.raises(DoseError, match="PixelData"):
        verify(path, plan_path, phantom_grid())


def test_another_beams_dose_is_refused(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid(), beam_number=2)
    with pytest.raises(DoseError, match="ReferencedBeamNumber: is not 5"):
        verify(path, plan_path, phantom_grid())


def test_a_phantom_dose_in_the_patients_frame_is_refused(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid())
    with pytest.raises(DoseError, match="FrameOfReferenceUID"):
        verify(path, plan_path, phantom_grid(), frame=DoseFrame.PATIENT, digest=None)


def test_a_sites_phantom_dose_in_the_plans_frame_is_refused(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid())
    change(path, put("FrameOfReferenceUID", FRAME_UID))
    with pytest.raises(DoseError, match="FrameOfReferenceUID: is the plan's, but the dose is a phantom's"):
        verify(path, plan_path, phantom_grid(), digest=None)


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_truncated_file_is_refused_without_its_path(tmp_path: Path, plan_path: Path, size: int) -> None:
    path = written(tmp_path, plan_path, phantom_grid())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DoseError) as caught:
        verify(path, plan_path, phantom_grid())
    assert str(tmp_path) not in str(caught.value)


def peaked(shift: float = 0.0, spacing: float = 2.0, scale: float = 1.0) -> DoseGrid:
    """A smooth lopsided dose about (6 + shift, -4, 10) mm, in phantom axes, on a grid of any spacing."""
    x = np.arange(-40.0, 40.0 + spacing / 2, spacing)
    k, j, i = np.meshgrid(x, x, x, indexing="ij")
    dose = np.exp(-((i - 6 - shift) ** 2) / 200 - (j - 10) ** 2 / 300 - (k - 4) ** 2 / 400)
    return from_phantom(scale * dose, (-40.0,) * 3, (spacing,) * 3, DoseUnits.GY)


def test_a_sites_own_file_with_its_own_uids_is_accepted(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, peaked(scale=1.005), digest="ab" * 32)
    change(path, drop("ContributingEquipmentSequence"))
    verify(path, plan_path, peaked(), digest=None)
    stored = stored_grid(pydicom.dcmread(path), DoseFrame.PHANTOM)
    assert greatest_difference(stored, peaked()) == pytest.approx(0.005, rel=1e-3)
    with pytest.raises(DoseError, match="SOPInstanceUID"):
        verify(path, plan_path, peaked())


def test_a_sites_own_grid_is_accepted_where_the_dose_lies_right(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, peaked(spacing=2.5))
    verify(path, plan_path, peaked(), digest=None)


def mirrored(dataset: pydicom.FileDataset) -> None:
    pixels = np.frombuffer(dataset.PixelData, "<u4").reshape(41, 41, 41)
    dataset.PixelData = pixels[::-1].tobytes()


def swapped(dataset: pydicom.FileDataset) -> None:
    pixels = np.frombuffer(dataset.PixelData, "<u4").reshape(41, 41, 41)
    dataset.PixelData = pixels.transpose(2, 1, 0).tobytes()


@pytest.mark.parametrize(
    ("alter", "keyword"),
    [
        (mirrored, "PixelData"),
        (swapped, "PixelData"),
        (put("DoseGridScaling", "1e-6"), "PixelData"),
        # IPP at the edge of the voxel instead of its centre: another grid, and the dose lies 1 mm off.
        (put("ImagePositionPatient", [-41, -41, -41]), "ImagePositionPatient"),
        (put("GridFrameOffsetVector", [-2 * n for n in range(41)]), "ImagePositionPatient"),
    ],
)
def test_a_sites_wrong_geometry_or_dose_is_noticed(
    tmp_path: Path, plan_path: Path, alter: Change, keyword: str
) -> None:
    path = written(tmp_path, plan_path, peaked())
    change(path, alter)
    with pytest.raises(DoseError) as caught:
        verify(path, plan_path, peaked(), digest=None)
    assert caught.value.message.startswith(keyword)


def test_a_sites_dose_two_percent_off_on_its_own_grid_is_noticed(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, peaked(spacing=2.5, scale=1.02))
    with pytest.raises(DoseError, match="DoseGridScaling: the greatest dose is"):
        verify(path, plan_path, peaked(), digest=None)


def test_frames_counted_backwards_or_in_absolute_z_are_read_right(tmp_path: Path, plan_path: Path) -> None:
    path = written(tmp_path, plan_path, phantom_grid())

    def backwards(dataset: pydicom.FileDataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, "<u4").reshape(5, 4, 6)
        dataset.PixelData = pixels[::-1].tobytes()
        dataset.ImagePositionPatient = [-5, -1, 6]
        dataset.GridFrameOffsetVector = [6, 3, 0, -3, -6]

    change(path, backwards)
    grid = stored_grid(pydicom.dcmread(path), DoseFrame.PHANTOM)
    original = phantom_grid()
    assert position_mm(grid, 0, 1, 2) == position_mm(original, 4, 1, 2)
    assert grid.values[0, 1, 2] == pytest.approx(original.values[4, 1, 2], rel=1e-6)
