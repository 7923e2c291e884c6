"""A delivered beam becomes the engine's CSVs, with the figures of every layer beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.comparison import LayerRecorder
from mqi_dagster.delivery.csv_verification import verify_interpreted
from mqi_dagster.delivery.csv_writing import CsvWriter, beam_folder, layer_file
from mqi_dagster.delivery.layer_samples import LayerSamples
from mqi_dagster.delivery.manifest import BeamEntry, LayerEntry
from mqi_dagster.delivery.plan_csv import planned_samples
from mqi_dagster.delivery.planned_timeline import PlannedTimeline, PositionComparison, planned_timeline
from mqi_dagster.delivery.summary import (
    InterpretedBeam,
    InterpretedLayer,
    PlannedLayerFile,
    interpreted_beam,
    read_summary,
    write_spots,
    write_summary,
)
from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.plan.aperture import export_aperture
from mqi_dagster.plan.model import PlanBeam, PlanLayer
from mqi_dagster.settings import CsvDialect, Interpretation

__all__ = ["InterpretedBeam", "interpret_beam", "read_summary", "verify_interpreted"]

_ENERGY_PRINTED_MEV = 0.005
"""Energies stand in file names with two decimals."""


def interpret_beam(
    entry: BeamEntry,
    plan_beam: PlanBeam,
    machine: Machine,
    options: Interpretation,
    dialect: CsvDialect,
    out: Path,
) -> InterpretedBeam:
    """Interpret a delivered beam into ``out``.

    Writes ``log/<beam>/<NN>_<E.EE>MeV.csv`` for each delivered layer and, by setting,
    ``plan_csv/<beam>/<NN>_<E.EE>MeV.csv`` for each planned one together with the block and MLC of machines
    that have them; ``spots.parquet``, delivered against planned for each spot; and ``summary.json`` last.
    Samples are streamed; of a layer its path is kept for the comparison, in bounded memory.

    Args:
        entry: The beam in the case's manifest.
        plan_beam: The same beam in the plan.
        machine: The machine that delivered it.
        options: The interpretation's settings.
        dialect: How the engine wants its CSVs.
        out: Folder that the caller publishes as a whole.

    Returns:
        What stands in ``summary.json``.

    Raises:
        DeliveryError: A record or machine plan is damaged, differs from the inventory or from the plan.
        UnknownMachineError: A range code is unknown to the machine.
        ConfigurationError: The machine file does not cover the beam's energies.
        InfrastructureError: The disk did not take the results.
    """
    folder = beam_folder(entry.name)
    delivered = {layer.number: layer for layer in entry.layers}
    planned = {layer.number: layer for layer in plan_beam.layers}
    layer_count = max(planned, default=0)
    for number, layer in delivered.items():
        _check_against_plan(layer, planned.get(number))

    layers: list[InterpretedLayer] = []
    spots: list[dict[str, NDArray[np.generic]]] = []
    plan_files: list[PlannedLayerFile] = []
    for number, plan_layer in sorted(planned.items()):
        if number not in delivered and not options.plan_csv:
            continue
        name = layer_file(number, plan_layer.energy_mev, layer_count)
        timeline = planned_timeline(delivered.get(number), plan_layer, machine, plan_beam.scan_mode)
        if number in delivered:
            recorder = LayerRecorder(plan_layer, timeline, machine)
            figures, table = _interpret_layer(
                delivered[number], timeline, recorder, machine, options, dialect, out, f"log/{folder}/{name}"
            )
            layers.append(figures)
            spots.append(table)
        if options.plan_csv:
            plan_files.append(
                _write_plan_layer(
                    plan_layer, timeline, machine, options, dialect, out, f"plan_csv/{folder}/{name}"
                )
            )
    aperture_files: tuple[str, ...] = ()
    if options.plan_csv and machine.exports_aperture:
        exported = export_aperture(plan_beam, out / "plan_csv" / folder)
        aperture_files = tuple(f"plan_csv/{folder}/{path.name}" for path in exported)

    beam = interpreted_beam(
        entry,
        machine,
        options,
        dialect,
        tuple(layers),
        plan_files=tuple(plan_files),
        aperture_files=aperture_files,
    )
    write_spots(out, spots)
    write_summary(out, beam)
    return beam


def _check_against_plan(layer: LayerEntry, plan_layer: PlanLayer | None) -> None:
    where = Where(layer=layer.number)
    if plan_layer is None:
        raise DeliveryError("the plan has no such layer", where=where)
    if abs(plan_layer.energy_mev - layer.energy_mev) > _ENERGY_PRINTED_MEV:
        raise DeliveryError(
            f"delivered at {layer.energy_mev:g} MeV, planned at {plan_layer.energy_mev:g} MeV", where=where
        )


def _interpret_layer(
    layer: LayerEntry,
    timeline: PlannedTimeline,
    recorder: LayerRecorder,
    machine: Machine,
    options: Interpretation,
    dialect: CsvDialect,
    out: Path,
    file: str,
) -> tuple[InterpretedLayer, dict[str, NDArray[np.generic]]]:
    comparison = PositionComparison(timeline)
    samples = LayerSamples(layer, machine, options, comparison, recorder)
    with CsvWriter(out / file, dialect) as writer:
        for chunk in samples.chunks():
            writer.append(chunk.time_ms, chunk.positions_mm, chunk.counts)
    compared = recorder.compared()
    return samples.figures(file, writer.sha256, timeline, comparison, compared.figures), compared.spots


def _write_plan_layer(
    plan_layer: PlanLayer,
    timeline: PlannedTimeline,
    machine: Machine,
    options: Interpretation,
    dialect: CsvDialect,
    out: Path,
    file: str,
) -> PlannedLayerFile:
    samples = count_sum = 0
    with CsvWriter(out / file, dialect) as writer:
        for chunk in planned_samples(timeline, machine.record, options.dose_dividing_factor):
            writer.append(chunk.time_ms, chunk.positions_mm, chunk.counts)
            samples += len(chunk.counts)
            count_sum += int(chunk.counts.sum())
    return PlannedLayerFile(
        number=plan_layer.number,
        file=file,
        sha256=writer.sha256,
        samples=samples,
        count_sum=count_sum,
        timeline=timeline.source,
    )
