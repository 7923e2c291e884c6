"""The beam data library: MCsquare's description of the beam at the nozzle's exit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mqi_dagster.errors import EngineInputError
from mqi_dagster.machine import BeamModel, Spot, SpotPlane
from mqi_dagster.plan.requirements import energy_fault

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


@dataclass(frozen=True, slots=True)
class Emittance:
    """A Gaussian in phase space in one plane and one axis."""

    sigma_mm: float
    divergence_rad: float
    correlation: float

    def upstream(self, distance_mm: float) -> Emittance:
        """The same beam at a plane that lies a distance before this one.

        With position x, slope x' and a drift D, x before is x - D x', so (Fermi-Eyges moments)
        sigma0^2 = sigma^2 - 2 rho sigma theta D + (theta D)^2 and rho0 sigma0 = rho sigma - theta D.
        """
        wide = self.divergence_rad * distance_mm
        sigma = math.sqrt(self.sigma_mm**2 - 2 * self.correlation * self.sigma_mm * wide + wide**2)
        return Emittance(sigma, self.divergence_rad, (self.correlation * self.sigma_mm - wide) / sigma)


def spot_at_nozzle_mm(sigma_isocenter_mm: float, angular_spread_rad: float, distance_mm: float) -> float:
    """Size at the nozzle of a spot without correlation there that has the given size at the isocentre.

    A drift D from the nozzle gives sigma_iso^2 = sigma0^2 + 2 rho0 sigma0 theta D + (theta D)^2, here with
    rho0 = 0.

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
    rows.append(replace(rows[-1], nominal_mev=rows[-1].nominal_mev + 1.0, mean_mev=rows[-1].mean_mev + 1.0))
    lines += ["Beam parameters", f"{len(rows)} energies", "", _COLUMNS]
    lines += [row.render() for row in rows]
    return "\n".join(lines) + "\n"


def require_covered(model: BeamModel, energies_mev: Sequence[float]) -> None:
    """Refuse energies that a table of the beam model does not cover.

    Raises:
        EngineInputError: Names the energy and the table.
    """
    fault = energy_fault(model, energies_mev)
    if fault:
        raise EngineInputError(fault)


@dataclass(frozen=True, slots=True)
class _Row:
    """One energy of the library."""

    nominal_mev: float
    mean_mev: float
    spread_percent: float
    first: tuple[Emittance, Emittance]
    """At the nozzle, in x and y."""
    second: tuple[Emittance, Emittance]
    second_weight: float

    def render(self) -> str:
        """The row; correlations never are 0."""
        spots = [
            " ".join(
                f"{one.sigma_mm:.6f} {one.divergence_rad:.9f} {_not_zero(one.correlation):g}" for one in spot
            )
            for spot in (self.first, self.second)
        ]
        energies = f"{self.nominal_mev:.6f} {self.mean_mev:.6f} {self.spread_percent:.6f}"
        first_weight = str(1.0 - self.second_weight)
        return f"{energies} 1.0 {first_weight} {spots[0]} {self.second_weight} {spots[1]}"


def _not_zero(correlation: float) -> float:
    return correlation if abs(correlation) >= abs(CORRELATION) else CORRELATION


def _row(model: BeamModel, energy: float) -> _Row:
    require_covered(model, [energy])
    spread = model.energy_spread_mev.at(energy)
    mean = model.mean_energy_mev.at(energy)
    if spread < 0 or mean <= 0:
        raise EngineInputError(f"beam model: not a positive spread or energy at {energy:g} MeV")
    first = _at_nozzle(model, model, energy)
    second, weight = first, 0.0
    if model.second_gaussian is not None:
        second = _at_nozzle(model, model.second_gaussian, energy)
        weight = model.second_gaussian.weight.at(energy)
    return _Row(energy, mean, 100.0 * spread / energy, first, second, weight)


def _at_nozzle(model: BeamModel, spot: Spot, energy: float) -> tuple[Emittance, Emittance]:
    """A Gaussian at the nozzle's exit, in x and y.

    Raises:
        EngineInputError: A size or divergence is not positive, or the spot is narrower than its divergence
            alone makes it.
    """
    found = []
    for sigma, divergence, correlation in (
        (spot.spot_sigma_mm, spot.angular_spread_rad, spot.correlation),
        (
            spot.spot_sigma_y_mm or spot.spot_sigma_mm,
            spot.angular_spread_y_rad or spot.angular_spread_rad,
            spot.correlation_y or spot.correlation,
        ),
    ):
        width, theta = sigma.at(energy), divergence.at(energy)
        if theta <= 0 or width <= 0:
            raise EngineInputError(f"beam model: not a positive spot or divergence at {energy:g} MeV")
        rho = 0.0 if correlation is None else correlation.at(energy)
        if model.spot_plane is SpotPlane.NOZZLE:
            found.append(Emittance(width, theta, rho))
        elif correlation is None:
            found.append(Emittance(spot_at_nozzle_mm(width, theta, model.nozzle_to_isocenter_mm), theta, 0.0))
        else:
            found.append(Emittance(width, theta, rho).upstream(model.nozzle_to_isocenter_mm))
    return found[0], found[1]
