"""The checks that concern the case as a whole: machine, range shifters, folder name, CT, stray files."""

from __future__ import annotations

import re
from pathlib import Path

from mqi_dagster.delivery.discovery import Arrival
from mqi_dagster.delivery.files import file_entry
from mqi_dagster.delivery.manifest import FileEntry
from mqi_dagster.delivery.validation_findings import Findings
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import DeliveryError, DicomError, PlanError, UnknownMachineError, Where
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import IonPlan

UID_LIKE = re.compile(r"[0-9]+(\.[0-9]+){3,}")
AT_PLAN = Where(kind="RT plan")


def check_machine(plan: IonPlan, machines: Machines, findings: Findings) -> Machine | None:
    """The one machine of all treatment beams, by the names in the plan.

    Returns:
        None where a name is unknown or the beams name more than one machine.
    """
    found: dict[str, list[int]] = {}
    known: dict[str, Machine] = {}
    unknown = False
    for beam in plan.beams:
        try:
            machine = machines.named(beam.machine_name)
            known[machine.id] = machine
            found.setdefault(machine.id, []).append(beam.number)
            for shifter in beam.range_shifters:
                machine.range_shifter(shifter.shifter_id)
        except UnknownMachineError as error:
            unknown = True
            findings.error(UnknownMachineError(f"beam {beam.number}: {error.message}", where=AT_PLAN))
    if len(found) > 1:
        parts = [
            f"{name} (beam {', '.join(str(number) for number in sorted(numbers))})"
            for name, numbers in sorted(found.items())
        ]
        findings.error(
            PlanError(f"its beams are planned on {len(found)} machines: {', '.join(parts)}", where=AT_PLAN)
        )
    if unknown or len(known) != 1:
        return None
    return next(iter(known.values()))


def check_folder(arrival: Arrival, plan: IonPlan, findings: Findings) -> None:
    """Name of the case folder, and machine files that stand in it outside any delivery."""
    name = arrival.folder.name
    if UID_LIKE.fullmatch(name) and name != plan.study_instance_uid:
        findings.error(DeliveryError("the study folder's name differs from the RT plan's study UID"))
    if arrival.stray_files:
        count = len(arrival.stray_files)
        files = "1 machine file stands" if count == 1 else f"{count} machine files stand"
        findings.error(DeliveryError(f"{files} in the case folder, outside any delivery folder"))


def check_ct(arrival: Arrival, plan: IonPlan, findings: Findings) -> tuple[list[FileEntry], list[FileEntry]]:
    """The CT images that came with the case; each must be of the plan's patient and frame of reference.

    In another frame the plan's isocentre is another place, and the dose would be wrong without an error.

    Returns:
        The images in the order of their SOP Instance UIDs, and byte-for-byte copies of them.
    """
    where = Where(kind="CT")
    images: dict[str, tuple[str, FileEntry]] = {}
    copies: list[FileEntry] = []
    strangers = displaced = 0
    for path in sorted(arrival.ct_files):
        with findings.collecting(where):
            patient_id, instance, frame = _ct_identity(path)
            entry = file_entry(path, "CT image")
            if entry.sha256 in images:
                copies.append(entry)
                continue
            strangers += patient_id != plan.patient_id
            displaced += not frame or frame != plan.frame_of_reference_uid
            images[entry.sha256] = (instance, entry)
    if strangers:
        findings.error(
            DeliveryError(
                f"{strangers} of {len(images)} images are of another patient than the plan", where=where
            )
        )
    if displaced:
        findings.error(
            DeliveryError(
                f"{displaced} of {len(images)} images are in another frame of reference than the plan",
                where=where,
            )
        )
    instances = [instance for instance, _ in images.values()]
    if len(set(instances)) != len(instances):
        findings.error(DeliveryError("different images carry the same SOP Instance UID", where=where))
    return [entry for _, entry in sorted(images.values(), key=lambda item: item[0])], copies


def _ct_identity(path: Path) -> tuple[str, str, str]:
    """Patient ID, SOP Instance UID and Frame of Reference UID; empty where absent."""
    keywords = ["PatientID", "SOPInstanceUID", "FrameOfReferenceUID"]
    try:
        dataset = read_dicom(path, only=keywords)
        with decoding():
            patient_id, instance, frame = (str(dataset.get(keyword) or "") for keyword in keywords)
        return patient_id, instance, frame
    except OSError as error:
        raise DeliveryError(f"an image cannot be read: {error.strerror}") from None
    except DicomError as error:
        raise DeliveryError(f"an image {error.message}", first_cause=error.first_cause) from None
