"""The interpreted CSVs as spots: every sample with counts is one spot, weighted in protons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mqi_dagster.embedded_engine.bdl import require_covered
from mqi_dagster.engine_contract.beam_model import EngineBeamModel
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.plan.model import PlanBeam

Floats = NDArray[np.float64]

_NAME = re.compile(r"(\d+)_(\d+(?:\.\d+)?)MeV\.csv")
_NAME_ROUNDING_MEV = 0.0051
_ROW = {"time_ms": pl.Float64, "x_mm": pl.Float64, "y_mm": pl.Float64, "count": pl.Int64}


@dataclass(frozen=True, slots=True)
class SpotLayer:
    """The delivered spots of one energy layer."""

    number: int
    energy_mev: float
    positions_mm: Floats
    """Shape (n, 2): x, y at the isocentre plane [mm]."""
    protons: Floats
    """Shape (n,): protons of each spot, all above zero."""


def read_layers(folder: Path, beam: PlanBeam, model: EngineBeamModel) -> list[SpotLayer]:
    """Read the one folder of CSVs below ``folder``.

    Rows (``time,x,y,count``) and moqui's flat dialect (all samples in one line) are both understood.

    Args:
        folder: The folder that holds one folder per field.
        beam: The plan's beam; gives the exact energy, which the file name rounds.
        model: Protons per count.

    Returns:
        The layers that have counts, in the order of their numbers.

    Raises:
        EngineInputError: Not exactly one folder, a file that is no layer of the beam, an energy outside the
            beam model, a count that is no integer or negative, or no counts at all.
    """
    files = _layer_files(folder)
    planned = {layer.number: layer.energy_mev for layer in beam.layers}
    layers: list[SpotLayer] = []
    for number, (path, named_mev) in sorted(files.items()):
        where = Where(layer=number, kind="interpreted CSV")
        energy = planned.get(number)
        if energy is None:
            raise EngineInputError("the beam has no layer of this number", where=where)
        if abs(energy - named_mev) > _NAME_ROUNDING_MEV:
            raise EngineInputError(f"{named_mev:g} MeV in the name, {energy:g} MeV in the plan", where=where)
        require_covered(model.tables, [energy])
        positions, counts = _read_samples(path, where)
        on = counts > 0
        if on.any():
            protons = counts[on].astype(np.float64) * model.protons_per_written_count(energy)
            layers.append(SpotLayer(number, energy, positions[on], protons))
    if not layers:
        raise EngineInputError("the beam has no counts", where=Where(kind="interpreted CSV"))
    return layers


def _layer_files(folder: Path) -> dict[int, tuple[Path, float]]:
    where = Where(kind="interpreted CSV")
    fields = [entry for entry in _entries(folder, where) if entry.is_dir()]
    if len(fields) != 1:
        raise EngineInputError(f"{len(fields)} folders of CSVs instead of one", where=where)
    files: dict[int, tuple[Path, float]] = {}
    for path in _entries(fields[0], where):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise EngineInputError("a file is not named like a layer (01_150.00MeV.csv)", where=where)
        number = int(match[1])
        if number in files:
            raise EngineInputError("two files of one layer", where=Where(layer=number, kind=where.kind))
        files[number] = (path, float(match[2]))
    return files


def _entries(folder: Path, where: Where) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError as error:
        raise EngineInputError(f"the folder cannot be read: {error.strerror}", where=where) from error


def _read_samples(path: Path, where: Where) -> tuple[Floats, NDArray[np.int64]]:
    """Positions, shape (n, 2) [mm], and counts, shape (n,)."""
    try:
        with path.open("rb") as stream:
            tokens = stream.readline().count(b",") + 1
            more = bool(stream.read(1))
        if tokens == 4:
            frame = pl.read_csv(path, has_header=False, new_columns=list(_ROW), schema=pl.Schema(_ROW))
            if any(frame.null_count().row(0)):
                raise EngineInputError(
                    "a row is shorter than four values, or one of them is missing", where=where
                )
            columns = [frame[name].to_numpy() for name in _ROW]
        else:
            if more or tokens % 4:
                raise EngineInputError("neither rows of four values nor one flat line", where=where)
            columns = _flat(path.read_bytes())
    except OSError as error:
        raise EngineInputError(f"cannot be read: {error.strerror}", where=where) from error
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise EngineInputError("a value is no number, or a count no integer", where=where) from error
    positions = np.column_stack(columns[1:3]).astype(np.float64)
    counts = columns[3].astype(np.int64)
    if not np.isfinite(positions).all():
        raise EngineInputError("a position is not finite", where=where)
    if (counts < 0).any():
        raise EngineInputError("a count is negative", where=where)
    return positions, counts


def _flat(content: bytes) -> list[NDArray[np.float64]]:
    values = np.array(content.strip().split(b","), dtype=np.float64).reshape(-1, 4)
    if (values[:, 3] != np.rint(values[:, 3])).any():
        raise ValueError("a count is no integer")
    return list(values.T)
