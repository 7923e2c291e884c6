"""The checks of one delivered layer: its record and its machine plan, against PlanRange and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mqi_dagster.delivery.delivered_path import DeliveredPath
from mqi_dagster.delivery.files import file_entry
from mqi_dagster.delivery.machine_files import machine_file
from mqi_dagster.delivery.machine_plan import read_machine_plan
from mqi_dagster.delivery.manifest import FileEntry, Part, RecordPart
from mqi_dagster.delivery.plan_range import PlanRangeRow
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
from mqi_dagster.plan.model import PlanLayer, ScanMode

RECORD = "record"
MACHINE_PLAN = "machine plan"
FLOAT_ROUNDING_MM = 0.005
"""What a plan's float32 position may differ beyond the steps of the machine plan (behaviours 28)."""
PRESET_STEPS = 1.5
"""Half a step for rounding, one for the doubt about a preset's zero: 32767 or 32768 (formats.md 4)."""
FIELD_MARGIN_MM = 10.0
OUTSIDE_SHARE = 0.1
"""Share of a layer's counts beyond the margin around its planned spots that no delivery of it can have.

A layer of another field exceeds it, and so does one of this field with its axes mirrored or swapped, or
shifted far: where the record is recognised as such, the case is taken in and the check ``delivery`` tells.
"""


class LayerCheck(Part):
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
    record: FileEntry | None = None
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
) -> tuple[FileEntry, _Sums]:
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
) -> FileEntry | None:
    if row.machine_plan_name is None:
        return None
    entry: FileEntry | None = None
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
