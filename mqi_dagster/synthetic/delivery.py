"""The simulator: writes a whole case as the machine would, into an inbox that never sees half of it."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from mqi_dagster.dicom.reading import decoding_as, read_dicom
from mqi_dagster.errors import ConfigurationError, PlanError, UnknownMachineError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.changes import broken_plan, requested_plan, second_plan
from mqi_dagster.synthetic.ct import write_water_ct
from mqi_dagster.synthetic.defects import DefectKind
from mqi_dagster.synthetic.folder import write_delivery
from mqi_dagster.synthetic.plans import Patient, built_in_plan
from mqi_dagster.synthetic.publishing import publish
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout
from mqi_dagster.synthetic.schedule import ScheduledIrradiation, irradiations
from mqi_dagster.synthetic.source import SourceBeam, source_beams

MAXIMUM_SAMPLES = 1_000_000
"""A delivery with more samples than this is refused: the machine file's dose rate does not suit the plan."""


@dataclass(frozen=True, slots=True)
class SimulatedDelivery:
    """One folder that was written."""

    beam: int
    folder: Path
    first_layer: int
    last_layer: int
    fraction: int
    samples: int


@dataclass(frozen=True, slots=True)
class SimulatedCase:
    """What was written."""

    folder: Path
    """The case folder: that of the study, or the simple layout's."""
    plan_path: Path
    deliveries: tuple[SimulatedDelivery, ...]
    samples: int


def simulate_delivery(request: DeliveryRequest, machine: Machine, target: Path) -> SimulatedCase:
    """Write a simulated case below a folder (an inbox).

    It is made beside ``target`` and renamed into place. Where the case is there already, its new delivery
    folders are added to it: a late beam or a later fraction.

    Raises:
        ConfigurationError: The request does not fit the plan or the machine, or a folder is there already.
        PlanError: The plan cannot be read.
        UnknownMachineError: The plan is for another machine.
    """
    source, plan_bytes = _plan_of(request, machine)
    plan, changed = requested_plan(source, request)
    beams = source_beams(plan)
    for beam in beams:
        if beam.machine_name not in machine.names:
            raise UnknownMachineError(
                f"the plan is for machine {beam.machine_name or '(empty)'}, not for {machine.id}",
                where=Where(beam=str(beam.number), kind="RT plan"),
            )
    deliveries = irradiations(beams, request)
    patient_id, study_uid = str(plan.get("PatientID") or ""), str(plan.get("StudyInstanceUID") or "")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", patient_id) or not study_uid:
        raise ConfigurationError(
            "the plan's patient ID is empty or cannot stand in a file name, or it has no study UID;"
            " give patient_id"
        )
    broken, defective = broken_plan(plan, request)
    case_path = _case_path(request, machine, patient_id, study_uid)
    try:
        work = _work_folder(target)
    except OSError as error:
        raise ConfigurationError("the target cannot be written", first_cause=error.strerror) from error
    try:
        case = work / "case"
        case.mkdir()
        plan_name = f"RP.{plan.SOPInstanceUID}.1.dcm"
        if plan_bytes is not None and not changed and not defective:
            (case / plan_name).write_bytes(plan_bytes)
        else:
            _save(broken, case / plan_name)
        if request.has(DefectKind.TWO_PLANS):
            other = second_plan(broken)
            _save(other, case / f"RP.{other.SOPInstanceUID}.1.dcm")
        written = [
            _written(case, _folder_name(d, deliveries, request), d, request, machine, (patient_id, study_uid))
            for d in deliveries
        ]
        if request.ct == "water":
            write_water_ct(case / "CT", plan, _isocenter(beams), request)
        final = publish(case, target, case_path, request.marker, grouped=request.layout is Layout.GROUPED)
    except OSError as error:
        raise ConfigurationError("the target cannot be written", first_cause=error.strerror) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    placed = tuple(replace(d, folder=final / d.folder.name) for d in written)
    return SimulatedCase(final, final / plan_name, placed, sum(d.samples for d in placed))


