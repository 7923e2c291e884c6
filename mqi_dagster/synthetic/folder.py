"""One delivery folder with the files the machine writes, and the defects of its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mqi_dagster.errors import ConfigurationError, MqiError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.synthetic.defects import DefectKind
from mqi_dagster.synthetic.record import Encoding, LayerDelivery, encode_machine_plan, encode_record
from mqi_dagster.synthetic.request import DeliveryRequest
from mqi_dagster.synthetic.schedule import LayerPart, ScheduledIrradiation
from mqi_dagster.synthetic.sheets import Labels, RangeRow, plan_info, plan_range
from mqi_dagster.synthetic.source import SourceBeam, SourceLayer
from mqi_dagster.synthetic.timeline import SpotTimeline, planned_timeline

OTHER_PATIENT = "OTHER999"
OTHER_RUNNING_NUMBER = 9_999_999
OTHER_STUDY = "1.2.826.0.1.3680043.8.498.999"


def write_delivery(
    folder: Path,
    delivery: ScheduledIrradiation,
    request: DeliveryRequest,
    machine: Machine,
    identifiers: tuple[str, str],
) -> int:
    """Write one delivery folder.

    Args:
        folder: The folder to make.
        delivery: What was irradiated, and when.
        request: How, and with which defects.
        machine: Whose calibration the files are written in.
        identifiers: Patient ID and study UID of the plan.

    Returns:
        The number of samples in its records.

    Raises:
        ConfigurationError: The machine cannot deliver or record the layer.
    """
    patient_id, study_uid = identifiers
    beam = delivery.beam.number
    if request.has(DefectKind.WRONG_PATIENT, beam=beam):
        patient_id = OTHER_PATIENT
    labels = Labels(patient_id, study_uid, beam, delivery.digits, delivery.running_number)
    folder.mkdir()
    rows, samples = [], 0
    for part in delivery.layers:
        layer = delivery.beam.layers[part.number - 1]
        # Each layer has random numbers of its own, so that no other choice of the request moves them.
        rng = np.random.default_rng([request.seed, delivery.fraction, beam, layer.number, delivery.part])
        try:
            timeline = planned_timeline(layer, machine.timing, stops=delivery.beam.stops)
            doing = _with_defects(part, layer, timeline, beam, request)
            doing = _with_spot_defects(doing, delivery.beam, machine, request)
            record = encode_record(doing, Encoding(machine, request, rng)).tobytes()
            machine_plan = encode_machine_plan(layer, timeline, machine)
        except MqiError as error:
            raise error.at(Where(beam=str(beam), layer=layer.number)) from error
        row = _row(layer, doing.range_code, labels, request)
        if request.has(DefectKind.MISSING_ROW, beam=beam, layer=layer.number):
            continue
        rows.append(row)
        samples += len(record) // 16
        for defect in request.defects_of(DefectKind.TRUNCATED, beam=beam, layer=layer.number):
            record = record[: -int(defect.amount("bytes"))]
        if not request.has(DefectKind.MISSING_LAYER, beam=beam, layer=layer.number):
            (folder / row.record_name).write_bytes(record)
        (folder / row.machine_plan_name).write_bytes(machine_plan)
    (folder / "PlanRange.txt").write_bytes(plan_range(labels, rows))
    if not request.has(DefectKind.MISSING_PLAN_INFO, beam=beam):
        if request.has(DefectKind.WRONG_STUDY, beam=beam):
            labels = replace(labels, study_uid=OTHER_STUDY)
        last = delivery.layers[-1].number
        if request.has(DefectKind.STOP_BEYOND_PLAN, beam=beam):
            last = len(delivery.beam.layers) + 1
        info = plan_info(labels, delivery.digits, delivery.layers[0].number, last)
        (folder / "PlanInfo.txt").write_bytes(info)
    return samples


def _with_defects(
    part: LayerPart, layer: SourceLayer, timeline: SpotTimeline, beam: int, request: DeliveryRequest
) -> LayerDelivery:
    """How the layer is delivered, with the defects of the record itself."""
    doing = LayerDelivery(layer, timeline, (part.start, part.stop), range_code=request.range_code)
    for defect in request.defects_of(*DefectKind, beam=beam, layer=layer.number):
        if defect.kind is DefectKind.SHIFTED_SPOTS:
            doing = replace(doing, shift_mm=(defect.amount("x"), defect.amount("y")))
        elif defect.kind is DefectKind.MIRRORED_X:
            doing = replace(doing, mirrored_x=True)
        elif defect.kind is DefectKind.SWAPPED_AXES:
            doing = replace(doing, swapped_axes=True)
        elif defect.kind is DefectKind.BEAM_OFF_DOSE:
            doing = replace(doing, beam_off_share=defect.amount("percent") / 100.0)
        elif defect.kind is DefectKind.MU_ERROR:
            doing = replace(doing, mu_factor=1.0 + defect.amount("percent") / 100.0)
        elif defect.kind is DefectKind.RANGE_CODE:
            doing = replace(doing, range_code=int(defect.amount("code")))
        elif defect.kind is DefectKind.WRONG_LAYER_NUMBER:
            doing = replace(doing, written_layer_number=layer.number + 1)
        elif defect.kind is DefectKind.SCAN_NUMBER_ZERO:
            doing = replace(doing, scan_number=0)
    return doing


def _with_spot_defects(
    doing: LayerDelivery, beam: SourceBeam, machine: Machine, request: DeliveryRequest
) -> LayerDelivery:
    """The layer with spots left out, added or exchanged, at the dose rate of its plan."""
    kinds = (DefectKind.MISSING_SPOT, DefectKind.EXTRA_SPOT, DefectKind.SWAPPED_SPOTS)
    number = doing.layer.number
    for defect in request.defects_of(*kinds, beam=beam.number, layer=number):
        layer = doing.layer
        spot, count = int(defect.amount("spot")) - 1, len(layer.spot_mu)
        named = [spot] + (
            [int(defect.amount("other")) - 1] if defect.kind is DefectKind.SWAPPED_SPOTS else []
        )
        if max(named) >= count:
            raise ConfigurationError(f"defect {defect.kind.value}: layer {number} has {count} spots")
        positions, mu = layer.positions_mm.copy(), layer.spot_mu.copy()
        if defect.kind is DefectKind.SWAPPED_SPOTS:
            positions[named], mu[named] = positions[named[::-1]], mu[named[::-1]]
        elif defect.kind is DefectKind.EXTRA_SPOT:
            beside = positions[spot] + (defect.amount("x"), defect.amount("y"))
            positions = np.insert(positions, spot + 1, beside, axis=0)
            mu = np.insert(mu, spot + 1, mu[spot])
        elif beam.stops:
            positions, mu = np.delete(positions, spot, axis=0), np.delete(mu, spot)
        else:
            mu[spot] = 0.0
        changed = replace(layer, positions_mm=positions, spot_mu=mu)
        rate = doing.timeline.rate_mu_s
        timeline = planned_timeline(changed, machine.timing, stops=beam.stops, rate_mu_s=rate)
        doing = replace(doing, layer=changed, timeline=timeline)
    return doing


def _row(layer: SourceLayer, code: int, labels: Labels, request: DeliveryRequest) -> RangeRow:
    """The layer's row of PlanRange, with the defects that stand there."""
    number, energy, named = layer.number, layer.energy_mev, labels
    for defect in request.defects_of(DefectKind.ENERGY_ROW, beam=labels.beam_number, layer=number):
        energy += defect.amount("mev")
    if request.has(DefectKind.FOREIGN_LAYER, beam=labels.beam_number, layer=number):
        named = replace(labels, patient_id=OTHER_PATIENT, running_number=OTHER_RUNNING_NUMBER)
    return RangeRow(
        number, f"{energy:.10g}", code, named.record_name(number), named.machine_plan_name(number)
    )
