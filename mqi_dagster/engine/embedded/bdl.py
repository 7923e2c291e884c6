"""The beam data library: MCsquare's description of the beam at the nozzle's exit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mqi_dagster.errors import EngineInputError
from mqi_dagster.machine import BeamModel, EnergyTable

CORRELATION = 1e-3
"""Never 0: MCsquare divides 0 by 0 then and every proton starts outside the geometry, with exit code 0."""

RANGE_SHIFTER_ID = "RS"
_PMMA = 64
_PMMA_DENSITY = 1.19
_COLUMNS = (
    "NominalEnergy MeanEnergy EnergySpread ProtonsMU Weight1 SpotSize1x Divergence1x Correlation1x"
    " SpotSize1y Divergence1y Correlation1y Weight2 SpotSize2x Divergence2x Correlation2x"
    " SpotSize2y Divergence2y Correlation2y"
)


@dataclass(frozen=True, slots=True)
class RangeShifterInBeam:
    """A range shifter as MCsquare places it."""

    water_equivalent_thickness_mm: float
    isocenter_distance_mm: float
    """From the isocentre to the side that faces the patient [mm]."""


def spot_at_nozzle_mm(sigma_isocenter_mm: float, angular_spread_rad: float, distance_mm: float) -> float:
    """Spot size at the nozzle that drifts to the given size at the isocentre.

    Without correlation the Fermi-Eyges moments of a drift D give sigma_iso^2 = sigma_nozzle^2 + (theta D)^2.

    Args:
        sigma_isocenter_mm: One standard deviation at the isocentre in air [mm].
        angular_spread_rad: One standard deviation of the direction [rad].
        distance_mm: Nozzle to isocentre [mm].

    Raises:
        EngineInputError: The divergence alone is wider than the spot at the isocentre.
    """
    square = sigma_isocenter_mm**2 - (angular_spread_rad * distance_mm) ** 2
    if square <= 0:
        raise EngineInputError(
            f"beam model: an angular spread of {angular_spread_rad:g} rad over {distance_mm:g} mm"
            f" is wider than the spot of {sigma_isocenter_mm:g} mm at the isocentre"
        )
    return math.sqrt(square)


def render_bdl(
    model: BeamModel,
    sad_mm: tuple[float, float],
    energies_mev: Sequence[float],
    shifter: RangeShifterInBeam | None,
) -> str:
    """The library with one row for each energy that is used, so that MCsquare interpolates nothing.

    Protons per MU is 1: the plan file carries protons.

    Args:
        model: The machine's beam model.
        sad_mm: Virtual source-axis distances in x and y [mm].
        energies_mev: Nominal energies of the layers.
        shifter: The range shifter in the beam.

    Raises:
        EngineInputError: An energy lies outside a table of the beam model (MCsquare would extrapolate in
            silence), or the model has no positive spot size, spread or divergence there.
    """
    lines = ["--UPenn beam model (double gaussian)--", ""]
    for title, value in (
        ("Nozzle exit to Isocenter distance", model.nozzle_to_isocenter_mm),
        ("SMX to Isocenter distance", sad_mm[0]),
        ("SMY to Isocenter distance", sad_mm[1]),
    ):
        lines += [title, f"{value:.6f}", ""]
    if shifter is not None:
        lines += ["Range Shifter parameters", f"RS_ID = {RANGE_SHIFTER_ID}", "RS_type = binary"]
        lines += [f"RS_material = {_PMMA}", f"RS_density = {_PMMA_DENSITY}"]
        lines += [f"RS_WET = {shifter.water_equivalent_thickness_mm:.6f}", ""]
    rows = [_row(model, energy) for energy in sorted(set(energies_mev))]
    # MCsquare always looks at a pair of rows; the last one is never reached.
    rows.append((rows[-1][0] + 1.0, rows[-1][1] + 1.0, *rows[-1][2:]))
    lines += ["Beam parameters", f"{len(rows)} energies", "", _COLUMNS]
    for nominal, mean, spread_percent, sigma, divergence in rows:
        spot = f"{sigma:.6f} {divergence:.9f} {CORRELATION:g} {sigma:.6f} {divergence:.9f} {CORRELATION:g}"
        lines.append(f"{nominal:.6f} {mean:.6f} {spread_percent:.6f} 1.0 1.0 {spot} 0.0 {spot}")
    return "\n".join(lines) + "\n"


def require_covered(model: BeamModel, energies_mev: Sequence[float]) -> None:
    """Refuse energies that a table of the beam model does not cover.

    Raises:
        EngineInputError: Names the energy and the table.
    """
    tables: dict[str, EnergyTable] = {
        "mean_energy_mev": model.mean_energy_mev,
        "energy_spread_mev": model.energy_spread_mev,
        "spot_sigma_mm": model.spot_sigma_mm,
        "angular_spread_rad": model.angular_spread_rad,
        "protons_per_mu": model.protons_per_mu,
    }
    for name, table in tables.items():
        for energy in energies_mev:
            if not table.covers(energy):
                raise EngineInputError(
                    f"energy {energy:g} MeV lies outside {name} of the beam model"
                    f" ({table.energy_mev[0]:g} to {table.energy_mev[-1]:g} MeV)"
                )


def _row(model: BeamModel, energy: float) -> tuple[float, float, float, float, float]:
    require_covered(model, [energy])
    divergence = model.angular_spread_rad.at(energy)
    spread = model.energy_spread_mev.at(energy)
    mean = model.mean_energy_mev.at(energy)
    sigma = model.spot_sigma_mm.at(energy)
    if divergence <= 0 or spread < 0 or mean <= 0 or sigma <= 0:
        raise EngineInputError(f"beam model: not a positive spot, spread or energy at {energy:g} MeV")
    nozzle = spot_at_nozzle_mm(sigma, divergence, model.nozzle_to_isocenter_mm)
    return energy, mean, 100.0 * spread / energy, nozzle, divergence
