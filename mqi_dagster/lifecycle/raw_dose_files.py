"""The published raw dose: what the engine wrote, under neutral names, and a record of how to read it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from mqi_dagster.dose.grid import DoseGrid, DoseUnits, from_patient, from_phantom, plane_from_phantom
from mqi_dagster.engine_contract.job_view import JobView
from mqi_dagster.engine_contract.output import RawDose, ScoredDose
from mqi_dagster.resources.composed import ParsedInputs
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published

RECORD_FILE = "raw_dose.json"

Role = Literal["box", "plane"]


class ScoredFile(BaseModel):
    """One file of raw values: float64, little-endian, x fastest, then y, then z."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    """``box``: the 3-D dose; ``plane``: the plane of 2 cm mode."""
    file: str
    layers: int
    """Planes along z as written; those of a ``plane`` are averaged."""
    shape: tuple[int, int]
    """y, x."""
    origin_mm: tuple[float, float, float]
    """Centre of the first voxel (of the averaged plane), x, y, z."""
    spacing_mm: tuple[float, float, float]
    axes: Literal["phantom", "patient"]


class RawDoseRecord(BaseModel):
    """How a raw dose was made and how its files are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beam_name: str
    engine: str
    version: str
    seed: int
    histories: float
    protons: float
    """Protons of the delivered beam, which the dose stands for; relative where not commissioned."""
    particles_per_history: float
    dose_factor: float
    """Raw values times this are the dose of all ``protons``."""
    uncertainty_percent: float | None
    """Mean statistical uncertainty above half of the maximum dose."""
    commissioned: bool
    """Whether the dose is in Gy."""
    interpreted_csvs: str
    """Digest of the CSVs it was made from."""
    water_surface_mm: float | None
    """Engine z of the water surface in 2 cm mode; None in a patient, and where the whole box is water."""
    hu_table: str | None = None
    """Id of the HU table of a dose in a CT."""
    hu_calibrated: bool | None = None
    """Whether that table was measured at the scanner."""
    files: tuple[ScoredFile, ...]

    @property
    def hu_table_name(self) -> str:
        """The HU table for people."""
        if not any(entry.axes == "patient" for entry in self.files):
            return "none: water"
        if self.hu_table is None:
            return "the engine's own"
        return self.hu_table if self.hu_calibrated else f"{self.hu_table} (typical, not of this scanner)"

    @property
    def surface_mm(self) -> float | None:
        """Engine z at which the beam enters the water; None in a patient.

        Without 2 cm mode the phantom is water from edge to edge, so its surface is the upper edge of the box.
        """
        if self.water_surface_mm is not None:
            return self.water_surface_mm
        for entry in self.files:
            if entry.role == "box" and entry.axes == "phantom":
                return entry.origin_mm[2] + (entry.layers - 0.5) * entry.spacing_mm[2]
        return None


def copy_files(
    view: JobView, fetched: dict[str, Path], dose: RawDose, target: Path
) -> tuple[ScoredFile, ...]:
    """Copy the engine's raw files beside their record and describe them.

    Args:
        view: What was asked of the engine.
        fetched: Local paths of the outputs by their name in ``view.outputs``.
        dose: The checked output.
        target: Folder to copy to.
    """
    files = []
    scored: list[tuple[Role, str | None, ScoredDose | None]] = [
        ("box", view.box_stem, dose.box),
        ("plane", view.plane_stem, dose.plane),
    ]
    for role, stem, output in scored:
        if stem is None or output is None:
            continue
        source = next(path for name, path in fetched.items() if name.endswith(f"/{stem}.raw"))
        name = f"{role}.raw"
        shutil.copyfile(source, target / name)
        _, ny, nx = output.values.shape
        files.append(
            ScoredFile(
                role=role,
                file=name,
                layers=source.stat().st_size // (8 * nx * ny),
                shape=(ny, nx),
                origin_mm=output.grid.origin_mm,
                spacing_mm=output.grid.spacing_mm,
                axes=output.grid.axes,
            )
        )
    return tuple(files)


def read_record(published: Published) -> RawDoseRecord:
    """The record of a published raw dose."""
    return RawDoseRecord.model_validate_json(published.path(RECORD_FILE).read_bytes())


def read_raw_dose(published: Published, parsed: ParsedInputs) -> tuple[RawDoseRecord, dict[Role, DoseGrid]]:
    """A published raw dose, verified by the caller, as grids in DICOM axes, scaled to all its protons.

    Args:
        published: The raw dose.
        parsed: What the run has parsed already, which is taken out: grids are large.
    """
    record = read_record(published)
    content = digest_of(files=published.content_digests())
    known = parsed.doses.pop(content, None)
    if known is not None:
        return record, {entry.role: known[entry.role] for entry in record.files}
    return record, {entry.role: _grid(published, record, entry) for entry in record.files}


def keep_raw_dose(published: Published, grids: Mapping[Role, DoseGrid], parsed: ParsedInputs) -> None:
    """Leave the grids of a raw dose for the next step of the run that reads it."""
    parsed.doses[digest_of(files=published.content_digests())] = dict(grids.items())


def _grid(published: Published, record: RawDoseRecord, entry: ScoredFile) -> DoseGrid:
    units = DoseUnits.GY if record.commissioned else DoseUnits.RELATIVE
    values = np.fromfile(published.path(entry.file), dtype="<f8").reshape(entry.layers, *entry.shape)
    values *= record.dose_factor
    if entry.axes == "patient":
        return from_patient(values, entry.origin_mm, entry.spacing_mm, units)
    if entry.role == "plane":
        plane = values.mean(axis=0, keepdims=True)
        return plane_from_phantom(plane, entry.origin_mm, entry.spacing_mm, units)
    return from_phantom(values, entry.origin_mm, entry.spacing_mm, units)
