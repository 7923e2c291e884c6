"""All structures of a course: drawn ones, those that models have found, and those made of others.

Each is put on the grid of the series that it belongs to by geometry, measured, and written before the next
one is looked at. What cannot be read or made is said, and stops no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mqi_dagster.dicom.ct_images import is_localizer
from mqi_dagster.dicom.elements import text_of
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import DicomError, ImageError, InputError, shown
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.derived import CustomStructures, derive
from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.models.label_map import LABEL_MAP, Labels
from mqi_dagster.imaging.quality_checks import counted
from mqi_dagster.imaging.region import (
    AnalysisRegion,
    Direction,
    RegionDefinition,
    analysis_region,
    cut_off,
    read_regions,
    region_around,
)
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    Segmentation,
    SegmentationState,
    SegmentedRegion,
)
from mqi_dagster.imaging.segmented_masks import read_labels, region_mask
from mqi_dagster.imaging.source_images import SourceImages, source_images
from mqi_dagster.imaging.structure_extent import Extent, extent_of_contours, extent_of_mask
from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    Mask,
    RegionRecord,
    StoredMasks,
    StructureRecord,
    StructureSource,
    write_structures,
)
from mqi_dagster.imaging.structure_names import Naming, StructureName, StructureNames
from mqi_dagster.imaging.structure_objects import MadeBy, MadeStructure, write_objects
from mqi_dagster.imaging.structure_set import Roi, StructureSet, read_structure_set
from mqi_dagster.plan.identifiers import identity_of
from mqi_dagster.plan.identity import Identity
from mqi_dagster.settings.radiotherapy import CtCropping
from mqi_dagster.store.digests import digest_of

CUSTOM_STRUCTURES = "custom_structures"
"""What derived structures are made by: the file of definitions."""
_AROUND_STRUCTURES_MM = 20.0
_MOST_NAMED = 10
"""Names in one message."""


@dataclass(frozen=True, slots=True)
class SeriesInput:
    """A series that is analysed."""

    id: str
    """Its pseudonym."""
    series_uid: str
    files: Callable[[], Iterable[bytes]]
    """The images, in the order of their files' names."""


@dataclass(frozen=True, slots=True)
class StructureSetInput:
    """A structure set."""

    id: str
    """Says nothing about a patient; a part of the identifiers of its structures."""
    uid: str
    content: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class SegmentationsInput:
    """Segmentations of one kind."""

    source: StructureSource
    folder: Path
    content: CourseSegmentations


@dataclass(frozen=True, slots=True)
class RegionRequest:
    """An analysis region to find."""

    name: str
    definition: RegionDefinition
    margins_mm: Mapping[Direction, float]
    """In place of those of the definition."""


@dataclass(frozen=True, slots=True)
class CourseInput:
    """What the structures of a course are made from."""

    planning: SeriesInput | None
    others: tuple[SeriesInput, ...]
    structure_sets: tuple[StructureSetInput, ...]
    """In an order that stays: messages name them by their place."""
    segmentations: tuple[SegmentationsInput, ...]


@dataclass(frozen=True, slots=True)
class StructureRules:
    """What the site says of structures."""

    names: StructureNames
    definitions: CustomStructures | None = None
    region: RegionRequest | None = None


def region_request(cropping: CtCropping) -> RegionRequest | None:
    """The analysis region that the settings ask for; None where they ask for none.

    Raises:
        ConfigurationError: The packaged regions cannot be read.
    """
    if not cropping.enabled:
        return None
    given = {Direction.SUPERIOR: cropping.superior_margin_cm, Direction.INFERIOR: cropping.inferior_margin_cm}
    margins = {direction: 10 * margin for direction, margin in given.items() if margin is not None}
    if cropping.region is not None:
        return RegionRequest(cropping.region, read_regions()[cropping.region], margins)
    around = dict.fromkeys(given, _AROUND_STRUCTURES_MM) | margins
    return RegionRequest("around structures", region_around(cropping.structures, around), {})


