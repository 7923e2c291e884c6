"""The checks of one delivery: PlanInfo, PlanRange, names, and of each layer record and machine plan."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mqi_dagster.delivery.delivered_path import DeliveredPath
from mqi_dagster.delivery.files import file_entry, files_in
from mqi_dagster.delivery.fractions import DeliveryHeader
from mqi_dagster.delivery.inbox_tree import is_ignored
from mqi_dagster.delivery.machine_files import (
    MACHINE_PLAN_SUFFIX,
    PLAN_INFO,
    RECORD_SUFFIX,
    machine_file,
)
from mqi_dagster.delivery.machine_plan import read_machine_plan
from mqi_dagster.delivery.manifest import DeliveryEntry, InputFile, ManifestPart, RecordPart
from mqi_dagster.delivery.plan_info import PlanInfo
from mqi_dagster.delivery.plan_range import PlanRangeRow, plan_range_path, read_plan_range
from mqi_dagster.delivery.planned_timeline import planned_timeline
from mqi_dagster.delivery.record import (
    DOSE_1,
    DOSE_2,
    LAYER,
    beam_on,
    positions_mm,
    record_chunks,
)
from mqi_dagster.delivery.spot_assignment import recognised
from mqi_dagster.delivery.spot_plan import spot_plan
from mqi_dagster.delivery.validation_findings import Findings
from mqi_dagster.errors import ConfigurationError, DeliveryError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.plan.model import IonPlan, PlanBeam, PlanLayer, ScanMode

RECORD = "record"
MACHINE_PLAN = "machine plan"
FLOAT_ROUNDING_MM = 0.005
"""What a plan's float32 position may differ beyond the steps of the machine plan (docs/formats.md 3)."""
PRESET_STEPS = 1.5
"""Half a step for rounding, one for the doubt about a preset's zero: 32767 or 32768 (docs/formats.md 4)."""
FIELD_MARGIN_MM = 10.0
OUTSIDE_SHARE = 0.1
"""Share of a layer's counts beyond the margin around its planned spots that no delivery of it can have.

A layer of another field exceeds it, and so does one of this field with its axes mirrored or swapped, or
shifted far: where the record is recognised as such, the case is taken in and the check ``delivery`` tells.
"""


class LayerCheck(ManifestPart):
    """The counts of one layer of one delivery."""

    delivery: int
    beam_number: int
    layer: int
    energy_mev: float
    """LAYER_ENERGY of PlanRange."""
    range_codes: tuple[int, int]
    """Of dose monitors 1 and 2."""
    rows: int
    beam_on_samples: int
    raw_dose1_sum: int
    """Counts of dose monitor 1 over the beam-on samples, in this layer's range code."""
    raw_dose2_sum: int
    delivered_mu: float | None
    """Beam-on monitor units; None where the machine or the range code is unknown."""
    planned_mu: float | None
    ratio: float | None
    """Delivered to planned."""


@dataclass(frozen=True, slots=True)
class CheckedLayer:
    """One layer of one delivery, as far as it could be read."""

    check: LayerCheck
    part: RecordPart


@dataclass(slots=True)
class _Sums:
    rows: int = 0
    on: int = 0
    dose1: int = 0
    dose2: int = 0
    outside: int = 0
    wrong_layer: int = 0
    ends_on: bool = False


def check_layer(
    folder: Path,
    row: PlanRangeRow,
    delivery: int,
    beam_number: int,
    layer: PlanLayer | None,
    machine: Machine | None,
    findings: Findings,
    mode: ScanMode | None,
) -> CheckedLayer | None:
    """Check the files of a layer.

    Args:
        folder: The delivery folder.
        row: The layer's row of PlanRange.
        delivery: Number of the delivery, for errors.
        beam_number: DICOM BeamNumber.
        layer: The plan's layer; None where the plan has none such.
        machine: The machine; None where it is unknown, and calibrated values are left out.
        findings: Takes every fault.
        mode: How the plan has the layer scanned; None where it has none such.

    Returns:
        The layer's inventory and counts; None where the record cannot be read.
    """
    where = Where(delivery=delivery, layer=row.layer)
    machine_plan = _check_machine_plan(folder, row, delivery, layer, machine, findings)
    factor = _range_factor(row, where, machine, findings)
    record: InputFile | None = None
    sums: _Sums | None = None
    with findings.collecting(Where(delivery=delivery, layer=row.layer, kind=RECORD)):
        record, sums = _read(machine_file(folder, row.record_name, RECORD), row.layer, layer, machine)
        foreign = sums.outside > OUTSIDE_SHARE * sums.dose1
        known = _recognised(record.path, layer, machine, mode) if foreign else None
        _judge(sums, row.layer, foreign=foreign and known is None)
        if known is not None:
            findings.note(f"the layer was delivered far from where it was planned: {known}", where)
    if record is None or sums is None:
        return None
    at_record = Where(delivery=delivery, layer=row.layer, kind=RECORD)
    if sums.ends_on:
        findings.note("the record ends while the beam is on", at_record)
    delivered = None
    if factor is not None and machine is not None:
        delivered = sums.dose1 * factor * machine.record.mu_per_count
    planned = layer.meterset_mu if layer is not None else None
    check = LayerCheck(
        delivery=delivery,
        beam_number=beam_number,
        layer=row.layer,
        energy_mev=row.energy_mev,
        range_codes=(row.dose1_range, row.dose2_range),
        rows=sums.rows,
        beam_on_samples=sums.on,
        raw_dose1_sum=sums.dose1,
        raw_dose2_sum=sums.dose2,
        delivered_mu=delivered,
        planned_mu=planned,
        ratio=delivered / planned if delivered is not None and planned else None,
    )
    part = RecordPart(
        delivery=delivery,
        range_code=row.dose1_range,
        rows=sums.rows,
        record=record,
        machine_plan=machine_plan,
    )
    return CheckedLayer(check, part)


