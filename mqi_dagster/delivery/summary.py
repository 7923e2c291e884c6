"""What was interpreted: the figures of each layer and of the beam, kept beside the CSVs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.csv_writing import beam_folder
from mqi_dagster.delivery.manifest import BeamEntry, ManifestPart, Sha256
from mqi_dagster.errors import InfrastructureError, StoreError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.machine import Machine
from mqi_dagster.settings import CsvDialect, Interpretation, Samples

SUMMARY_NAME = "summary.json"
SPOTS_NAME = "spots.parquet"
"""Delivered against planned, one row a spot."""

_WHERE = Where(kind="interpretation summary")


class TimelineSource(StrEnum):
    """Where the planned timeline of a layer comes from."""

    MACHINE_PLAN = "machine plan"
    TIMING_MODEL = "timing model"


class InterpretedLayer(ManifestPart):
    """The figures of one layer."""

    number: int
    """LAYER_NO."""
    energy_mev: float
    file: str
    """The log CSV relative to the interpretation's folder."""
    sha256: Sha256
    rows: int
    """Samples in the records of all parts."""
    beam_on_samples: int
    samples: int
    """Samples that were taken: the beam-on ones, or all, by setting."""
    count_sum: int
    """Sum of the counts as they stand in the CSV, after the dividing factor."""
    raw_dose1_sum: int
    """Monitor 1 over the beam-on samples, as recorded: in counts of the parts' own range codes."""
    raw_dose2_sum: int
    delivered_mu: float
    """Beam-on monitor units of all parts."""
    planned_mu: float
    ratio: float | None
    """Delivered over planned MU; null where nothing was planned."""
    range_codes: tuple[int, ...]
    """One of each part."""
    timeline: TimelineSource | None
    """Null where a site's own command wrote the CSVs and the plan was not at hand."""
    position_difference_mm: tuple[float, float] | None
    """MU-weighted mean of delivered - planned x, y on the planned timeline; see `planned_timeline`."""
    compared_samples: int
    """Samples behind ``position_difference_mm``."""
    delivery: LayerComparison | None = None
    """Delivered against planned; null where it was not compared: an interpretation of earlier code."""


class PlannedLayerFile(ManifestPart):
    """The plan CSV of one layer."""

    number: int
    file: str
    sha256: Sha256
    samples: int
    count_sum: int
    timeline: TimelineSource | None
    """Null where a site's own command wrote it."""


class InterpretedBeam(ManifestPart):
    """The figures of one beam; `summary.json`."""

    number: int
    """DICOM BeamNumber."""
    name: str
    folder: str
    """The beam's folder below `log/` and `plan_csv/`."""
    machine_id: str
    dialect: CsvDialect
    selection: Samples
    """Which samples were taken."""
    mu_per_count: float
    """Monitor units of one count of dose monitor 1 in range code 2."""
    dose_dividing_factor: float
    complete: bool
    """Whether every planned layer was delivered."""
    layers: tuple[InterpretedLayer, ...]
    count_sum: int
    delivered_mu: float
    planned_mu: float
    """Of the delivered layers."""
    ratio: float | None
    position_difference_mm: tuple[float, float] | None
    """Mean of the layers' differences, weighted by delivered MU."""
    plan_files: tuple[PlannedLayerFile, ...] = ()
    aperture_files: tuple[str, ...] = ()
    """Block and MLC of machines that have them, relative to the interpretation's folder."""

    @property
    def compared(self) -> tuple[LayerComparison, ...] | None:
        """Delivered against planned of every layer; None where one was not compared."""
        found = tuple(layer.delivery for layer in self.layers if layer.delivery is not None)
        return found if len(found) == len(self.layers) else None


def interpreted_beam(
    entry: BeamEntry,
    machine: Machine,
    options: Interpretation,
    dialect: CsvDialect,
    layers: tuple[InterpretedLayer, ...],
    *,
    plan_files: tuple[PlannedLayerFile, ...] = (),
    aperture_files: tuple[str, ...] = (),
) -> InterpretedBeam:
    """The summary of a beam from those of its layers."""
    delivered = sum(layer.delivered_mu for layer in layers)
    planned = sum(layer.planned_mu for layer in layers)
    located = [
        (layer.delivered_mu, layer.position_difference_mm)
        for layer in layers
        if layer.position_difference_mm is not None
    ]
    weight = sum(mu for mu, _ in located)
    difference = None
    if weight > 0:
        difference = (
            sum(mu * xy[0] for mu, xy in located) / weight,
            sum(mu * xy[1] for mu, xy in located) / weight,
        )
    return InterpretedBeam(
        number=entry.number,
        name=entry.name,
        folder=beam_folder(entry.name),
        machine_id=machine.id,
        dialect=dialect,
        selection=options.samples,
        mu_per_count=machine.record.mu_per_count,
        dose_dividing_factor=options.dose_dividing_factor,
        complete=entry.complete,
        layers=layers,
        count_sum=sum(layer.count_sum for layer in layers),
        delivered_mu=delivered,
        planned_mu=planned,
        ratio=delivered / planned if planned > 0 else None,
        position_difference_mm=difference,
        plan_files=plan_files,
        aperture_files=aperture_files,
    )


def write_spots(out: Path, tables: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
    """Write the layers' tables of spots as one.

    Raises:
        InfrastructureError: The disk did not take it.
    """
    if not tables:
        return
    import polars as pl  # here: `mqi case check` compares and writes no table

    frames = [pl.DataFrame(table).with_columns(pl.col("dx_mm", "dy_mm").fill_nan(None)) for table in tables]
    try:
        out.mkdir(parents=True, exist_ok=True)
        pl.concat(frames).write_parquet(out / SPOTS_NAME)
    except OSError as error:
        raise InfrastructureError(f"cannot be written: {error.strerror}", where=_WHERE) from error


def write_summary(out: Path, beam: InterpretedBeam) -> None:
    """Write ``summary.json`` into the interpretation's folder, complete or not at all.

    Raises:
        InfrastructureError: The disk did not take it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / SUMMARY_NAME, f"{beam.model_dump_json(indent=2)}\n".encode())
    except OSError as error:
        raise InfrastructureError(f"cannot be written: {error.strerror}", where=_WHERE) from error


def read_summary(path: Path) -> InterpretedBeam:
    """Read a ``summary.json``, given itself or its folder.

    Raises:
        StoreError: It is not there or is no summary.
    """
    file = path / SUMMARY_NAME if path.is_dir() else path
    try:
        return InterpretedBeam.model_validate_json(file.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=_WHERE) from error
    except ValidationError as error:
        keys = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors())
        raise StoreError(f"does not have the expected content ({keys or 'no JSON'})", where=_WHERE) from error
