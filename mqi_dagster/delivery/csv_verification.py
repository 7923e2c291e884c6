"""Checks of an interpretation as it lies on the disk, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mqi_dagster.delivery.comparison import ComparedLayer, LayerRecorder
from mqi_dagster.delivery.csv_reading import CsvFacts, csv_facts
from mqi_dagster.delivery.csv_writing import beam_folder
from mqi_dagster.delivery.layer_samples import LayerSamples
from mqi_dagster.delivery.manifest import BeamEntry
from mqi_dagster.delivery.planned_timeline import PositionComparison, planned_timeline
from mqi_dagster.delivery.summary import (
    SUMMARY_NAME,
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
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.settings import CsvDialect, Interpretation

_LOST_SHARE = 1e-3
"""Greatest difference between the sum of a CSV's counts and what it stands for (docs/physics.md 5)."""
_DEVICE = re.compile(r".*_(aperture(_\d+)?|mlc)\.csv")
_NAME = re.compile(r"(\d+)_(\d+\.\d\d)MeV\.csv")


def verify_interpreted(
    out: Path,
    entry: BeamEntry,
    machine: Machine,
    options: Interpretation,
    *,
    dialect: CsvDialect | None = None,
    plan_beam: PlanBeam | None = None,
) -> InterpretedBeam:
    """Check an interpretation against the records it was made from.

    Every delivered layer has exactly one CSV, whose name carries its energy and sorts in the order of
    layers; every sample parses, with a whole, non-negative count; the counts add up to the record's within
    0.1 %. A ``summary.json`` must agree with what was found; where there is none (a site's own command
    wrote the CSVs), it is written. With the plan's beam, delivered is compared with planned here, from the
    records, and the summary says what was found.

    Args:
        out: Folder of the interpretation.
        entry: The beam in the case's manifest.
        machine: The machine that delivered it.
        options: The interpretation's settings.
        dialect: The dialect the CSVs must have; any single one where None.
        plan_beam: The beam in the plan; without it nothing is compared, and a summary made here has no
            position differences.

    Returns:
        The summary.

    Raises:
        DeliveryError: A CSV is missing, surplus or damaged, its sum differs, or the summary does.
        StoreError: There is a ``summary.json`` that cannot be read.
        InfrastructureError: The summary cannot be written.
    """
    folder = beam_folder(entry.name)
    found = dialect
    layers = []
    compared: list[ComparedLayer] = []
    has_summary = (out / SUMMARY_NAME).exists()
    files = _files_by_layer(out / "log" / folder, "log", entry)
    for layer in entry.layers:
        comparison = recorder = None
        timeline = None
        if plan_beam is not None:
            timeline = planned_timeline(layer, plan_beam.layer(layer.number), machine, plan_beam.scan_mode)
            comparison = PositionComparison(timeline)
            recorder = LayerRecorder(plan_beam.layer(layer.number), timeline, machine)
        samples = LayerSamples(layer, machine, options, comparison, recorder)
        for _ in samples.chunks():
            pass
        if recorder is not None:
            compared.append(recorder.compared())
        delivery = compared[-1].figures if recorder is not None else None
        name = files[layer.number]
        facts = _facts(out / "log" / folder / name, layer.number, samples.count_sum, found)
        found = facts.dialect
        figures = samples.figures(f"log/{folder}/{name}", facts.sha256, timeline, comparison, delivery)
        layers.append(figures.model_copy(update={"samples": facts.samples, "count_sum": facts.count_sum}))
    plan_files = _plan_files(out, folder, entry, machine, options, found) if options.plan_csv else ()
    rebuilt = interpreted_beam(
        entry, machine, options, found or CsvDialect.ROWS, tuple(layers), plan_files=plan_files
    )
    found_summary = read_summary(out) if has_summary else None
    if found_summary is not None:
        _check_agreement(found_summary, rebuilt)
    summary = found_summary or rebuilt
    if plan_beam is not None:
        summary = _with_comparison(summary, compared)
    if summary != found_summary:
        write_spots(out, [layer.spots for layer in compared])
        write_summary(out, summary)
    return summary


def _with_comparison(summary: InterpretedBeam, compared: Sequence[ComparedLayer]) -> InterpretedBeam:
    """The summary with delivered against planned as the records say it, whatever its writer compared."""
    by_number = {layer.figures.number: layer.figures for layer in compared}
    layers = (layer.model_copy(update={"delivery": by_number[layer.number]}) for layer in summary.layers)
    return summary.model_copy(update={"layers": tuple(layers)})