def _range_factor(
    row: PlanRangeRow, where: Where, machine: Machine | None, findings: Findings
) -> float | None:
    if machine is None:
        return None
    factor: float | None = None
    at_range = Where(delivery=where.delivery, layer=where.layer, kind="PlanRange")
    with findings.collecting(at_range):
        factor = machine.range_factor(row.dose1_range)
        machine.range_factor(row.dose2_range)
    return factor


def _read(
    path: Path | None, number: int, layer: PlanLayer | None, machine: Machine | None
) -> tuple[InputFile, _Sums]:
    if path is None:
        raise DeliveryError("the record that PlanRange names is missing")
    sums = _Sums()
    low = high = None
    if layer is not None and len(layer.positions_mm):
        low = layer.positions_mm.min(axis=0) - FIELD_MARGIN_MM
        high = layer.positions_mm.max(axis=0) + FIELD_MARGIN_MM
    for words in record_chunks(path):
        on = beam_on(words)
        counts = words[:, DOSE_1].astype(np.int64)
        sums.rows += len(words)
        sums.on += int(np.count_nonzero(on))
        sums.dose1 += int(counts[on].sum())
        sums.dose2 += int(words[on, DOSE_2].sum(dtype=np.int64))
        # The layer number stands in the low byte.
        sums.wrong_layer += int(np.count_nonzero((words[:, LAYER] & 0xFF) != (number & 0xFF)))
        sums.ends_on = bool(on[-1])
        if machine is not None and low is not None and high is not None:
            positions = positions_mm(words[on], machine.record)
            beyond = ((positions < low) | (positions > high)).any(axis=1)
            sums.outside += int(counts[on][beyond].sum())
    return file_entry(path, RECORD), sums


def _recognised(
    path: Path, layer: PlanLayer | None, machine: Machine | None, mode: ScanMode | None
) -> str | None:
    """What became of the plan's layer in a record that lies elsewhere; None where it is another field's."""
    if layer is None or machine is None or mode is None:
        return None
    try:
        timeline = planned_timeline(None, layer, machine, mode)
    except ConfigurationError:
        return None
    delivered = DeliveredPath()
    first: int | None = None
    seen = 0
    for words in record_chunks(path):
        rows = np.flatnonzero(beam_on(words))
        if len(rows):
            first = seen + int(rows[0]) if first is None else first
            since_s = (rows + seen - first).astype(np.float64) * (machine.record.row_period_ms * 1e-3)
            mu = words[rows, DOSE_1].astype(np.float64)
            delivered.add(0, since_s, positions_mm(words[rows], machine.record), mu)
        seen += len(words)
    path_taken = delivered.path()
    if not len(path_taken):
        return None
    return recognised(path_taken, spot_plan(timeline, machine.timing.speed_cm_s, float(layer.spot_mu[0])))


def _judge(sums: _Sums, number: int, *, foreign: bool) -> None:
    if sums.wrong_layer:
        raise DeliveryError(
            f"{sums.wrong_layer} of {sums.rows} rows belong to another layer than {number} (column 6)"
        )
    if sums.on == 0:
        raise DeliveryError("the record has no sample with the beam on")
    if foreign:
        raise DeliveryError(
            f"{100 * sums.outside / sums.dose1:.0f} % of the counts lie more than {FIELD_MARGIN_MM:g} mm"
            " outside the planned spots: a record of another field"
        )


def _check_machine_plan(
    folder: Path,
    row: PlanRangeRow,
    delivery: int,
    layer: PlanLayer | None,
    machine: Machine | None,
    findings: Findings,
) -> InputFile | None:
    if row.machine_plan_name is None:
        return None
    entry: InputFile | None = None
    with findings.collecting(Where(delivery=delivery, layer=row.layer, kind=MACHINE_PLAN)):
        path = machine_file(folder, row.machine_plan_name, MACHINE_PLAN)
        if path is None:
            raise DeliveryError("the machine plan that PlanRange names is missing")
        entry = file_entry(path, MACHINE_PLAN)
        if layer is not None and machine is not None:
            _compare(path, layer, machine)
    return entry


def _compare(path: Path, layer: PlanLayer, machine: Machine) -> None:
    positions = read_machine_plan(path, machine.preset).positions_mm
    if len(positions) != len(layer.positions_mm):
        raise DeliveryError(
            f"the machine plan has {len(positions)} spots, the RT plan {len(layer.positions_mm)}"
        )
    step = np.array([machine.preset.x_gain_mm, machine.preset.y_gain_mm])
    deviation = np.abs(positions - layer.positions_mm)
    wrong = (deviation > PRESET_STEPS * step + FLOAT_ROUNDING_MM).any(axis=1)
    if wrong.any():
        raise DeliveryError(
            f"{int(wrong.sum())} of {len(positions)} spots differ from the RT plan, by up to"
            f" {deviation.max():.3f} mm"
        )


ENERGY_TOLERANCE_MEV = 1e-3
RECORD_NAME = re.compile(r"(?P<room>\d+)_(?P<who>\d+)_(?P<plan>\d+)_(?P<field>\d+)_(?P<layer>\d+)\.ptn", re.I)
MACHINE_PLAN_NAME = re.compile(
    r"(?P<room>\d+)_(?P<who>.+)_(?P<plan>\d+)_(?P<field>\d+)_(?P<layer>\d+)\.mgn", re.I
)


@dataclass(frozen=True, slots=True)
class CheckedDelivery:
    """One delivery, as far as it could be read."""

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
    files: list[InputFile] = []
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
    return CheckedDelivery(beam, entry, tuple(layers))


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
