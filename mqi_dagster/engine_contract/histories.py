"""How many protons a beam has, how many histories stand for them, and what an engine's integers lose.

An engine is asked for ``ParticlesPerHistory`` p and simulates N * p * K(E) histories for a count of N
(docs/physics.md 5). moqui and its forks do this sample by sample in integers, ``int(int(N * p) * K)``, which
loses 11 to 30 % of the protons at p = 0.001; a loss above 0.1 % in any layer is never accepted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.delivery.summary import InterpretedLayer
from mqi_dagster.errors import ConfigurationError, EngineInputError, Where
from mqi_dagster.machine import Machine
from mqi_dagster.settings import CsvDialect, EngineProfile

MAXIMUM_LOSS = 1e-3
"""Greatest share of a layer's protons that integer arithmetic may lose, and of histories that may differ."""

_COLUMNS = 4
"""time, x, y, count."""


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """What is asked of an engine, and what its answer has to be."""

    protons: float
    """Protons of the delivered beam: sum of N * D * K(E)."""
    particles_per_history: float
    expected_histories: float
    dose_factor: float
    """Raw values times this are the dose of all ``protons``."""


def simulates_in_integers(profile: EngineProfile) -> bool:
    """Whether the engine cuts counts to integers: the moqui family, known by its squared scaling."""
    return profile.histories_scale_power == 2


def written_protons(layers: Sequence[InterpretedLayer], machine: Machine) -> float:
    """Sum of N * K(E) over the layers, with the counts N as they stand in the CSVs.

    Raises:
        EngineInputError: The beam has no counts, or an energy lies outside the beam model.
    """
    total = sum(layer.count_sum * _protons_per_count(layer, machine) for layer in layers)
    if not total > 0:
        raise EngineInputError("the beam has no counts to simulate", where=Where(kind="interpreted CSVs"))
    return total


def _protons_per_count(layer: InterpretedLayer, machine: Machine) -> float:
    try:
        return machine.protons_per_count(layer.energy_mev)
    except ConfigurationError as error:
        raise EngineInputError(error.message, where=Where(layer=layer.number, kind="beam model")) from error


def truncated_histories(
    counts: NDArray[np.int64], particles_per_history: float, protons_per_count: float
) -> int:
    """Histories that moqui makes of one layer's samples: the sum of int(int(N * p) * K)."""
    cut = np.floor(counts * particles_per_history)
    return int(np.floor(cut * protons_per_count).sum())


def request_histories(
    layers: Sequence[InterpretedLayer],
    machine: Machine,
    profile: EngineProfile,
    *,
    histories: float,
    counts_divided_by: float,
    counts_of: Callable[[int], NDArray[np.int64]],
) -> HistoryRequest:
    """Choose ParticlesPerHistory for a beam.

    It is ``histories`` over the protons. For an engine that simulates in integers it is 1 instead, if the
    wanted one would lose more than 0.1 % of a layer. An engine that reads our beam model multiplies the
    counts by D itself; for any other the dose is multiplied afterwards.

    Args:
        layers: The interpreted layers.
        machine: The beam's machine.
        profile: The engine.
        histories: Wanted histories of the beam.
        counts_divided_by: D, the dividing factor of the CSVs.
        counts_of: The samples' counts of a layer by its number; called for integer engines only.

    Raises:
        EngineInputError: No counts, an energy outside the beam model, or a loss that cannot be avoided.
    """
    written = written_protons(layers, machine)
    protons = written * counts_divided_by
    if profile.reads_beam_model:
        ratio = histories / protons
        return HistoryRequest(protons, ratio, histories, 1.0 / ratio**profile.histories_scale_power)
    wanted = histories / written
    if not simulates_in_integers(profile):
        factor = counts_divided_by / wanted**profile.histories_scale_power
        return HistoryRequest(protons, wanted, histories, factor)
    counts = {layer.number: counts_of(layer.number) for layer in layers}
    for ratio in (wanted, 1.0):
        made, worst, loss = _simulated(layers, machine, counts, ratio)
        if loss <= MAXIMUM_LOSS:
            factor = counts_divided_by / ratio**profile.histories_scale_power
            return HistoryRequest(protons, ratio, float(made), factor)
    raise EngineInputError(
        f"the engine's integers lose {100 * loss:.2f} % of the protons even with ParticlesPerHistory 1:"
        " lower interpretation.dose_dividing_factor",
        where=Where(layer=worst, kind="interpreted CSVs"),
    )


def _simulated(
    layers: Sequence[InterpretedLayer], machine: Machine, counts: dict[int, NDArray[np.int64]], ratio: float
) -> tuple[int, int, float]:
    total, worst, greatest = 0, layers[0].number, 0.0
    for layer in layers:
        factor = _protons_per_count(layer, machine)
        made = truncated_histories(counts[layer.number], ratio, factor)
        asked = float(counts[layer.number].sum()) * ratio * factor
        loss = 1.0 - made / asked if asked > 0 else 0.0
        if loss > greatest:
            worst, greatest = layer.number, loss
        total += made
    return total, worst, greatest


def read_counts(path: Path, dialect: CsvDialect) -> NDArray[np.int64]:
    """The counts of a layer's CSV, one per sample, as an engine of this dialect reads them.

    Raises:
        EngineInputError: The file is not in this dialect: a row too short or long, or a count that is no
            integer.
    """
    where = Where(kind="interpreted CSV")
    content = path.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n")
    if dialect is CsvDialect.FLAT:
        if b"\n" in content:
            raise EngineInputError("the engine reads one line of samples, the CSV has several", where=where)
        tokens = content.split(b",")
        if len(tokens) % _COLUMNS:
            raise EngineInputError("the CSV ends within a sample", where=where)
        texts = tokens[_COLUMNS - 1 :: _COLUMNS]
    else:
        rows = [row.split(b",") for row in content.split(b"\n")]
        if any(len(row) != _COLUMNS for row in rows):
            raise EngineInputError(f"a row of the CSV has not {_COLUMNS} columns", where=where)
        texts = [row[-1] for row in rows]
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except ValueError as error:
        raise EngineInputError("a count of the CSV is no integer", where=where) from error