def _files_by_layer(folder: Path, role: str, entry: BeamEntry) -> dict[int, str]:
    """File names by layer number, complete and in order."""
    where = Where(kind=f"{role} CSV")
    energies = {layer.number: f"{layer.energy_mev:.2f}" for layer in entry.layers}
    files: dict[int, str] = {}
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".csv")
    except OSError as error:
        raise DeliveryError(f"the beam's folder cannot be read: {error.strerror}", where=where) from error
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            if role == "plan" and _DEVICE.fullmatch(name):
                continue
            raise DeliveryError("a file's name is not <layer>_<energy>MeV.csv", where=where)
        number, energy = int(match[1]), match[2]
        if number in files:
            raise DeliveryError("there are two files", where=Where(layer=number, kind=where.kind))
        if role == "log" and number not in energies:
            raise DeliveryError("the layer was not delivered", where=Where(layer=number, kind=where.kind))
        if number in energies and energy != energies[number]:
            raise DeliveryError(
                f"the name says {energy} MeV, the layer has {energies[number]}",
                where=Where(layer=number, kind=where.kind),
            )
        files[number] = name
    for number in energies:
        if number not in files:
            raise DeliveryError("there is no file", where=Where(layer=number, kind=where.kind))
    if list(files) != sorted(files):
        raise DeliveryError("the order of names is not the order of layers: zeros are missing", where=where)
    return files


def _facts(path: Path, number: int, expected: float, dialect: CsvDialect | None) -> CsvFacts:
    try:
        facts = csv_facts(path, dialect)
    except DeliveryError as error:
        raise error.at(Where(layer=number)) from error
    # Half a count of rounding is no loss, however small the layer.
    if abs(facts.count_sum - expected) > max(_LOST_SHARE * expected, 0.5):
        raise DeliveryError(
            f"the counts add up to {facts.count_sum}, expected {expected:.0f} within 0.1 %",
            where=Where(layer=number, kind="interpreted CSV", sha256=facts.sha256),
        )
    return facts


def _plan_files(
    out: Path,
    folder: str,
    entry: BeamEntry,
    machine: Machine,
    options: Interpretation,
    dialect: CsvDialect | None,
) -> tuple[PlannedLayerFile, ...]:
    files = _files_by_layer(out / "plan_csv" / folder, "plan", entry)
    per_mu = 1.0 / (machine.record.mu_per_count * options.dose_dividing_factor)
    found = []
    for layer in entry.layers:
        name = files[layer.number]
        facts = _facts(out / "plan_csv" / folder / name, layer.number, layer.planned_mu * per_mu, dialect)
        found.append(
            PlannedLayerFile(
                number=layer.number,
                file=f"plan_csv/{folder}/{name}",
                sha256=facts.sha256,
                samples=facts.samples,
                count_sum=facts.count_sum,
                timeline=None,
            )
        )
    return tuple(found)


def _check_agreement(summary: InterpretedBeam, found: InterpretedBeam) -> None:
    """A summary that says something else than the files beside it is worse than none."""
    about_beam = {
        "number", "name", "folder", "machine_id", "selection", "mu_per_count", "dose_dividing_factor",
        "complete", "count_sum", "delivered_mu", "planned_mu",
    }  # fmt: skip
    _compare(summary, found, about_beam, Where(kind="interpretation summary"))
    if len(summary.layers) != len(found.layers):
        raise DeliveryError(
            f"it has {len(summary.layers)} layers, {len(found.layers)} were delivered",
            where=Where(kind="interpretation summary"),
        )
    unseen = {"timeline", "position_difference_mm", "compared_samples", "delivery"}
    about_layer = set(InterpretedLayer.model_fields) - unseen
    for layer, seen in zip(summary.layers, found.layers, strict=True):
        _compare(layer, seen, about_layer, Where(layer=seen.number, kind="interpretation summary"))
    digests = {plan.number: plan.sha256 for plan in summary.plan_files}
    for plan in found.plan_files:
        if digests.get(plan.number) != plan.sha256:
            raise DeliveryError(
                "it disagrees with the plan CSV",
                where=Where(layer=plan.number, kind="interpretation summary"),
            )


def _compare(
    said: InterpretedBeam | InterpretedLayer,
    found: InterpretedBeam | InterpretedLayer,
    keys: set[str],
    where: Where,
) -> None:
    for key in sorted(keys):
        if getattr(said, key) != getattr(found, key):
            raise DeliveryError(f"{key} disagrees with the files", where=where)
