"""The checks of a case's CT: each image readable, of the plan's patient, and fit to simulate a dose in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.delivery.discovery import CaseFolder
from mqi_dagster.delivery.files import file_entry
from mqi_dagster.delivery.manifest import InputFile
from mqi_dagster.delivery.scan_ends import CoarseSlice, coarse_slice
from mqi_dagster.delivery.validation_findings import Findings
from mqi_dagster.dicom.ct_images import (
    CtImage,
    ct_pixels,
    is_localizer,
    position_faults,
    read_ct_image,
    series_faults,
)
from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import DeliveryError, DicomError, Where
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.settings import EngineProfile

AT_CT = Where(kind="CT")


@dataclass(frozen=True, slots=True)
class CheckedImages:
    """The CT of a case."""

    series: tuple[InputFile, ...] = ()
    """In the order of SOP Instance UIDs."""
    copies: tuple[InputFile, ...] = ()
    """Byte-for-byte copies of them."""
    slices: tuple[CoarseSlice, ...] = ()
    """The series, thinned, where a dose can be simulated in it."""


def check_images(
    arrival: CaseFolder, plan: IonPlan, profile: EngineProfile | None, findings: Findings
) -> CheckedImages:
    """The CT images that came with the case.

    An image of another patient or frame of reference, or one that cannot be read, would make the dose wrong
    without an error: the plan's isocentre would be another place, or a part of the patient air.

    Args:
        arrival: The case folder.
        plan: Its plan.
        profile: The site's engine; None where no site is known, and any engine may follow.
        findings: Takes what is wrong.
    """
    names = sorted((*arrival.ct_files, *arrival.unreadable_files))
    broken: list[tuple[int, str, Exception]] = []
    images: dict[str, tuple[CtImage, InputFile]] = {}
    slices: list[CoarseSlice] = []
    copies: list[InputFile] = []
    localizers = 0
    for index, path in enumerate(names, start=1):
        try:
            entry = file_entry(path, "CT image")
            if entry.sha256 in images:
                copies.append(entry)
                continue
            dataset = read_dicom(path)
            if is_localizer(dataset):
                localizers += 1
            else:
                hounsfield = ct_pixels(dataset)
                image = read_ct_image(dataset, hounsfield)
                images[entry.sha256] = (image, entry)
                slices.append(coarse_slice(image, hounsfield))
        except DicomError as error:
            broken.append((index, str(error), error))
        except DeliveryError as error:
            broken.append((index, error.message, error))
        except OSError as error:
            broken.append((index, f"cannot be opened: {error.strerror}", error))
    if broken:
        _refuse_broken(broken, len(names), bool(arrival.ct_files), findings)
    if arrival.archives and not names:
        _refuse_archives(len(arrival.archives), profile, findings)
    if localizers:
        one = localizers == 1
        findings.note(
            f"{localizers} localizer{' is' if one else 's are'} set aside: no slice{'' if one else 's'}"
            " of the scan",
            AT_CT,
        )
    found = [image for image, _ in images.values()]
    _check_origin(found, plan, findings)
    # What is broken is the fault; what lacks because of it is none of its own.
    usable = False
    if (found or localizers) and not broken:
        usable = _check_usable(found, profile, findings)
    entries = [entry for _, entry in sorted(images.values(), key=lambda item: item[0].instance_uid)]
    return CheckedImages(tuple(entries), tuple(copies), tuple(slices) if usable else ())


def _refuse_broken(
    broken: Sequence[tuple[int, str, Exception]], count: int, beside_images: bool, findings: Findings
) -> None:
    index, reason, cause = broken[0]
    if count == 1:
        text = f"a file of the case folder that should be an image {reason}"
    elif beside_images:
        text = f"image {index} of {count} in the order of names {reason}"
    else:
        text = f"file {index} of {count} that should be images, in the order of names, {reason}"
    more = len(broken) - 1
    if more:
        text += f"; {more} more cannot be used either"
    fault = DeliveryError(text, where=AT_CT)
    fault.__cause__ = cause
    findings.error(fault)


def _refuse_archives(count: int, profile: EngineProfile | None, findings: Findings) -> None:
    """Without the images that an archive may hold the dose would be one in water, and nobody would know."""
    them = "it" if count == 1 else "them"
    found = "an archive that may hold images lies"
    if count > 1:
        found = f"{count} archives that may hold images lie"
    fault = f"{found} in the case folder, and no image: unpack {them} or take {them} away"
    _report(fault, profile is None or profile.patient_ct, findings)


def _check_origin(images: Sequence[CtImage], plan: IonPlan, findings: Findings) -> None:
    count = len(images)
    strangers = sum(image.patient_id != plan.patient_id for image in images)
    frame = plan.frame_of_reference_uid
    displaced = sum(not frame or image.frame_of_reference_uid != frame for image in images)
    for wrong, what in (
        (strangers, "are of another patient than the plan"),
        (displaced, "are in another frame of reference than the plan"),
    ):
        if wrong:
            findings.error(DeliveryError(f"{wrong} of {count} images {what}", where=AT_CT))
    if len({image.instance_uid for image in images}) != count:
        findings.error(DeliveryError("different images carry the same SOP Instance UID", where=AT_CT))


def _check_usable(images: Sequence[CtImage], profile: EngineProfile | None, findings: Findings) -> bool:
    """Whether a dose can be simulated in the images; a note where the site's engine never does so."""
    simulated = profile is None or profile.patient_ct
    faults = (*position_faults(images), *series_faults(images))
    for fault in faults:
        _report(fault, simulated, findings)
    return simulated and not faults


def _report(fault: str, simulated: bool, findings: Findings) -> None:
    if simulated:
        findings.error(DeliveryError(fault, where=AT_CT))
    else:
        findings.note(f"{fault}; the engine in use simulates in water", AT_CT)


def unused_kinds(paths: Sequence[Path]) -> str:
    """What files are that no step uses, without their names, which may name a person."""
    kinds: dict[str, int] = {}
    for path in paths:
        kinds[_kind_of(path)] = kinds.get(_kind_of(path), 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _kind_of(path: Path) -> str:
    try:
        dataset = read_dicom(path, only=("SOPClassUID",))
    except (DicomError, OSError):
        return "not DICOM"
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    name = getattr(sop_class, "name", "")
    return name if name and not name[0].isdigit() else "DICOM of another kind"
