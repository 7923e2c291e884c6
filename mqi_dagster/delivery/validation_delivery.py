"""The checks of one delivery: PlanInfo, PlanRange, folder and file names against the plan and each other."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.delivery.files import file_entry, files_in
from mqi_dagster.delivery.fractions import DeliveryHeader
from mqi_dagster.delivery.inbox_tree import is_ignored
from mqi_dagster.delivery.machine_files import (
    MACHINE_PLAN_SUFFIX,
    PLAN_INFO,
    RECORD_SUFFIX,
    machine_file,
)
from mqi_dagster.delivery.manifest import DeliveryEntry, FileEntry
from mqi_dagster.delivery.plan_info import PlanInfo
from mqi_dagster.delivery.plan_range import PlanRangeRow, plan_range_path, read_plan_range
from mqi_dagster.delivery.validation_findings import Findings
from mqi_dagster.delivery.validation_layer import CheckedLayer, check_layer
from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.plan.model import IonPlan, PlanBeam

ENERGY_TOLERANCE_MEV = 1e-3
RECORD_NAME = re.compile(r"(?P<room>\d+)_(?P<who>\d+)_(?P<plan>\d+)_(?P<field>\d+)_(?P<layer>\d+)\.ptn", re.I)
MACHINE_PLAN_NAME = re.compile(
    r"(?P<room>\d+)_(?P<who>.+)_(?P<plan>\d+)_(?P<field>\d+)_(?P<layer>\d+)\.mgn", re.I
)


@dataclass(frozen=True, slots=True)
class CheckedDelivery:
    """One delivery, as far as it could be read."""

    header: DeliveryHeader
    beam: PlanBeam | None
    """The plan's beam; None where the plan has none such."""
    entry: DeliveryEntry
    layers: tuple[CheckedLayer, ...]


def check_delivery(
    header: DeliveryHeader, number: int, plan: IonPlan, machine: Machine | None, findings: Findings
) -> CheckedDelivery | None:
    """Check one delivery with all its files.

    Args:
        header: The delivery.
        number: Its number within the fraction.
        plan: The case's plan.
        machine: The case's machine; None where it is unknown.
        findings: Takes every fault.

    Returns:
        Its inventory; None where it has no readable PlanRange.
    """
    info = header.info
    _check_plan_info(header, number, plan, findings)
    beam = _beam(info, number, plan, findings)
    rows: tuple[PlanRangeRow, ...] | None = None
    at_range = Where(delivery=number, kind="PlanRange")
    with findings.collecting(at_range):
        range_path = plan_range_path(header.folder)
        rows = read_plan_range(range_path)
    plan_info: Path | None = None
    with findings.collecting(Where(delivery=number, kind="PlanInfo")):
        plan_info = machine_file(header.folder, PLAN_INFO, "PlanInfo")
    if rows is None or plan_info is None:
        return None
    _check_rows(rows, info, number, beam, findings)
    _check_names(rows, info, number, findings)
    _check_folder(header.folder, rows, number, findings)
    layers = []
    for row in rows:
        planned = beam.layer(row.layer) if beam is not None and row.layer <= len(beam.layers) else None
        mode = beam.scan_mode if beam is not None else None
        checked = check_layer(header.folder, row, number, info.beam_number, planned, machine, findings, mode)
        if checked is not None:
            layers.append(checked)
    files: list[FileEntry] = []
    for layer in layers:
        files.append(layer.part.record)
        if layer.part.machine_plan is not None:
            files.append(layer.part.machine_plan)
    entry = DeliveryEntry(
        number=number,
        folder=header.folder,
        beam_number=info.beam_number,
        irradiated_at=header.irradiated_at,
        first_layer=info.first_layer,
        last_layer=info.last_layer,
        plan_info=file_entry(plan_info, "PlanInfo"),
        plan_range=file_entry(range_path, "PlanRange"),
        files=tuple(files),
    )
    return CheckedDelivery(header, beam, entry, tuple(layers))


def _check_plan_info(header: DeliveryHeader, number: int, plan: IonPlan, findings: Findings) -> None:
    info = header.info
    where = Where(delivery=number, kind="PlanInfo")
    if info.patient_id != plan.patient_id:
        findings.error(DeliveryError("its patient ID differs from the RT plan's", where=where))
    if info.study_instance_uid != plan.study_instance_uid:
        findings.error(DeliveryError("its study UID differs from the RT plan's", where=where))
    name = header.folder.name
    if re.fullmatch(r"[0-9]{16}", name) and name != info.result_id:
        findings.error(DeliveryError("its time differs from the name of its folder", where=where))
    parts = [part for part in re.split(r"[\\/]", info.actual_dir) if part]
    expected = [info.patient_id, info.study_instance_uid, info.result_id]
    if parts and parts[-3:] != expected:
        findings.error(
            DeliveryError("ACTUAL_DIR names another patient, study or time than the other keys", where=where)
        )


