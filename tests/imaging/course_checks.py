"""Made courses, read as the step that organises them reads them, and their checks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.courses.grouping import groups
from mqi_dagster.courses.inventory import CourseInventory
from mqi_dagster.imaging.course_facts import CourseFacts
from mqi_dagster.imaging.quality_control import QcResult, inventory_quality
from mqi_dagster.lifecycle.course import read_once
from mqi_dagster.pseudonyms import Pseudonyms
from mqi_dagster.settings.radiotherapy import QualityControl
from tests.courses.made_objects import Made, items

MADE = Made(1)
KEYED = Pseudonyms(b"a secret of sixteen bytes").keyed
SLICES = 5


def images(**changes: object) -> list[bytes]:
    """A CT of five slices, 3 mm apart."""
    return [MADE.image(n, **changes) for n in range(SLICES)]


def structures(index: int = 1, **changes: object) -> bytes:
    """A structure set that names all of them."""
    return MADE.structures(index, slices=SLICES, **changes)


def drawn(low: float, high: float, index: int = 1, *, kind: str | None = "PTV", name: str = "One") -> bytes:
    """One with a square target from `low` to `high` [mm] on three of the slices.

    Args:
        kind: Its RT ROI Interpreted Type; None: nothing says it.
        name: Of the target.
    """
    square = [(low, low), (high, low), (high, high), (low, high)]
    contours = [
        {
            "ContourGeometricType": "CLOSED_PLANAR",
            "NumberOfContourPoints": 4,
            "ContourData": [part for x, y in square for part in (x, y, z)],
        }
        for z in (3, 6, 9)
    ]
    return structures(
        index,
        ROIContourSequence=items([{"ReferencedROINumber": 1, "ContourSequence": items(contours)}]),
        StructureSetROISequence=items([{"ROINumber": 1, "ROIName": name}]),
        RTROIObservationsSequence=None
        if kind is None
        else items([{"ObservationNumber": 1, "ReferencedROINumber": 1, "RTROIInterpretedType": kind}]),
    )


def beams(*gantry: float, isocentre: tuple[float, float, float] = (4, 4, 6)) -> dict[str, object]:
    """Beams of a plan, by their gantry angles, and one to set the patient up from elsewhere."""
    treating = [("TREATMENT", angle, list(isocentre)) for angle in gantry]
    made = [
        {
            "BeamNumber": number,
            "TreatmentDeliveryType": kind,
            "ControlPointSequence": items([{"GantryAngle": angle, "IsocenterPosition": place}]),
        }
        for number, (kind, angle, place) in enumerate([*treating, ("SETUP", 270, [99, 99, 99])], start=1)
    ]
    return {"BeamSequence": items(made)}


def fraction_groups(*numbers: int, beams: tuple[int, ...] = ()) -> dict[str, object]:
    """Fraction groups of a plan by their numbers, and those of the beams that each names."""
    named = [{"ReferencedBeamNumber": number} for number in beams]
    groups = [
        {
            "FractionGroupNumber": number,
            "NumberOfFractionsPlanned": 30,
            "ReferencedBeamSequence": items(named),
        }
        for number in numbers
    ]
    return {"FractionGroupSequence": items(groups)}


def evaluated(folder: Path, objects: list[bytes], **options: object) -> dict[str, QcResult]:
    """The checks of the inventory of a course.

    Args:
        folder: Empty.
        objects: Of the course.
        options: Of `radiotherapy.qc`.
    """
    return checked(*organised(written(folder, objects), folder / "index.sqlite"), **options)


def written(folder: Path, objects: list[bytes]) -> Path:
    """A tree of these objects."""
    root = folder.resolve() / "tree"
    for content in objects:
        MADE.at(root).write(content)
    return root


def organised(root: Path, index: Path) -> tuple[CourseInventory, CourseFacts]:
    """The one course in a tree."""
    with closing(DicomIndex(index, root)) as opened:
        opened.scan()
        (course,) = [one for group in groups(opened, KEYED) for one in group.courses]
    return course, read_once(root, course, "R0.c01")[1]


def checked(course: CourseInventory, facts: CourseFacts, **options: object) -> dict[str, QcResult]:
    """Its checks by their names."""
    results = inventory_quality(course, facts, QualityControl.model_validate(options))
    return {one.check.name: one for one in results}
