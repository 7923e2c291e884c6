"""Headers as plain values: what is there, and None for what is not."""

from __future__ import annotations

import io
from datetime import date

import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian

from mqi_dagster.courses.content import content_sha256
from mqi_dagster.courses.objects import (
    HEADER,
    OBJECT,
    Dose,
    Other,
    Plan,
    StructureSet,
    read_object,
    read_patient,
)
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import DicomError
from tests.courses.made_objects import Made, encoded, items, parsed

MADE = Made(1)


def plan(**changes: object) -> Plan:
    found = parsed(MADE.plan(**changes))  # type: ignore[arg-type]
    assert isinstance(found, Plan)
    return found


def dose(**changes: object) -> Dose:
    found = parsed(MADE.dose(**changes))  # type: ignore[arg-type]
    assert isinstance(found, Dose)
    return found


def test_a_plan() -> None:
    found = plan(related=("PRIOR", 4), ApprovalStatus="APPROVED", ion=True)

    assert found.plan_date == date(2024, 1, 15)
    assert (found.label, found.approval, found.intent) == ("plan", "APPROVED", None)
    assert found.structure_set_uids == ("1.2.826.0.1.3680043.8.498.1.20.1",)
    assert [(one.uid, one.relationship) for one in found.related_plans] == [
        ("1.2.826.0.1.3680043.8.498.1.30.4", "PRIOR")
    ]
    assert (found.fractions_planned, found.target_doses_gy) == (30, (60.0,))
    assert [beam.name for beam in found.beams] == ["field 1", "field 2", "field 3"]
    assert found.treatment_beams == {1, 2}


def test_what_a_plan_does_not_state_is_none() -> None:
    found = plan(dose_gy=None, fractions=None, RTPlanDate="", RTPlanLabel=None)

    assert (found.fractions_planned, found.target_doses_gy) == (None, ())
    assert found.dose_references[0].target_prescription_dose_gy is None
    assert (found.plan_date, found.label) == (None, None)


def test_fractions_are_unknown_where_one_group_does_not_state_them() -> None:
    stated, silent = {"FractionGroupNumber": 1, "NumberOfFractionsPlanned": 25}, {"FractionGroupNumber": 2}

    assert plan(FractionGroupSequence=items([stated, stated])).fractions_planned == 50
    assert plan(FractionGroupSequence=items([stated, silent])).fractions_planned is None


@pytest.mark.parametrize("day", ["2024-01-15", "20241301", "2024", "2024W033"])
def test_a_day_that_is_none_is_not_known(day: str) -> None:
    assert plan(RTPlanDate=day).plan_date is None


def test_a_dose() -> None:
    found = dose(plans=[1, 2], summation="MULTI_PLAN")

    assert (found.units, found.dose_type, found.summation_type) == ("GY", "PHYSICAL", "MULTI_PLAN")
    assert found.plan_uids == ("1.2.826.0.1.3680043.8.498.1.30.1", "1.2.826.0.1.3680043.8.498.1.30.2")
    assert dose(summation="BEAM", beam=2).beams == (2,)
    assert dose(summation="BEAM", beam=2).fraction_groups == (1,)


def test_the_box_of_a_dose_follows_its_orientation() -> None:
    position = [100, 200, -50]
    upright = dose(ImagePositionPatient=position)
    assert upright.box_mm == ((100.0, 200.0, -50.0), (114.0, 214.0, -48.0))
    # Rows along -x, columns along -y: prone. The normal is still +z.
    prone = dose(ImagePositionPatient=position, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    assert prone.box_mm == ((86.0, 186.0, -50.0), (100.0, 200.0, -48.0))
    # Offsets as positions along z rather than distances.
    absolute = dose(ImagePositionPatient=position, GridFrameOffsetVector=[-50, -47, -44])
    assert absolute.box_mm == ((100.0, 200.0, -50.0), (114.0, 214.0, -44.0))
    # Rows along y, columns along z: frames go along x; rows are 3 mm apart, columns 2 mm.
    sagittal = dose(
        ImagePositionPatient=position, ImageOrientationPatient=[0, 1, 0, 0, 0, 1], PixelSpacing=[3, 2]
    )
    assert sagittal.box_mm == ((100.0, 200.0, -50.0), (102.0, 214.0, -29.0))


def test_frames_whose_normal_points_to_the_feet_lie_where_their_offsets_say() -> None:
    # Rows along x, columns along -y: the normal is -z.
    def to_the_feet(offsets: list[float]) -> Dose:
        return dose(
            ImagePositionPatient=[100, 200, -50],
            ImageOrientationPatient=[1, 0, 0, 0, -1, 0],
            GridFrameOffsetVector=offsets,
        )

    # Positions on the patient's z axis, which run against the normal, and distances along it.
    assert to_the_feet([-50, -47, -44]).box_mm == ((100.0, 186.0, -50.0), (114.0, 200.0, -44.0))
    assert to_the_feet([-50, -53, -56]).box_mm == ((100.0, 186.0, -56.0), (114.0, 200.0, -50.0))
    assert to_the_feet([0, 3, 6]).box_mm == ((100.0, 186.0, -56.0), (114.0, 200.0, -50.0))
    # Neither: the file does not say where its frames lie.
    assert to_the_feet([10, 13, 16]).box_mm is None


@pytest.mark.parametrize(
    "keyword",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "GridFrameOffsetVector"],
)
def test_a_dose_without_a_part_of_its_grid_has_no_box(keyword: str) -> None:
    assert dose(**{keyword: None}).box_mm is None


