"""What an engine left behind: opened, checked, scaled. Only this makes a simulation a success.

Raw files hold float64, little-endian, x fastest, then y, then z. An ``.mhd`` header, where the engine writes
one, has moqui's form: some lines without "=", and an Offset that is the lower edge of the grid, not the
centre of its first voxel (docs/formats.md 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.engine_contract.histories import MAXIMUM_LOSS
from mqi_dagster.engine_contract.job_view import OUTPUT_FOLDER, JobView
from mqi_dagster.engine_contract.tps_keys import TpsFile
from mqi_dagster.errors import EngineError, Where
from mqi_dagster.settings import EngineProfile

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]
Shape = tuple[int, int, int]

_PLANE_THICKNESS_MM = 2.0
"""Of moqui's slab around z = 0, 20 mm below the surface; the embedded engine's is one voxel thick."""

_PLANE_LAYERS = (1, 3)
"""Forks of moqui score the slab as one layer, or as three that are averaged here."""

_UPRIGHT = "1 0 0 0 1 0 0 0 1"

_EDGE_TOLERANCE_MM = 1e-3
"""moqui prints a header's numbers with six digits."""


@dataclass(frozen=True, slots=True)
class EngineGrid:
    """Where the voxels of an output are."""

    origin_mm: Vector
    """Centre of the first voxel, x, y, z [mm]."""
    spacing_mm: Vector
    """x, y, z [mm]."""
    axes: Literal["phantom", "patient"]
    """``phantom``: engine frame, beam along -z, isocentre at the origin. ``patient``: DICOM axes."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredDose:
    """One output file: dose of all protons of the beam."""

    values: Floats
    """Shape (nz, ny, nx)."""
    grid: EngineGrid


@dataclass(frozen=True, slots=True, eq=False)
class RawDose:
    """The checked output of one beam, scaled to all of its protons."""

    box: ScoredDose | None
    """The 3-D dose, if the engine leaves one."""
    plane: ScoredDose | None
    """The plane of 2 cm mode, nz = 1."""
    histories: float
    """As the engine reported them; where it reports none, as they were asked for."""


@dataclass(frozen=True, slots=True)
class _Header:
    shape: Shape
    """x, y, z."""
    edge_mm: Vector
    spacing_mm: Vector


def read_output(
    view: JobView,
    profile: EngineProfile,
    started_ns: int,
    reported_histories: int | None,
    files: Mapping[str, Path] | None = None,
) -> RawDose:
    """Read and check the output of one beam.

    Args:
        view: What was asked.
        profile: The engine.
        started_ns: Modification times before this are of an earlier run (`job_view.mark_start`).
        reported_histories: ``Total histories`` of the log; None where it has none.
        files: Local paths of the outputs by their name in ``view.outputs``; in the view's folder if None.

    Raises:
        EngineError: An output is missing, old, of another beam, of a wrong size or grid, not finite, negative
            or zero everywhere, or the histories differ from the expected ones by more than 0.1 %.
    """
    where = Where(kind=f"output of beam {view.beam_name}")
    paths = files if files is not None else {name: view.directory / name for name in view.outputs}
    try:
        histories = _checked_histories(view, profile, reported_histories)
        for name in view.outputs:
            _require_fresh(view, paths.get(name), started_ns)
        box = plane = None
        if view.box_stem is not None:
            box = _scored(view, view.box_stem, paths, plane=False)
        if view.plane_stem is not None:
            plane = _scored(view, view.plane_stem, paths, plane=True)
    except EngineError as error:
        raise error.at(where) from error.__cause__
    except OSError as error:
        raise EngineError(f"the output cannot be read: {error.strerror}", where=where) from error
    return RawDose(box, plane, histories)


def _checked_histories(view: JobView, profile: EngineProfile, reported: int | None) -> float:
    if reported is None:
        if profile.reports_histories:
            raise EngineError("the engine did not report its histories")
        return view.expected_histories
    if reported == 0:
        raise EngineError("the engine simulated no history")
    difference = abs(reported - view.expected_histories) / view.expected_histories
    if difference > MAXIMUM_LOSS:
        raise EngineError(
            f"the engine simulated {reported} histories instead of {view.expected_histories:.0f}"
            f" ({100 * difference:.2f} % apart, at most {100 * MAXIMUM_LOSS:g} %)"
        )
    return float(reported)


def _require_fresh(view: JobView, path: Path | None, started_ns: int) -> None:
    if path is None or not path.is_file():
        own = {Path(name).name for name in view.outputs}
        if any(file.name not in own for file in (view.directory / OUTPUT_FOLDER).glob("*.raw")):
            raise EngineError("the engine left the dose of another beam or scorer instead of this one's")
        raise EngineError("the engine left no output")
    if path.stat().st_mtime_ns < started_ns:
        raise EngineError("the output is older than the start of the engine")


def _scored(view: JobView, stem: str, paths: Mapping[str, Path], *, plane: bool) -> ScoredDose:
    raw = paths[f"{OUTPUT_FOLDER}/{stem}.raw"]
    voxels, rest = divmod(raw.stat().st_size, 8)
    if rest or not voxels:
        raise EngineError("the raw dose is empty or ends within a value")
    expected = _expected_header(view.tps, voxels, plane=plane)
    if view.with_header:
        header = _read_header(paths[f"{OUTPUT_FOLDER}/{stem}.mhd"], raw.name)
        if expected is not None:
            _require_same_grid(header, expected, plane=plane)
    elif expected is not None:
        header = expected
    else:
        raise EngineError("the grid of a dose in a patient cannot be known without a header")
    nx, ny, nz = header.shape
    if voxels != nx * ny * nz:
        raise EngineError(f"the raw dose has {voxels} voxels, its grid has {nx} x {ny} x {nz}")
    values = np.fromfile(raw, dtype="<f8").reshape(nz, ny, nx).astype(np.float64, copy=False)
    _require_dose(values)
    values = values * view.dose_factor
    _require_dose(values)
    edge, spacing = header.edge_mm, header.spacing_mm
    if plane:
        if nz not in _PLANE_LAYERS:
            raise EngineError(f"the plane has {nz} layers of voxels, not 1 or 3")
        values = values.mean(axis=0, keepdims=True)
        spacing = (spacing[0], spacing[1], spacing[2] * nz)
    x, y, z = (low + step / 2 for low, step in zip(edge, spacing, strict=True))
    axes: Literal["phantom", "patient"] = "phantom" if view.tps.using_phantom_geo else "patient"
    return ScoredDose(values, EngineGrid((x, y, z), spacing, axes))


def _require_dose(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise EngineError("the dose holds values that are not finite")
    if values.min() < 0:
        raise EngineError("the dose holds negative values")
    if values.max() == 0:
        raise EngineError("the dose is zero everywhere")


def _expected_header(tps: TpsFile, voxels: int, *, plane: bool) -> _Header | None:
    """The grid that the TPS file asks for; None in a patient, where the engine chooses it."""
    if not tps.using_phantom_geo:
        return None
    nx, ny, nz = tps.phantom_dimension
    dx, dy, dz = tps.phantom_unit_mm
    x, y, z = tps.phantom_position_mm
    if not plane:
        return _Header((nx, ny, nz), (float(x), float(y), float(z)), (float(dx), float(dy), float(dz)))
    layers = voxels // (nx * ny)
    thickness = float(dz) if tps.beam_model_file is not None else _PLANE_THICKNESS_MM
    spacing = (float(dx), float(dy), thickness / max(layers, 1))
    return _Header((nx, ny, layers), (float(x), float(y), -thickness / 2), spacing)


def _require_same_grid(header: _Header, expected: _Header, *, plane: bool) -> None:
    numbers = (*header.edge_mm, *header.spacing_mm)
    wanted = (*expected.edge_mm, *expected.spacing_mm)
    same = np.allclose(numbers, wanted, rtol=0, atol=_EDGE_TOLERANCE_MM)
    if header.shape != expected.shape or not same:
        which = "plane" if plane else "dose"
        raise EngineError(f"the grid of the {which} is not the one of the TPS file")


def _read_header(path: Path, raw_name: str) -> _Header:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EngineError("the header of the dose is no text") from error
    fields: dict[str, str] = {}
    for line in text.splitlines():
        # moqui writes some keys without "=", so the key ends at the first blank or "=".
        key, _, value = line.replace("=", " ", 1).strip().partition(" ")
        fields[key] = value.strip()
    if fields.get("ElementType") != "MET_DOUBLE" or fields.get("NDims") != "3":
        raise EngineError("the header of the dose does not describe three axes of MET_DOUBLE")
    if fields.get("BinaryDataByteOrderMSB", "False") != "False" or fields.get("CompressedData") == "True":
        raise EngineError("the dose is big-endian or compressed")
    if fields.get("ElementDataFile") != raw_name:
        raise EngineError("the header belongs to another dose")
    if fields.get("TransformMatrix", _UPRIGHT).split() != _UPRIGHT.split():
        raise EngineError("the grid of the dose is rotated")
    try:
        nx, ny, nz = (int(part) for part in fields["DimSize"].split())
        x, y, z = (float(part) for part in fields["Offset"].split())
        dx, dy, dz = (float(part) for part in fields["ElementSpacing"].split())
    except (KeyError, ValueError) as error:
        raise EngineError("the header of the dose lacks DimSize, Offset or ElementSpacing") from error
    if min(nx, ny, nz) < 1 or not min(dx, dy, dz) > 0 or not np.isfinite((x, y, z, dx, dy, dz)).all():
        raise EngineError("the header of the dose describes no grid")
    return _Header((nx, ny, nz), (x, y, z), (dx, dy, dz))
