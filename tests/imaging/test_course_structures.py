"""All structures of a course on the grid of its images, by volumes that formulas and counting give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import InputError, StoreError
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.course_structures import (
    CourseInput,
    RegionRequest,
    SegmentationsInput,
    SeriesInput,
    StructureRules,
    StructureSetInput,
    make_structures,
    region_request,
)
from mqi_dagster.imaging.derived import CustomStructures, Definition
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.quality_control import structures_quality
from mqi_dagster.imaging.segmentation_object import segmentation_masks
from mqi_dagster.imaging.source_images import source_images
from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    StructureRecord,
    StructureSource,
    read_mask,
    read_structures,
)
from mqi_dagster.imaging.structure_names import read_structure_names
from mqi_dagster.imaging.structure_set import read_structure_set
from mqi_dagster.settings.radiotherapy import CtCropping
from tests.imaging.ct_series import SERIES, ct_headers
from tests.imaging.drawn_structures import region, segmentation, structure_set
from tests.imaging.mask_shapes import box
from tests.imaging.shapes import axial_grid, circle, sphere

GRID = axial_grid(2.0, 1.0, planes=30, pixels=60)
DIGEST = "5f" * 32
NAMES = read_structure_names()
PLANNING, OTHER = "SPLANNING", "SOTHER"
BALL_CM3, HOLLOW_CM3 = 24.4290, 21.3754
"""4/3 π 18³ mm³, and the same without 4/3 π 9³ mm³."""
# On a grid of 60 × 60 × 30 voxels of 2 mm³ each.
BLOCK = box(GRID, (-10, -10, -10), (10, 10, 10))  # 20 × 20 × 10 voxels
TALL = box(GRID, (-5, -5, -20), (5, 5, 20))  # 10 × 10 × 20 voxels
LABELS = np.where(TALL, 2, np.where(BLOCK, 1, 0)).astype(np.uint16)


def images(grid: ImageGrid = GRID, name: str = PLANNING, uid: str = SERIES) -> SeriesInput:
    def files() -> list[bytes]:
        found = []
        for header in ct_headers(grid):
            header.SeriesInstanceUID = uid
            buffer = pydicom.filebase.DicomBytesIO()
            pydicom.dcmwrite(buffer, header, enforce_file_format=True)
            found.append(buffer.getvalue())
        return found

    return SeriesInput(name, uid, files)


def sets(*contents: bytes) -> tuple[StructureSetInput, ...]:
    def given(content: bytes) -> Callable[[], bytes]:
        return lambda: content

    return tuple(
        StructureSetInput(f"set{number}", f"1.2.{number}", given(content))
        for number, content in enumerate(contents, start=1)
    )


def course(*contents: bytes, segmentations: Sequence[SegmentationsInput] = (), **more: Any) -> CourseInput:
    known: dict[str, Any] = {"planning": images(), "others": ()}
    return CourseInput(structure_sets=sets(*contents), segmentations=tuple(segmentations), **(known | more))


def of_a_model(folder: Path, *, series: str = PLANNING, **more: Any) -> SegmentationsInput:
    """Outside (the block and what is in it) and Inside (what the tall box has)."""
    folder.mkdir()
    regions = [region(1, "Outside", 4000 + 2000 - 1000, includes=(2,)), region(2, "Inside", 2000)]
    content = segmentation(folder, series, LABELS, GRID, regions, **more)
    return SegmentationsInput(StructureSource.AUTOMATIC, folder, content)


def defined(*definitions: dict[str, Any]) -> CustomStructures:
    return CustomStructures(tuple(map(Definition.model_validate, definitions)), ())


def made(tmp_path: Path, given: CourseInput, **rules: Any) -> CourseStructures:
    folder = tmp_path / "result"
    folder.mkdir()
    content = make_structures(given, StructureRules(NAMES, **rules), DIGEST, "mqi_dagster 0", folder)
    assert read_structures(folder) == content
    assert sorted(path.stem for path in (folder / MASKS).iterdir()) == sorted(
        one.id for one in content.structures
    )
    return content


def named(content: CourseStructures, name: str, made_by: str = "") -> StructureRecord:
    (one,) = [
        one
        for one in content.structures
        if one.original_name == name and (not made_by or one.made_by == made_by)
    ]
    return one


def hollow(grid: ImageGrid = GRID) -> list[Any]:
    return [*sphere(grid, 18.0), *sphere(grid, 9.0)]


def test_drawn_structures_are_measured_by_geometry(tmp_path: Path) -> None:
    away = sphere(replace(GRID, origin_mm=(*GRID.origin_mm[:2], -29.0)), 8.0, (29.5, 0.0, 0.0))
    drawn = structure_set(
        GRID, [(4, "PTV", sphere(GRID, 18.0)), (7, "Shell", hollow()), (9, "Arm", away), (11, "Empty", [])]
    )
    content = made(tmp_path, course(drawn))
    assert (content.planning, content.faults, content.region) == (PLANNING, (), None)
    ptv, shell, arm, empty = content.structures
    assert ptv.volume_cm3 == pytest.approx(BALL_CM3, rel=1e-3)
    assert ptv.voxels == pytest.approx(BALL_CM3 * 500, rel=0.01)
    assert ptv.centre_mm == pytest.approx((0.0, 0.0, 0.0), abs=0.01)
    assert (ptv.source, ptv.made_by, ptv.structure_set_uid, ptv.roi_number) == (
        "clinical", "drawn", "1.2.1", 4,
    )  # fmt: skip
    assert (ptv.touches_first_or_last_plane, ptv.touches_image_edge, ptv.outside_image_cm3) == (
        False,
        False,
        0,
    )
    assert shell.volume_cm3 == pytest.approx(HOLLOW_CM3, rel=5e-3)
    # The images end at x = 30 mm, half a millimetre beyond the centre of the sphere.
    assert arm.volume_cm3 == pytest.approx(2.1447, rel=2e-3)
    assert arm.outside_image_cm3 == pytest.approx(2.1447 * (0.5 - 0.75 * 0.5 / 8), rel=0.01)
    assert arm.centre_mm == pytest.approx((29.5, 0.0, 0.0), abs=0.02)
    assert (arm.touches_first_or_last_plane, arm.touches_image_edge) == (False, True)
    assert (empty.volume_cm3, empty.voxels, empty.centre_mm, empty.is_empty) == (0, 0, None, True)
    assert empty.faults == ("a structure has no contour",)
    mask = read_mask(tmp_path / "result" / MASKS / f"{shell.id}.npz", GRID)
    assert (int(mask.sum()), bool(mask[15, 30, 30]), bool(mask[15, 30, 43])) == (shell.voxels, False, True)
    assert not list((tmp_path / "result").glob("*.dcm"))


def test_what_lies_below_the_first_image_is_no_part_of_the_mask_and_is_told(tmp_path: Path) -> None:
    # The first image lies at -29 mm and shows what lies above -30 mm: half of the ball.
    longer = axial_grid(2.0, 1.0, planes=60, pixels=60, first_z=-59.0)
    foot = structure_set(GRID, [(1, "Foot", sphere(longer, 8.0, (0.0, 0.0, -30.0)))])
    side = structure_set(GRID, [(1, "Side", sphere(longer, 8.0, (-30.0, 0.0, 0.0)))], index=2)
    content = made(tmp_path, course(foot, side))
    for one in content.structures:
        assert one.volume_cm3 == pytest.approx(2.1447, rel=5e-3)
        assert one.outside_image_cm3 == pytest.approx(1.0723, rel=0.01)
    below, beside = content.structures
    assert (below.touches_first_or_last_plane, below.touches_image_edge) == (True, False)
    assert (beside.touches_first_or_last_plane, beside.touches_image_edge) == (False, True)


def test_gaps_and_bad_contours_are_said_of_the_structure(tmp_path: Path) -> None:
    ball = sphere(GRID, 18.0)
    tilted = ball[3].copy()
    tilted[0, 2] += 4
    drawn = structure_set(
        GRID, [(1, "Gap", ball[:5] + ball[7:]), (2, "Tilted", [*ball, tilted]), (3, "Good", ball)]
    )
    content = made(tmp_path, course(drawn))
    gap, tilted_one, good = content.structures
    # Planes at -17, -15 … -9 and -3 …: heights are above the first image, at -29 mm.
    assert gap.gaps == (pytest.approx((20.0, 26.0)),)
    assert tilted_one.is_empty and "does not lie in a plane parallel" in tilted_one.faults[0]
    assert good.volume_cm3 == pytest.approx(BALL_CM3, rel=1e-3) and good.faults == ()


def test_outlines_that_cross_are_said_of_the_structure(tmp_path: Path) -> None:
    def discs(apart: float, planes: Sequence[float]) -> list[Any]:
        return [circle(10.0, z, (x, 0.0)) for z in planes for x in (0.0, apart)]

    both = [*discs(12.0, (-1.0, 1.0)), *discs(25.0, (3.0,))]
    drawn = structure_set(GRID, [(1, "Node", both), (2, "One", discs(12.0, (1.0,))), (3, "Shell", hollow())])
    node, one, shell = (content := made(tmp_path, course(drawn))).structures
    assert node.faults == ("outlines cross in 2 planes: their overlap counts as outside",)
    assert one.faults == ("outlines cross in 1 plane: their overlap counts as outside",)
    # By the even-odd rule: both discs without twice the lens that they share, in an image of 2 mm.
    lens = 2 * 100 * math.acos(0.6) - 6 * math.sqrt(400 - 144)
    assert one.volume_cm3 == pytest.approx((2 * 100 * math.pi - 2 * lens) * 2 / 1000, rel=2e-3)
    assert shell.faults == ()
    (told,) = [one for one in structures_quality(content) if one.check.name == "structures_taken"]
    assert told.verdict == "WARNING"
    assert "Node: outlines cross in 2 planes: their overlap counts as outside" in told.text


def test_pairs_of_the_site_s_own_table_are_on_their_sides(tmp_path: Path) -> None:
    table = tmp_path / "names.yaml"
    table.write_text(
        "pairs: [{left: Graft_Sin, right: Graft_Dex, names: []}]\nsingle: {Graft_Sin: [graft A]}\n"
    )
    # DICOM x grows to the patient's left: both lie on the other side.
    rois = [
        (1, "graft A", sphere(GRID, 8.0, (-12.0, 0, 0))),
        (2, "Graft_Dex", sphere(GRID, 8.0, (12.0, 0, 0))),
    ]
    folder = tmp_path / "result"
    folder.mkdir()
    rules = StructureRules(read_structure_names(table))
    content = make_structures(course(structure_set(GRID, rois)), rules, DIGEST, "mqi_dagster 0", folder)
    assert [one.name for one in content.structures] == ["Graft_Sin", "Graft_Dex"]
    (told,) = [one for one in structures_quality(read_structures(folder)) if one.check.name == "laterality"]
    assert (told.verdict, told.text) == ("FAIL", "Graft_Sin lies 24 mm to the right of Graft_Dex")


def test_each_structure_set_has_its_own_structures(tmp_path: Path) -> None:
    first = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))], label="first")
    second = structure_set(GRID, [(1, "PTV", sphere(GRID, 9.0))], label="second", index=2)
    content = made(tmp_path, course(first, second))
    assert [(one.name, one.made_by) for one in content.structures] == [("PTV", "first"), ("PTV", "second")]
    assert named(content, "PTV", "first").volume_cm3 == pytest.approx(24.429, rel=1e-3)
    assert named(content, "PTV", "second").volume_cm3 == pytest.approx(3.0536, rel=2e-3)


def test_of_two_sets_with_one_label_none_is_lost(tmp_path: Path) -> None:
    first, second = (
        structure_set(GRID, [(1, "PTV", sphere(GRID, r))], index=n) for n, r in ((1, 18.0), (2, 9.0))
    )
    content = made(tmp_path, course(first, second))
    assert [round(one.volume_cm3) for one in content.structures] == [24, 3]


def test_another_frame_of_reference_is_told_and_not_put_on_the_images(tmp_path: Path) -> None:
    here = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])
    there = structure_set(GRID, [(1, "PTV", sphere(GRID, 9.0)), (2, "Heart", [])], frame="1.2.9", index=2)
    content = made(tmp_path, course(here, there))
    assert [one.structure_set_uid for one in content.structures] == ["1.2.1"]
    assert content.faults == (
        "structure set 2: PTV, Heart lie in another Frame of Reference than the planning images"
        " and are not put on them",
    )


def test_without_a_frame_of_reference_the_images_that_are_named_decide(tmp_path: Path) -> None:
    first = str(ct_headers(GRID)[0].SOPInstanceUID)
    ball = sphere(GRID, 18.0)
    by_image = structure_set(GRID, [(1, "PTV", ball)], frame="", image_uid=first)
    by_others = structure_set(GRID, [(1, "GTV", ball)], frame="", image_uid="1.2.99", index=2)
    by_series = structure_set(GRID, [(1, "CTV", ball)], frame="", index=3)
    by_nothing = structure_set(GRID, [(1, "ITV", ball)], frame="", series="1.2.98", index=4)
    content = made(tmp_path, course(by_image, by_others, by_series, by_nothing))
    assert [one.original_name for one in content.structures] == ["PTV", "CTV"]
    assert content.faults == (
        "structure set 2: GTV name neither a Frame of Reference nor the planning images alone and are not put"
        " on them",
        "structure set 4: ITV name neither a Frame of Reference nor the planning images alone and are not put"
        " on them",
    )
    assert content.notes == (
        "structure set 1: PTV name no Frame of Reference, and are taken to be in that of their set, or of the"
        " images that they name",
        "structure set 3: CTV name no Frame of Reference, and are taken to be in that of their set, or of the"
        " images that they name",
    )


def test_images_of_another_export_are_matched_by_geometry_and_it_is_said(tmp_path: Path) -> None:
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))], image_uid="1.2.99")
    content = made(tmp_path, course(drawn))
    assert content.structures[0].volume_cm3 == pytest.approx(BALL_CM3, rel=1e-3)
    assert content.notes == (
        "structure set 1 names 1 image that is not among the planning images: its structures are placed by"
        " geometry, in the same Frame of Reference",
    )


def test_a_damaged_set_stops_no_other(tmp_path: Path) -> None:
    good = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])
    content = made(tmp_path, course(good[:-2000], b"nothing", good))
    (ptv,) = content.structures
    assert (ptv.structure_set_uid, len(content.faults)) == ("1.2.3", 2)
    assert content.faults[0].startswith("structure set 1 is cut off")
    assert content.faults[1] == "structure set 2 is not a DICOM file: none of its structures is there"


def test_a_file_that_has_changed_is_no_fault_of_a_structure_set(tmp_path: Path) -> None:
    def changed() -> bytes:
        raise InputError("a file has changed since the course was organised")

    given = replace(course(), structure_sets=(StructureSetInput("a", "1.2", changed),))
    with pytest.raises(InputError, match="has changed"):
        made(tmp_path, given)


def test_irregular_images_have_no_structures_and_say_why(tmp_path: Path) -> None:
    whole = images()
    lacking = replace(whole, files=lambda: [one for n, one in enumerate(whole.files()) if n != 12])
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])
    content = made(tmp_path, course(drawn, planning=lacking))
    assert content.structures == ()
    assert content.faults[0].startswith(
        "the planning images: no structure could be put on them: the images are not evenly spaced"
    )
    assert made_nothing(tmp_path / "none").faults == ("there are no images on which structures could be put",)


def made_nothing(folder: Path) -> CourseStructures:
    folder.mkdir()
    return made(folder, course(planning=None))


def test_images_are_placed_by_position_whatever_their_files_order(tmp_path: Path) -> None:
    whole = images()
    shuffled = replace(whole, files=lambda: whole.files()[7:] + whole.files()[:7])
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0, (0.0, 0.0, 6.0)))])
    content = made(tmp_path, course(drawn, planning=shuffled))
    assert content.structures[0].centre_mm == pytest.approx((0, 0, 6), abs=0.01)
    assert content.notes == (
        "the planning images: their files' names do not follow their order in space; they are placed by their"
        " positions",
    )


def test_regions_of_models_become_structures_and_dicom_objects(tmp_path: Path) -> None:
    content = made(tmp_path, course(segmentations=[of_a_model(tmp_path / "seg")]))
    outside, inside = content.structures
    assert content.faults == ()
    assert (outside.source, outside.made_by, outside.voxels) == ("automatic", "made_model", 5000)
    assert (inside.voxels, inside.volume_cm3) == (2000, pytest.approx(4.0))
    assert inside.centre_mm == pytest.approx((0.0, 0.0, 0.0))
    folder = tmp_path / "result"
    # What anybody reads of the structure set.
    read = read_structure_set(folder / "RS.dcm")
    assert [(roi.number, roi.name, roi.interpreted_type) for roi in read.rois] == [
        (1, "Outside", "ORGAN"), (2, "Inside", "ORGAN"),
    ]  # fmt: skip
    for roi, mask in zip(read.rois, (BLOCK | TALL, TALL), strict=True):
        again = contours_on(GRID, roi.contours_mm)
        found = again.mask_on(GRID)
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) >= 0.995
    # Of the box of 10 × 10 voxels in 20 planes the corners are cut: 4 × 1/8 of a voxel in each plane.
    by_geometry = sum(layer.volume_mm3 for layer in contours_on(GRID, read.rois[1].contours_mm).layers())
    assert by_geometry / 1000 == pytest.approx(4.0 * (1 - 0.005), rel=0.005)
    # And of the segmentation.
    seg = segread(folder / "SEG.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["Outside", "Inside"]
    described = seg.get_segment_description(1)
    assert described.segmented_property_type.value == "12738006"
    assert described.algorithm_identification.name == "made_model"
    masks = segmentation_masks(read_dicom(folder / "SEG.dcm"), source_images(ct_headers(GRID)))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"Outside": 5000, "Inside": 2000}
    # The patient stands in them as in the images.
    for name in ("RS.dcm", "SEG.dcm"):
        written = pydicom.dcmread(folder / name)
        assert (written.PatientName, written.PatientID, written.StudyInstanceUID) == (
            "Prüfung^Eins", "P-1", "1.2.826.0.1.3680043.8.498.1",
        )  # fmt: skip
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert b"P-1" not in (folder / "structures.json").read_bytes()


def test_a_label_map_of_other_images_is_refused_and_the_rest_is_made(tmp_path: Path) -> None:
    given = of_a_model(tmp_path / "seg")
    moved = replace(GRID, origin_mm=(GRID.origin_mm[0] + 1, *GRID.origin_mm[1:]))
    other = tmp_path / "other"
    other.mkdir()
    content = segmentation(other, PLANNING, LABELS, moved, [region(2, "Inside", 2000)], model="moved")
    more = SegmentationsInput(StructureSource.CUSTOM_MODEL, other, content)
    found = made(tmp_path, course(segmentations=[more, given]))
    assert [one.made_by for one in found.structures] == ["made_model", "made_model"]
    assert found.faults == ("model moved: none of its regions is there: it lies 1 mm beside the series",)


def test_a_label_map_that_is_not_what_its_record_says_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "seg"
    folder.mkdir()
    content = segmentation(folder, PLANNING, LABELS, GRID, [region(2, "Inside", 1999)])
    found = made(
        tmp_path, course(segmentations=[SegmentationsInput(StructureSource.AUTOMATIC, folder, content)])
    )
    assert found.structures == ()
    assert found.faults == (
        "model made_model: its label map has labels that none of its regions has",
        "model made_model: Inside has 2000 voxels in its label map and 1999 in its record: it is left out",
    )


def test_derived_structures_are_made_of_any_others(tmp_path: Path) -> None:
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))], label="first")
    doubled = structure_set(GRID, [(1, "PTV", sphere(GRID, 9.0))], label="second", index=2)
    content = made(
        tmp_path,
        course(drawn, doubled, segmentations=[of_a_model(tmp_path / "seg")]),
        definitions=defined(
            {"name": "Shell", "operation": "subtract", "source_structures": ["Outside", "Inside"]},
            {
                "name": "Both",
                "source_structures": ["Shell", "made_model/Inside"],
                "description": "all\nof it",
            },
            {"name": "Ring", "operation": "ring", "source_structures": ["Inside"], "outer_mm": 2},
            {"name": "Either", "source_structures": ["PTV"]},
            {"name": "Target", "source_structures": ["second/PTV", "first/PTV"]},
            {"name": "Nothing", "operation": "intersection", "source_structures": ["Shell", "Inside"]},
            {"name": "Inside", "source_structures": ["Outside"]},
        ),
    )
    derived = {one.original_name: one for one in content.structures if one.source == "derived"}
    # The ring: in 20 planes 14 × 14 voxels without the corners and the box itself, and 12 × 12 at either end.
    assert {name: one.voxels for name, one in derived.items() if name != "Target"} == {
        "Shell": 3000, "Both": 5000, "Ring": 20 * (192 - 100) + 2 * 144, "Nothing": 0,
    }  # fmt: skip
    assert derived["Target"].voxels == named(content, "PTV", "first").voxels
    assert content.faults == (
        "not made: Either needs PTV, which may be any of first/PTV, second/PTV",
        "not made: Inside is the name of a structure that is there already",
    )
    assert content.notes == ("empty, and in no DICOM object: Nothing",)
    read = pydicom.dcmread(tmp_path / "result" / "RS.dcm")
    assert [one.ROIName for one in read.StructureSetROISequence] == [
        "Outside", "Inside", "Shell", "Both", "Ring", "Target",
    ]  # fmt: skip
    assert read.StructureSetROISequence[3].ROIDescription == "all of it"
    seg = segread(tmp_path / "result" / "SEG.dcm")
    assert list(seg.segment_numbers) == [1, 2]


def test_a_crop_by_structures_says_what_it_cuts_off(tmp_path: Path) -> None:
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0)), (2, "Empty", [])])
    block = {"name": "Block", "operation": "subtract", "source_structures": ["Outside", "Inside"]}
    cropping = CtCropping.model_validate(
        {"enabled": True, "structures": ["Block"], "superior_margin_cm": 0, "inferior_margin_cm": 0.4}
    )
    content = made(
        tmp_path,
        course(drawn, segmentations=[of_a_model(tmp_path / "seg")]),
        definitions=defined(block),
        region=region_request(cropping),
    )
    # The block reaches from z = -10 to 10 mm; 4 mm more below.
    assert content.region is not None
    assert (content.region.low_mm, content.region.high_mm) == (
        (-np.inf, -np.inf, -14.0), (np.inf, np.inf, 10.0),
    )  # fmt: skip
    assert content.region.from_structures == ("Block",)
    # Of the tall box 12 of 20 planes lie in it.
    assert named(content, "Inside").cut_off_percent == pytest.approx(40.0)
    assert named(content, "Block").cut_off_percent == 0
    assert named(content, "Empty").cut_off_percent is None
    # Segments of a sphere of 18 mm beyond 10 and -14 mm: π h² (3 r - h) / 3 with h = 8 and 4.
    cut = np.pi * (8**2 * (54 - 8) + 4**2 * (54 - 4)) / 3 / 24429.0
    assert named(content, "PTV").cut_off_percent == pytest.approx(100 * cut, abs=1.0)


def test_a_region_that_cannot_be_found_crops_nothing(tmp_path: Path) -> None:
    drawn = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])
    cropping = CtCropping.model_validate({"enabled": True, "region": "pelvis"})
    content = made(tmp_path, course(drawn), region=region_request(cropping))
    assert (content.region, content.structures[0].cut_off_percent) == (None, None)
    assert content.faults == (
        "analysis region: pelvis needs structures that are not there, or more than once (superior: VB_L1;"
        " inferior: Femur_L and Femur_R); nothing is cropped",
    )


def test_margins_of_the_settings_go_before_those_of_a_region() -> None:
    def margins(**keys: Any) -> RegionRequest:
        found = region_request(CtCropping.model_validate({"enabled": True, **keys}))
        assert found is not None
        return found

    assert region_request(CtCropping.model_validate({})) is None
    assert margins(region="pelvis").margins_mm == {}
    assert margins(region="pelvis", inferior_margin_cm=3).margins_mm == {"inferior": 30.0}
    around = margins(structures=["PTV"], superior_margin_cm=0.5)
    assert {one: limits[0].margin_mm for one, limits in around.definition.items()} == {
        "superior": 5.0, "inferior": 20.0,
    }  # fmt: skip


def test_another_series_has_structures_of_its_own(tmp_path: Path) -> None:
    of_other = replace(GRID, frame_of_reference_uid="1.2.9")
    here = structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])
    there = structure_set(GRID, [(1, "GTV", sphere(GRID, 9.0))], frame="1.2.9", index=2)
    cropping = CtCropping.model_validate({"enabled": True, "structures": ["PTV"]})
    content = made(
        tmp_path,
        course(
            here,
            there,
            others=(images(of_other, OTHER, "1.2.3.4"),),
            segmentations=[
                of_a_model(tmp_path / "seg"),
                of_a_model(tmp_path / "seg2", series=OTHER, model="mr_model"),
            ],
        ),
        definitions=defined(
            {"name": "Shell", "operation": "subtract", "source_structures": ["PTV", "Inside"]}
        ),
        region=region_request(cropping),
    )
    assert [(one.series, one.original_name) for one in content.structures] == [
        (PLANNING, "PTV"), (PLANNING, "Outside"), (PLANNING, "Inside"), (PLANNING, "Shell"),
        (OTHER, "GTV"), (OTHER, "Outside"), (OTHER, "Inside"),
    ]  # fmt: skip
    # The region is one of the planning images, and says nothing of another Frame of Reference.
    assert [one.cut_off_percent is None for one in content.structures] == [False] * 4 + [True] * 3
    assert content.faults == (
        "structure set 2: GTV lie in another Frame of Reference than the planning images and are not put on"
        " them",
        "series SOTHER: not made: Shell needs PTV, which is not there (nearest names: GTV, Outside, Inside)",
    )
    folder = tmp_path / "result"
    assert sorted(path.name for path in folder.glob("*.dcm")) == [
        "RS.SOTHER.dcm", "RS.dcm", "SEG.SOTHER.dcm", "SEG.dcm",
    ]  # fmt: skip
    first, second = (pydicom.dcmread(folder / name) for name in ("RS.dcm", "RS.SOTHER.dcm"))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.FrameOfReferenceUID == "1.2.9"


def test_what_a_writer_cannot_take_is_named(tmp_path: Path) -> None:
    custom = replace(of_a_model(tmp_path / "custom", model="site_model"), source=StructureSource.CUSTOM_MODEL)
    content = made(
        tmp_path,
        course(segmentations=[of_a_model(tmp_path / "seg"), custom]),
        definitions=defined({"name": "back\\slash", "source_structures": ["made_model/Inside"]}),
    )
    assert content.faults == (
        "RS.dcm leaves out back\\slash: ROIName has no text of at most 64 characters: back\\slash",
    )
    read = read_structure_set(tmp_path / "result" / "RS.dcm")
    assert [roi.name for roi in read.rois] == [
        "Outside (made_model)", "Inside (made_model)", "Outside (site_model)", "Inside (site_model)",
    ]  # fmt: skip


def test_what_was_stored_is_read_again_or_refused(tmp_path: Path) -> None:
    content = made(tmp_path, course(structure_set(GRID, [(1, "PTV", sphere(GRID, 18.0))])))
    mask = tmp_path / "result" / MASKS / f"{content.structures[0].id}.npz"
    with pytest.raises(StoreError, match="another grid"):
        read_mask(mask, replace(GRID, shape=(30, 60, 61)))
    mask.write_bytes(mask.read_bytes()[:300])
    with pytest.raises(StoreError, match="cannot be read"):
        read_mask(mask, GRID)


def test_a_name_that_is_the_patient_s_is_not_shown(tmp_path: Path) -> None:
    ball = sphere(GRID, 18.0)
    drawn = structure_set(GRID, [(1, "PTV 60", ball), (5, "Boost Prufung", ball)], label="Pr\u00fcfung 2")
    content = made(tmp_path, course(drawn))
    assert [(one.original_name, one.made_by) for one in content.structures] == [
        ("PTV 60", "structure set 1"), ("ROI 5", "structure set 1"),
    ]  # fmt: skip
    assert content.structures[1].faults == ("its name holds the patient's name and is not shown",)
    assert content.faults == ("structure set 1: its label holds the patient's name and is not shown",)


def test_the_name_of_a_card_goes_before_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "seg"
    folder.mkdir()
    one = region(2, "Lung", 2000).model_copy(update={"tg263": "Lungs"})
    given = SegmentationsInput(
        StructureSource.AUTOMATIC,
        folder,
        segmentation(folder, PLANNING, np.where(LABELS == 2, LABELS, 0), GRID, [one]),
    )
    wanted = [
        {"name": "By TG-263", "source_structures": ["Lungs"]},
        {"name": "By its own", "source_structures": ["Lung"]},
        {"name": "By its key", "source_structures": ["made_model/Lung"]},
    ]
    content = made(tmp_path, course(segmentations=[given]), definitions=defined(*wanted))
    assert [(one.name, one.original_name, one.voxels) for one in content.structures] == [
        ("Lungs", "Lung", 2000), ("By TG-263", "By TG-263", 2000), ("By its own", "By its own", 2000),
        ("By its key", "By its key", 2000),
    ]  # fmt: skip
    assert content.structures[0].naming == "mapped" and content.faults == ()