def test_a_structure_set() -> None:
    found = parsed(MADE.structures(slices=2))
    assert isinstance(found, StructureSet)

    assert [(roi.number, roi.name, roi.frame_of_reference_uid) for roi in found.rois] == [
        (1, "PTV", "1.2.826.0.1.3680043.8.498.1.1"),
        (2, "Heart", "1.2.826.0.1.3680043.8.498.1.1"),
    ]
    assert found.series_uids == ("1.2.826.0.1.3680043.8.498.1.10",)
    assert found.image_uids == ("1.2.826.0.1.3680043.8.498.1.10.1", "1.2.826.0.1.3680043.8.498.1.10.2")
    assert found.structure_set_date == date(2024, 1, 10)


def test_others_are_read_back_from_their_json() -> None:
    contents = [
        MADE.image(),
        MADE.structures(),
        MADE.plan(),
        MADE.dose(),
        MADE.registration("1.2"),
        MADE.record(),
    ]
    for content in contents:
        found = parsed(content)
        assert OBJECT.validate_json(found.model_dump_json()) == found
    assert isinstance(found, Other)
    assert found.plan_uids == ("1.2.826.0.1.3680043.8.498.1.30.1",)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_an_object_without_identity_is_damaged(keyword: str) -> None:
    dataset = read_dicom(MADE.plan())
    delattr(dataset, keyword)

    with pytest.raises(DicomError, match="no SOP Class UID or no SOP Instance UID"):
        read_object(dataset)


def test_damaged_values_are_named_without_showing_them() -> None:
    content = MADE.plan().replace(b"30", b"3x")

    with pytest.raises(DicomError) as caught:
        parsed(content)

    assert "3x" not in str(caught.value)


def test_spellings_of_one_name_are_equal() -> None:
    names = ["Doe^Jane", "DOE^JANE^^", "doe^jane", "Doe^Jane="]
    compared = {read_patient(read_dicom(Made(1, name=name).plan())).compared_name for name in names}
    assert compared == {"DOE^JANE"}


def test_contours_and_pixels_are_not_read() -> None:
    assert not {"ROIContourSequence", "PixelData", "DVHSequence"} & set(HEADER)


class TestContent:
    def test_it_is_the_same_in_every_encoding(self) -> None:
        dataset = read_dicom(MADE.image())
        values = {one.keyword: one.value for one in dataset}

        explicit, implicit = encoded(values), encoded(values, implicit=True)

        assert explicit != implicit
        assert content_sha256(read_dicom(explicit)) == content_sha256(read_dicom(implicit))

    def test_it_tells_pixels_and_values_apart(self) -> None:
        contents = [
            MADE.plan(),
            MADE.plan(dose_gy=61.0),
            MADE.plan(fractions=31),
            MADE.plan(label="other"),
            MADE.image(),
            MADE.image(PixelData=b"\1" + MADE.image()[-127:]),
        ]
        assert len({content_sha256(read_dicom(content)) for content in contents}) == 6

    def test_the_same_bytes_of_pixels_in_another_byte_order_are_another_content(self) -> None:
        dataset = pydicom.dcmread(io.BytesIO(MADE.image()))
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        swapped = io.BytesIO()
        pydicom.dcmwrite(swapped, dataset, little_endian=False, implicit_vr=False)

        assert content_sha256(read_dicom(swapped.getvalue())) != content_sha256(read_dicom(MADE.image()))