def _beam(info: PlanInfo, number: int, plan: IonPlan, findings: Findings) -> PlanBeam | None:
    where = Where(delivery=number, kind="PlanInfo")
    try:
        beam = plan.beam(info.beam_number)
    except KeyError:
        known = ", ".join(str(known) for known in sorted(beam.number for beam in plan.beams))
        findings.error(
            DeliveryError(
                f"beam {info.beam_number} is no treatment beam of the plan (it has beams {known})",
                where=where,
            )
        )
        return None
    if info.last_layer > len(beam.layers):
        findings.error(
            DeliveryError(
                f"STOP_LAYER_NUMBER {info.last_layer} lies beyond the {len(beam.layers)} layers of"
                f" beam {beam.number}",
                where=where,
            )
        )
    return beam


def _check_rows(
    rows: tuple[PlanRangeRow, ...], info: PlanInfo, number: int, beam: PlanBeam | None, findings: Findings
) -> None:
    def fault(row: PlanRangeRow, text: str) -> None:
        where = Where(delivery=number, layer=row.layer, kind="PlanRange")
        findings.error(DeliveryError(text, where=where))

    expected = info.last_layer - info.first_layer + 1
    if len(rows) != expected:
        findings.error(
            DeliveryError(
                f"PlanRange has {len(rows)} rows for the {expected} layers {info.first_layer} to"
                f" {info.last_layer} of beam {info.beam_number}",
                where=Where(delivery=number, kind="PlanRange"),
            )
        )
    present = {row.layer for row in rows}
    # Far more layers than rows are one fault, reported above, not one for each layer.
    if expected <= 2 * len(rows) + 10:
        for layer in range(info.first_layer, info.last_layer + 1):
            if layer not in present:
                findings.error(
                    DeliveryError(
                        "the layer is missing from PlanRange",
                        where=Where(delivery=number, layer=layer, kind="PlanRange"),
                    )
                )
    for row in rows:
        if not info.first_layer <= row.layer <= info.last_layer:
            fault(row, f"the layer lies outside layers {info.first_layer} to {info.last_layer} of PlanInfo")
        if row.result_id != info.result_id:
            fault(row, "RESULT_ID differs from PlanInfo's time")
        if row.patient_id != info.patient_id:
            fault(row, "the patient ID differs from PlanInfo's")
        if row.field_number != info.field_number:
            fault(row, f"FLD_NO {row.field_number} differs from PlanInfo's field {info.field_number}")
        if beam is None or row.layer > len(beam.layers):
            continue
        planned = beam.layer(row.layer).energy_mev
        if not abs(row.energy_mev - planned) <= ENERGY_TOLERANCE_MEV:
            fault(
                row,
                f"energy {row.energy_mev:g} MeV differs from the plan's {planned:g} MeV (beam {beam.number})",
            )


def _check_names(rows: tuple[PlanRangeRow, ...], info: PlanInfo, number: int, findings: Findings) -> None:
    def check(row: PlanRangeRow, name: str, pattern: re.Pattern[str], kind: str, who: str) -> None:
        where = Where(delivery=number, layer=row.layer, kind=kind)
        match = pattern.fullmatch(name)
        if match is None:
            findings.error(DeliveryError("the file name is not of the machine's form", where=where))
            return
        found = match["who"] if kind == "machine plan" else match["who"].lstrip("0") or "0"
        faults = []
        if found != who:
            faults.append("the number of another " + ("patient" if kind == "machine plan" else "delivery"))
        if int(match["plan"]) != info.plan_number:
            faults.append("another plan number than PlanInfo")
        if int(match["field"]) != info.field_number:
            faults.append("another field number than PlanInfo")
        if int(match["layer"]) != row.layer:
            faults.append("another layer number than PlanRange")
        if faults:
            findings.error(DeliveryError(f"the file name carries {', '.join(faults)}", where=where))

    for row in rows:
        check(row, row.record_name, RECORD_NAME, "record", info.record_number)
        if row.machine_plan_name is not None:
            check(row, row.machine_plan_name, MACHINE_PLAN_NAME, "machine plan", info.patient_id)


def _check_folder(folder: Path, rows: tuple[PlanRangeRow, ...], number: int, findings: Findings) -> None:
    named = Counter(row.record_name for row in rows)
    named.update(row.machine_plan_name for row in rows if row.machine_plan_name is not None)
    for row in rows:
        for name in {row.record_name, row.machine_plan_name} - {None}:
            if named[str(name)] > 1:
                where = Where(delivery=number, layer=row.layer, kind="PlanRange")
                findings.error(DeliveryError("its file is named for another layer as well", where=where))
    present: list[Path] = []
    with findings.collecting(Where(delivery=number)):
        present = [path for path in files_in(folder, "delivery folder") if not is_ignored(path.name)]
    folded = {name.casefold() for name in named}
    for suffix, kind in ((RECORD_SUFFIX, "record"), (MACHINE_PLAN_SUFFIX, "machine plan")):
        of_kind = [path for path in present if path.name.casefold().endswith(suffix)]
        meant = [path for path in of_kind if path.name in named or path.name.casefold() in folded]
        doubled = len(meant) - len({path.name.casefold() for path in meant})
        extra = [path for path in of_kind if path not in meant] + meant[:doubled]
        if extra:
            files = "1 file" if len(extra) == 1 else f"{len(extra)} files"
            where = Where(delivery=number, kind=kind)
            findings.error(DeliveryError(f"{files} of this kind not named by PlanRange", where=where))