def make_structures(
    course: CourseInput, rules: StructureRules, digest: str, software: str, folder: Path
) -> CourseStructures:
    """Make everything that `structure_files` describes.

    Args:
        course: What they are made from.
        rules: What the site says.
        digest: Of the result: every UID of its DICOM objects follows from it.
        software: Name and version of this program, which stand in them.
        folder: Empty; is given records, masks and DICOM objects.

    Returns:
        The records.

    Raises:
        InputError: A file is not what it was when the course was organised.
        OSError: The disk does not give or take a file.
    """
    (folder / MASKS).mkdir()
    work = _Work(course, rules, digest, software, folder)
    if course.planning is None:
        work.faults.append("there are no images on which structures could be put")
    else:
        work.on_series(course.planning, is_planning=True)
    for series in course.others:
        work.on_series(series, is_planning=False)
    content = CourseStructures(
        planning=None if course.planning is None else course.planning.id,
        structures=tuple(work.records),
        region=work.region_record,
        faults=tuple(dict.fromkeys(work.faults)),
        notes=tuple(dict.fromkeys(work.notes)),
    )
    write_structures(content, folder)
    return content


@dataclass(slots=True)
class _Work:
    """What has been made of a course so far."""

    course: CourseInput
    rules: StructureRules
    digest: str
    software: str
    folder: Path
    records: list[StructureRecord] = field(default_factory=list)
    region: AnalysisRegion | None = None
    frame_of_region: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def region_record(self) -> RegionRecord | None:
        """The analysis region as it is stored."""
        if self.region is None:
            return None
        used = dict.fromkeys(name for limit in self.region.limits.values() for name in limit.structures)
        region = self.region
        return RegionRecord(
            name=region.name,
            low_mm=region.low_mm,
            high_mm=region.high_mm,
            from_structures=tuple(used),
            notes=region.notes,
        )

    def on_series(self, series: SeriesInput, *, is_planning: bool) -> None:
        """Make everything of one series."""
        what = "the planning images" if is_planning else f"series {series.id}"
        try:
            images, note = _images(series)
            with decoding():
                identity = identity_of(images.headers[0])
        except (DicomError, ImageError) as error:
            self.faults.append(f"{what}: no structure could be put on them: {error.message}")
            return
        self.notes += [f"{what}: {note}"] if note else []
        made = _OnSeries(series, images, identity, self.course, self.rules, self.folder, is_planning)
        made.draw()
        made.segment()
        made.derive()
        if is_planning and self.rules.region is not None:
            self._find_region(made, self.rules.region)
        if self.region is not None and images.grid.frame_of_reference_uid == self.frame_of_region:
            made.crop(self.region)
        made.write_objects(self.digest, self.software)
        self.records += made.records.values()
        self.faults += made.faults
        self.notes += made.notes

    def _find_region(self, made: _OnSeries, wanted: RegionRequest) -> None:
        try:
            self.region = analysis_region(
                wanted.name,
                wanted.definition,
                made.masks,
                made.grid,
                made.names,
                wanted.margins_mm,
            )
        except ImageError as error:
            self.faults.append(f"analysis region: {error.message}; nothing is cropped")
        else:
            self.frame_of_region = made.grid.frame_of_reference_uid