def _work_folder(target: Path) -> Path:
    """A new folder from which can be renamed into the target: beside it, or in it where that does not go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        work = _made_in(target.parent, target)
    except PermissionError:
        if not target.is_dir():
            raise
        return _made_in(target, target)
    if target.is_dir() and not _can_move(work, target):
        work.rmdir()
        return _made_in(target, target)
    return work


def _made_in(home: Path, target: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".extracting", dir=home))


def _can_move(work: Path, target: Path) -> bool:
    """Whether the target is no mount of its own: one within a file system has that one's device number."""
    probe = work / f".{work.name.lstrip('.')}"
    probe.mkdir()
    try:
        probe = probe.rename(target / probe.name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        probe.rmdir()
    return True


def _plan_of(request: DeliveryRequest, machine: Machine) -> tuple[Dataset, bytes | None]:
    """The plan, and its file's bytes where it came from a file."""
    if isinstance(request.plan, BuiltInPlan):
        blank = Patient()
        patient = Patient(
            request.patient_id or blank.patient_id,
            request.patient_name or blank.name,
            request.patient_birth_date or blank.birth_date,
        )
        return built_in_plan(machine, request.plan, seed=request.seed, patient=patient), None
    with decoding_as(PlanError, Where(kind="RT plan"), "the plan ", unread="cannot be opened"):
        content = request.plan.read_bytes()
        return read_dicom(content), content


def _save(plan: Dataset, path: Path) -> None:
    plan.save_as(path, enforce_file_format=True)


def _isocenter(beams: list[SourceBeam]) -> tuple[float, float, float]:
    return beams[0].isocenter_mm


def _case_path(request: DeliveryRequest, machine: Machine, patient_id: str, study_uid: str) -> Path:
    """Where the case folder stands below the inbox."""
    if request.layout is Layout.SIMPLE:
        return Path(request.case_name or f"case-{request.seed}")
    if request.layout is Layout.GROUPED:
        return Path(request.group or machine.id) / patient_id / study_uid
    return Path(study_uid)


def _folder_name(
    delivery: ScheduledIrradiation, deliveries: list[ScheduledIrradiation], request: DeliveryRequest
) -> str:
    """The delivery's folder: 16 digits, or the beam's name with the part and fraction where needed."""
    if request.layout is not Layout.SIMPLE:
        return delivery.digits
    beam = delivery.beam
    name = re.sub(r"[^A-Za-z0-9_-]", "_", beam.name) or f"beam_{beam.number}"
    same = {d.beam.number for d in deliveries if d.beam.name == beam.name}
    if len(same) > 1:
        name = f"{name}_b{beam.number:02d}"
    if delivery.part > 1:
        name = f"{name}_part{delivery.part}"
    return f"{name}_fx{delivery.fraction}" if delivery.fraction > 1 else name


def _written(
    case: Path,
    name: str,
    delivery: ScheduledIrradiation,
    request: DeliveryRequest,
    machine: Machine,
    identifiers: tuple[str, str],
) -> SimulatedDelivery:
    folder = case / name
    if folder.exists():
        raise ConfigurationError(
            "two deliveries begin at the same time; give them other times",
            where=Where(beam=str(delivery.beam.number)),
        )
    samples = write_delivery(folder, delivery, request, machine, identifiers)
    if samples > MAXIMUM_SAMPLES:
        raise ConfigurationError(
            f"the delivery would have {samples} samples, more than {MAXIMUM_SAMPLES}:"
            f" the dose rate of machine {machine.id} is too low for this plan",
            where=Where(beam=str(delivery.beam.number)),
        )
    if request.has(DefectKind.DUPLICATE_DELIVERY, beam=delivery.beam.number):
        shutil.copytree(folder, case / f"{name}_copy")
    numbers = [part.number for part in delivery.layers]
    return SimulatedDelivery(
        delivery.beam.number, folder, numbers[0], numbers[-1], delivery.fraction, samples
    )
