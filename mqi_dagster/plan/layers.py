"""The energy layers of a beam from its control points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from mqi_dagster.plan.elements import integer, items, number, optional_integer, optional_number, refuse, text
from mqi_dagster.plan.model import PlanLayer
from mqi_dagster.plan.spot_maps import read_spot_map

METERSET_STEP_MU = 0.1
"""MOSAIQ rounds BeamMeterset to this step and leaves the weights in unrounded monitor units."""
WEIGHT_AGREEMENT = 1e-3
"""Largest relative difference between the last cumulative weight and the final one."""


def control_points(beam: Dataset, number_of_beam: int) -> list[Dataset]:
    """The control points in the order of their index.

    Raises:
        PlanError: There are fewer than two, or their count or indices contradict each other.
    """
    points = list(items(beam, "IonControlPointSequence"))
    count = optional_integer(beam, "NumberOfControlPoints", number_of_beam)
    if count is not None and count != len(points):
        refuse(f"says {count} control points, but has {len(points)}", number_of_beam)
    if len(points) < 2:
        refuse("has fewer than two control points", number_of_beam)
    by_index = {integer(point, "ControlPointIndex", number_of_beam): point for point in points}
    if sorted(by_index) != list(range(len(points))):
        refuse("has control points whose indices do not count up from 0", number_of_beam)
    return [by_index[index] for index in range(len(points))]


def meterset_mu(beam_meterset: float, final_weight: float) -> float:
    """Monitor units that the final cumulative weight stands for.

    BeamMeterset, except where it is the final weight rounded to a tenth of a monitor unit, as MOSAIQ
    exports it (53.400 for 53.362): then the weights are the monitor units.
    """
    steps = beam_meterset / METERSET_STEP_MU
    rounded = abs(steps - round(steps)) < 1e-6
    if rounded and abs(beam_meterset - final_weight) <= METERSET_STEP_MU / 2 + 1e-9:
        return final_weight
    return beam_meterset


def read_layers(
    beam: Dataset, points: Sequence[Dataset], number_of_beam: int, beam_meterset: float
) -> tuple[PlanLayer, ...]:
    """Every control point after which the meterset rises, as a layer, numbered from 1 in their order.

    Args:
        beam: Item of the Ion Beam Sequence.
        points: Its control points in the order of their index.
        number_of_beam: BeamNumber.
        beam_meterset: BeamMeterset of the fraction group [MU].

    Raises:
        PlanError: Energies, weights or spots are missing or contradict each other.
    """
    cumulative = [number(point, "CumulativeMetersetWeight", number_of_beam) for point in points]
    final = number(beam, "FinalCumulativeMetersetWeight", number_of_beam)
    if cumulative[0] != 0:
        refuse("its first cumulative meterset weight is not 0", number_of_beam)
    if any(after < before for before, after in itertools.pairwise(cumulative)):
        refuse("its cumulative meterset weight falls", number_of_beam)
    if final <= 0 or beam_meterset <= 0:
        refuse("has no meterset", number_of_beam)
    if abs(cumulative[-1] - final) > WEIGHT_AGREEMENT * final:
        refuse("its last cumulative meterset weight is not the final one", number_of_beam)
    mu_per_weight = meterset_mu(beam_meterset, final) / final

    layers: list[PlanLayer] = []
    energy: float | None = None
    for index, point in enumerate(points):
        unit = text(point, "NominalBeamEnergyUnit")
        if unit not in ("", "MEV"):
            refuse(f"its energy is given in {unit}, not in MEV", number_of_beam)
        given = optional_number(point, "NominalBeamEnergy", number_of_beam)
        energy = energy if given is None else given
        if index + 1 < len(points) and cumulative[index + 1] > cumulative[index]:
            layer = len(layers) + 1
            if energy is None or energy <= 0:
                refuse("has no energy", number_of_beam, layer)
            layer_mu = (cumulative[index + 1] - cumulative[index]) * mu_per_weight
            layers.append(_read_layer(point, number_of_beam, layer, index, energy, layer_mu))
    return tuple(layers)


def _read_layer(
    point: Dataset, beam: int, layer: int, index: int, energy_mev: float, layer_mu: float
) -> PlanLayer:
    spots = read_spot_map(point, beam, layer)
    if spots is None or not len(spots.weights):
        refuse("has monitor units but no spots", beam, layer)
    if (spots.weights < 0).any():
        refuse("has a spot with a negative weight", beam, layer)
    total = spots.weights.sum()
    if total <= 0:
        refuse("has monitor units, but the weights of its spots are all zero", beam, layer)
    return PlanLayer(
        number=layer,
        control_point_index=index,
        energy_mev=energy_mev,
        meterset_mu=layer_mu,
        positions_mm=spots.positions_mm,
        spot_mu=np.asarray(spots.weights / total * layer_mu),
    )