class _OnSeries:
    """The structures of one series; by the key ``<made by>/<name>``, by which a definition may name them."""

    def __init__(
        self,
        series: SeriesInput,
        images: SourceImages,
        identity: Identity,
        course: CourseInput,
        rules: StructureRules,
        folder: Path,
        is_planning: bool,
    ) -> None:
        self._series, self._images, self._course, self._rules = series, images, course, rules
        self._identity, self._folder, self._is_planning = identity, folder, is_planning
        self.records: dict[str, StructureRecord] = {}
        self._found: dict[str, MadeBy] = {}
        self.masks = StoredMasks(folder, images.grid, lambda key: self._ids[key])
        self._ids: dict[str, str] = {}
        self._called: dict[str, tuple[str, ...]] = {}
        self.faults: list[str] = []
        self.notes: list[str] = []

    @property
    def grid(self) -> ImageGrid:
        """Of the series."""
        return self._images.grid

    @property
    def names(self) -> StructureNames:
        """What means the same, by the keys of the structures."""
        return self._rules.names.calling(self._called)

    def draw(self) -> None:
        """Every structure of every structure set in the Frame of Reference of the series."""
        for place, one in enumerate(self._course.structure_sets, start=1):
            what = f"structure set {place}"
            # Outside of what is caught: a file that has changed is no fault of a structure set.
            content = one.content()
            try:
                found = read_structure_set(content)
            except DicomError as error:
                self.faults.append(f"{what} {error.message}: none of its structures is there")
                continue
            self.faults += [f"{what}: {fault}" for fault in found.faults]
            found = self._without_identity(what, found)
            here = [roi for roi in found.rois if self._is_here(roi, found)]
            if self._is_planning:
                self._tell_of_links(what, found, here)
            named = self._rules.names.named_all([roi.name or f"ROI {roi.number}" for roi in here])
            for roi, name in zip(here, named, strict=True):
                self._draw(one, found.label or what, roi, name)

    def _without_identity(self, what: str, found: StructureSet) -> StructureSet:
        """A set whose label and names name nobody; a name of the table does not, whoever bears it, too."""
        rois: list[Roi] = []
        for roi in found.rois:
            known = self._rules.names.named(roi.name).naming in (Naming.STANDARD, Naming.MAPPED)
            if not known and (held := self._identity.named_in(roi.name)):
                roi = replace(
                    roi,
                    name=f"ROI {roi.number}",
                    faults=(*roi.faults, f"its name holds the patient's {held} and is not shown"),
                )
            rois.append(roi)
        label = found.label
        if held := self._identity.named_in(label):
            self.faults.append(f"{what}: its label holds the patient's {held} and is not shown")
            label = what
        return replace(found, label=label, rois=tuple(rois))

    def _is_here(self, roi: Roi, of: StructureSet) -> bool:
        """Whether a region lies in the Frame of Reference of the series.

        That is told by its own UID, else by the only one of its set, else by the images that it names.
        """
        frames = {roi.frame_of_reference_uid} - {""} or set(of.frame_of_reference_uids) - {""}
        if len(frames) == 1:
            return frames == {self.grid.frame_of_reference_uid}
        if roi.image_uids:
            return roi.image_uids <= set(self._images.series.instance_uids)
        uid, course = self._series.series_uid, self._course
        same = sum(one.series_uid == uid for one in (course.planning, *course.others) if one is not None)
        # Of a series with images in several Frames of Reference its UID does not say which one is meant.
        return same == 1 and of.series_uids == (uid,)

    def _tell_of_links(self, what: str, found: StructureSet, here: Sequence[Roi]) -> None:
        placed = {roi.number for roi in here}
        others = [roi for roi in found.rois if roi.number not in placed]
        framed = any(found.frame_of_reference_uids)
        elsewhere = [roi.name for roi in others if roi.frame_of_reference_uid or framed]
        unplaced = [roi.name for roi in others if not (roi.frame_of_reference_uid or framed)]
        by_images = [roi.name for roi in here if not roi.frame_of_reference_uid]
        if elsewhere:
            self.faults.append(
                f"{what}: {_listed(elsewhere)} lie in another Frame of Reference than the planning images"
                " and are not put on them"
            )
        if unplaced:
            self.faults.append(
                f"{what}: {_listed(unplaced)} name neither a Frame of Reference nor the planning images alone"
                " and are not put on them"
            )
        if by_images:
            self.notes.append(
                f"{what}: {_listed(by_images)} name no Frame of Reference, and are taken to be in that of"
                " their set, or of the images that they name"
            )
        named = frozenset[str]().union(*(roi.image_uids for roi in here))
        if unknown := named - set(self._images.series.instance_uids):
            those = "image that is" if len(unknown) == 1 else "images that are"
            self.notes.append(
                f"{what} names {len(unknown)} {those} not among the planning images: its structures"
                " are placed by geometry, in the same Frame of Reference"
            )

    def _draw(self, of: StructureSetInput, label: str, roi: Roi, name: StructureName) -> None:
        faults = list(roi.faults)
        gaps: tuple[tuple[float, float], ...] = ()
        mask: Mask = np.zeros(self.grid.shape, bool)
        extent = extent_of_mask(mask, self.grid)
        try:
            contours = contours_on(self.grid, roi.contours_mm)
        except ImageError as error:
            faults.append(error.message)
        else:
            gaps = contours.gaps
            if crossed := contours.crossed_planes():
                planes = "1 plane" if crossed == 1 else f"{crossed} planes"
                faults.append(f"outlines cross in {planes}: their overlap counts as outside")
            mask = contours.mask_on(self.grid)
            extent = extent_of_contours(contours, mask, self.grid)
            if extent.volume_cm3 and not extent.voxels:
                faults.append("no voxel of the images has its centre in it")
        record = self._record(
            f"{StructureSource.CLINICAL}-{of.id}-{roi.number}",
            name,
            StructureSource.CLINICAL,
            label,
            extent,
            faults,
        )
        self._keep(
            record.model_copy(
                update={
                    "structure_set_uid": of.uid,
                    "roi_number": roi.number,
                    "interpreted_type": roi.interpreted_type,
                    "gaps": gaps,
                }
            ),
            mask,
        )

    def segment(self) -> None:
        """Every region of every segmentation that was made of the series."""
        for given in self._course.segmentations:
            for one in given.content.segmentations:
                if one.series == self._series.id and one.state is SegmentationState.MADE:
                    self._segmented(given, one)

    def _segmented(self, given: SegmentationsInput, one: Segmentation) -> None:
        try:
            labels = read_labels(given.folder / one.folder / LABEL_MAP, self.grid)
        except InputError as error:
            self.faults.append(f"model {one.model}: none of its regions is there: {error.message}")
            return
        known = {label for region in one.regions for label in (region.label, *region.includes)}
        if (labels > 0).sum() != region_mask(labels, known).sum():
            self.faults.append(f"model {one.model}: its label map has labels that none of its regions has")
        named = self._rules.names.named_all([region.name for region in one.regions])
        for region, name in zip(one.regions, named, strict=True):
            if region.tg263 is not None:
                naming = Naming.STANDARD if region.tg263 == region.name else Naming.MAPPED
                name = StructureName(region.tg263, region.name, naming)
            self._region(given.source, one, region, name, labels)

    def _region(
        self,
        source: StructureSource,
        of: Segmentation,
        region: SegmentedRegion,
        name: StructureName,
        labels: Labels,
    ) -> None:
        mask = region_mask(labels, (region.label, *region.includes))
        extent = extent_of_mask(mask, self.grid)
        if extent.voxels != region.voxels:
            voxels = counted(extent.voxels, "voxel")
            self.faults.append(
                f"model {of.model}: {shown(region.name)} has {voxels} in its label map and"
                f" {region.voxels} in its record: it is left out"
            )
            return
        record = self._record(f"{source}-{of.model}-{region.label}", name, source, of.model, extent)
        key = self._keep(record, mask)
        self._found[key] = MadeBy(of.model, of.version, of.family, region)

    def derive(self) -> None:
        """Every structure that the site defines, of those that are there."""
        rules = self._rules.definitions
        if rules is None:
            return
        made = StoredMasks(self._folder, self.grid, self._derived_id)
        result = derive(rules.definitions, self.masks, self.grid, self.names, made)
        missing = [f"{shown(name)} {why}" for name, why in result.faults.items()]
        if self._is_planning:
            self.faults += [*rules.faults, *(f"not made: {one}" for one in missing)]
        elif missing:
            self.faults.append(f"series {self._series.id}: not made: {'; '.join(missing)}")
        wanted = [one.name for one in rules.definitions if one.name in made]
        for name in self._rules.names.named_all(wanted):
            extent = extent_of_mask(made[name.original], self.grid)
            self._keep(
                self._record(
                    self._derived_id(name.original).removeprefix(f"{self._series.id}-"),
                    name,
                    StructureSource.DERIVED,
                    CUSTOM_STRUCTURES,
                    extent,
                )
            )

    def _derived_id(self, name: str) -> str:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        return f"{self._series.id}-{StructureSource.DERIVED}-{digest}"

    def crop(self, region: AnalysisRegion) -> None:
        """Say what lies beyond the region of each structure."""
        for one in cut_off(region, self.masks, self.grid):
            record = self.records[one.structure]
            if record.voxels:
                self.records[one.structure] = record.model_copy(update={"cut_off_percent": one.percent})

    def write_objects(self, digest: str, software: str) -> None:
        """The DICOM objects of what was not drawn."""
        rules = self._rules.definitions
        described = {one.name: one.description for one in rules.definitions} if rules else {}
        structures = [
            MadeStructure(
                name=record.name,
                read=partial(self.masks.__getitem__, key),
                source=record.made_by,
                found=self._found.get(key),
                description=""
                if record.source is not StructureSource.DERIVED
                else described.get(record.original_name, ""),
            )
            for key, record in self.records.items()
            if record.source is not StructureSource.CLINICAL
        ]
        if not structures:
            return
        own = digest if self._is_planning else digest_of(result=digest, series=self._series.id)
        suffix = "" if self._is_planning else f".{self._series.id}"
        written = write_objects(self._folder, self._images, structures, own, software, suffix)
        self.faults += written.faults
        self.notes += written.notes

    def _record(
        self,
        place: str,
        name: StructureName,
        source: StructureSource,
        made_by: str,
        extent: Extent,
        faults: Sequence[str] = (),
    ) -> StructureRecord:
        return StructureRecord(
            id=f"{self._series.id}-{place}",
            series=self._series.id,
            name=name.name,
            original_name=name.original,
            naming=name.naming,
            sided=self._rules.names.side_of(name.name),
            source=source,
            made_by=made_by,
            volume_cm3=extent.volume_cm3,
            voxels=extent.voxels,
            centre_mm=extent.centre_mm,
            touches_first_or_last_plane=extent.touches_first_or_last_plane,
            touches_image_edge=extent.touches_image_edge,
            outside_image_cm3=extent.outside_image_cm3,
            faults=tuple(faults),
        )

    def _keep(self, record: StructureRecord, mask: Mask | None = None) -> str:
        """Keep a structure, and its mask where that is not written yet; its key."""
        key = f"{record.made_by}/{record.original_name}"
        if key in self.records:
            key = f"{key} [{record.id}]"
        self.records[key], self._ids[key] = record, record.id
        self._called[key] = (record.original_name, record.name)
        if mask is not None:
            self.masks[key] = mask
        else:
            self.masks.add_written(key)
        return key


def _images(series: SeriesInput) -> tuple[SourceImages, str]:
    """The headers of a series without their pixels, localizers aside, and what is to say of their order.

    Raises:
        DicomError: One is damaged.
        ImageError: They do not lie in one regular grid.
    """
    headers = []
    for content in series.files():
        dataset = read_dicom(content)
        if is_localizer(dataset):
            continue
        dataset.pop("PixelData", None)
        # It holds the whole file.
        dataset.buffer = None
        headers.append(dataset)
    images = source_images(headers)
    given = [text_of(header, "SOPInstanceUID") for header in headers]
    in_space = list(images.series.instance_uids)
    if given in (in_space, in_space[::-1]):
        return images, ""
    return images, "their files' names do not follow their order in space; they are placed by their positions"


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(shown(name) for name in names[:_MOST_NAMED])
    return told if len(names) <= _MOST_NAMED else f"{told} and {len(names) - _MOST_NAMED} more"
