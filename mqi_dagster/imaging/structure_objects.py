"""DICOM objects of what was made for a series: an RT Structure Set and a Segmentation.

What was drawn is in its own structure set already and is not written again. A structure that cannot be
written is named and stops no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mqi_dagster.errors import DicomError, ImageError, shown
from mqi_dagster.imaging import segmentation_object, structure_set_writer
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.segmentation_files import SegmentedRegion
from mqi_dagster.imaging.segmentation_object import (
    ARTIFICIAL_INTELLIGENCE,
    RULE_BASED,
    Algorithm,
    Code,
    SegmentationRequest,
    SegmentRequest,
    write_segmentation,
)
from mqi_dagster.imaging.source_images import SourceImages
from mqi_dagster.imaging.structure_files import Mask
from mqi_dagster.imaging.structure_set_writer import (
    GenerationAlgorithm,
    RoiRequest,
    StructureSetRequest,
    outlines,
    write_structure_set,
)

STRUCTURE_SET, SEGMENTATION = "RS", "SEG"
_LABEL = "MQI"
_LONGEST, _LONGEST_DESCRIPTION = 64, 1024
"""Characters that DICOM has for who made a region, and for its description."""
_FAMILIES = {code.meaning: code for code in (ARTIFICIAL_INTELLIGENCE, RULE_BASED)}
_ENTIRE_BODY = "38266002"
_ANATOMICAL_STRUCTURE = "91723000"


@dataclass(frozen=True, slots=True)
class MadeBy:
    """The model that found a region, and what its card says of that."""

    model: str
    version: str
    family: str
    region: SegmentedRegion


@dataclass(frozen=True, slots=True, eq=False)
class MadeStructure:
    """A structure that was not drawn."""

    name: str
    read: Callable[[], Mask]
    """Its mask on the grid of the images."""
    source: str
    """What made it: model or file of definitions."""
    found: MadeBy | None
    """None: derived from others."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the objects of a series."""

    faults: tuple[str, ...]
    """Structures that could not be written, and why."""
    notes: tuple[str, ...]
    """Those that are empty, and what a reader will take otherwise."""


def write_objects(
    folder: Path,
    images: SourceImages,
    structures: Sequence[MadeStructure],
    digest: str,
    software: str,
    suffix: str = "",
) -> Written:
    """Write ``RS.dcm`` and ``SEG.dcm``, each where there is something to write.

    Args:
        folder: Of the result.
        images: The series; its patient and study stand in the objects.
        structures: Of the series.
        digest: From which every UID follows.
        software: Name and version of this program.
        suffix: Of the files' names.
    """
    named = _once(structures)
    filled = [one for one in named if one.read().any()]
    notes = [f"empty, and in no DICOM object: {_listed(one.name for one in named if one not in filled)}"]
    faults: list[str] = []
    bridged = _structure_set(
        folder / f"{STRUCTURE_SET}{suffix}.dcm", images, filled, digest, software, faults
    )
    _segmentation(folder / f"{SEGMENTATION}{suffix}.dcm", images, filled, digest, software, faults)
    return Written(tuple(faults), (*(notes if len(filled) < len(named) else ()), *bridged))


def _once(structures: Sequence[MadeStructure]) -> list[MadeStructure]:
    """With names that differ: of several with one name each says what made it."""
    counts = Counter(one.name for one in structures)
    longer = [
        replace(one, name=f"{one.name} ({one.source})") if counts[one.name] > 1 else one for one in structures
    ]
    counts = Counter(one.name for one in longer)
    return [
        replace(one, name=f"{one.name} {number}") if counts[one.name] > 1 else one
        for number, one in enumerate(longer, start=1)
    ]


def _structure_set(
    path: Path,
    images: SourceImages,
    structures: Sequence[MadeStructure],
    digest: str,
    software: str,
    faults: list[str],
) -> tuple[str, ...]:
    rois: list[RoiRequest] = []
    for one in structures:
        contours = outlines(one.read(), images.grid)
        roi = RoiRequest(
            number=len(rois) + 1,
            name=one.name,
            shape=contours,
            generation=GenerationAlgorithm.AUTOMATIC,
            interpreted_type=_interpreted_type(one.found),
            made_by=(one.source if one.found is None else f"{one.found.model} {one.found.version}")[
                :_LONGEST
            ],
            description=" ".join(one.description.split())[:_LONGEST_DESCRIPTION].strip(),
            encloses=one.read,
        )
        try:
            structure_set_writer.require_fitting(roi)
            contours_on(images.grid, contours)
        except ImageError as error:
            faults.append(f"{path.name} leaves out {shown(one.name)}: {error.message}")
        else:
            rois.append(roi)
    if not rois:
        return ()
    request = StructureSetRequest(
        _LABEL,
        tuple(rois),
        digest,
        (software,),
        series_description="Automatic, custom and derived structures",
    )
    try:
        return write_structure_set(path, images, request)
    except (DicomError, ImageError) as error:
        faults.append(f"{path.name} could not be written: {error.message}")
        return ()


def _interpreted_type(found: MadeBy | None) -> str:
    if found is None:
        return ""
    if found.region.code[0] == _ENTIRE_BODY:
        return "EXTERNAL"
    return "ORGAN" if found.region.category[0] == _ANATOMICAL_STRUCTURE else ""


def _segmentation(
    path: Path,
    images: SourceImages,
    structures: Sequence[MadeStructure],
    digest: str,
    software: str,
    faults: list[str],
) -> None:
    segments: list[SegmentRequest] = []
    for one in structures:
        if one.found is None:
            continue
        family = _FAMILIES.get(one.found.family)
        if family is None:
            unknown = shown(one.found.family)
            faults.append(f"{path.name} leaves out {shown(one.name)}: {unknown} is no family of algorithms")
            continue
        segment = SegmentRequest(
            label=one.name,
            mask=one.read,
            category=Code(*one.found.region.category),
            property_type=Code(*one.found.region.code),
            algorithm=Algorithm(one.found.model, one.found.version, family),
        )
        try:
            segmentation_object.require_fitting(segment)
        except ImageError as error:
            faults.append(f"{path.name} leaves out {shown(one.name)}: {error.message}")
        else:
            segments.append(segment)
    if not segments:
        return
    request = SegmentationRequest(
        _LABEL, tuple(segments), digest, (software,), series_description="Automatic and custom structures"
    )
    try:
        write_segmentation(path, images, request)
    except (DicomError, ImageError) as error:
        faults.append(f"{path.name} could not be written: {error.message}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in names)
