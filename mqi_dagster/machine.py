"""The machine files: what one treatment machine's numbers mean.

A machine file (YAML) holds the calibration of the delivery record, the timing of the scanned beam and the
beam model for the engine. Code never holds such a number.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mqi_dagster.errors import ConfigurationError, UnknownMachineError, shown
from mqi_dagster.yaml_file import read_yaml, validated

Positive = Annotated[float, Field(gt=0)]

PACKAGED_MACHINES = Path(__file__).parent / "config" / "machines"
"""The machine files of the product, which every new site starts with."""


class MachineSection(BaseModel):
    """A part of a machine file: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EnergyTable(MachineSection):
    """A quantity over the nominal energy, interpolated linearly and never extrapolated."""

    energy_mev: tuple[Positive, ...]
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _ascending(self) -> EnergyTable:
        if len(self.energy_mev) != len(self.value) or len(self.value) < 2:
            raise ValueError("energy_mev and value must have the same length, at least 2")
        if any(b <= a for a, b in zip(self.energy_mev, self.energy_mev[1:], strict=False)):
            raise ValueError("energy_mev must ascend")
        return self

    def covers(self, energy_mev: float) -> bool:
        """Whether the energy [MeV] lies inside the table."""
        return self.energy_mev[0] <= energy_mev <= self.energy_mev[-1]

    def at(self, energy_mev: float) -> float:
        """The value at an energy [MeV].

        Raises:
            ConfigurationError: The energy lies outside the table.
        """
        if not self.covers(energy_mev):
            raise ConfigurationError(
                f"energy {energy_mev:g} MeV lies outside the table"
                f" {self.energy_mev[0]:g} to {self.energy_mev[-1]:g} MeV"
            )
        for low, high, a, b in zip(
            self.energy_mev, self.energy_mev[1:], self.value, self.value[1:], strict=False
        ):
            if energy_mev <= high:
                return a + (b - a) * (energy_mev - low) / (high - low)
        raise AssertionError("unreachable: covers() bounds the energy")


class Record(MachineSection):
    """Calibration of the machine record (``.ptn``): position = (raw - offset) * gain, at the isocentre."""

    x_offset: int
    y_offset: int
    x_gain_mm: Positive
    y_gain_mm: Positive
    row_period_ms: Positive
    mu_per_count: Positive
    """Monitor units per count of dose monitor 1 in range code 2."""


class Preset(MachineSection):
    """Calibration of the machine plan (``.mgn``)."""

    x_offset: int
    y_offset: int
    x_gain_mm: Positive
    y_gain_mm: Positive


class Timing(MachineSection):
    """The planned timeline of a line-scanned layer (docs/physics.md 4)."""

    speed_cm_s: Positive = 2000.0
    minimum_dose_rate_mu_s: Positive
    maximum_dose_rate_mu_s: EnergyTable
    """Highest dose rate of the machine over the energy [MU/s]."""


class SpotPlane(StrEnum):
    """Where spot sizes and correlations of a beam model are given."""

    ISOCENTER = "isocenter"
    NOZZLE = "nozzle"


class Spot(MachineSection):
    """One Gaussian of the beam in phase space: size, divergence and their correlation, in x and y.

    What is not given for y is as in x. Without a correlation the beam is uncorrelated at the nozzle.
    """

    spot_sigma_mm: EnergyTable
    """One standard deviation in air in the spot plane [mm]; in x, and in y where that has none of its own."""
    spot_sigma_y_mm: EnergyTable | None = None
    angular_spread_rad: EnergyTable
    """Divergence of the spot [rad], one standard deviation."""
    angular_spread_y_rad: EnergyTable | None = None
    correlation: EnergyTable | None = None
    """Of position and direction in the spot plane, above -1 and below 1; positive: the beam widens."""
    correlation_y: EnergyTable | None = None

    @model_validator(mode="after")
    def _in_range(self) -> Spot:
        for name in ("spot_sigma_y_mm", "angular_spread_y_rad"):
            table: EnergyTable | None = getattr(self, name)
            if table is not None and min(table.value) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("correlation", "correlation_y"):
            table = getattr(self, name)
            if table is not None and not -1 < min(table.value) <= max(table.value) < 1:
                raise ValueError(f"{name} must lie between -1 and 1")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a file does not say does not stand in what is made of it: a digest, or an engine's input."""
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {key: value for key, value in written.items() if not _left_out(fields[key].default, value)}

    def spot_tables(self) -> dict[str, EnergyTable]:
        """Every table of the Gaussian that is given, by field name."""
        named = {name: getattr(self, name) for name in Spot.model_fields}
        return {name: table for name, table in named.items() if table is not None}


def _left_out(default: object, value: object) -> bool:
    return default is value is None or (isinstance(default, SpotPlane) and value == default)


class SecondGaussian(Spot):
    """The halo of a spot: a second, wider Gaussian."""

    weight: EnergyTable
    """Its share of the protons, from 0 to below 1."""

    @model_validator(mode="after")
    def _share(self) -> SecondGaussian:
        if not 0 <= min(self.weight.value) <= max(self.weight.value) < 1:
            raise ValueError("weight must be at least 0 and below 1")
        return self


class BeamModel(Spot):
    """What the engine needs to know of the beam in front of the patient."""

    nozzle_to_isocenter_mm: Positive
    mean_energy_mev: EnergyTable
    energy_spread_mev: EnergyTable
    """One standard deviation [MeV]."""
    spot_plane: SpotPlane = SpotPlane.ISOCENTER
    """Where sizes and correlations are given, of both Gaussians."""
    second_gaussian: SecondGaussian | None = None
    protons_per_mu: EnergyTable
    """Protons per monitor unit; only relative where ``commissioned`` is false."""
    commissioned: bool
    """Whether ``protons_per_mu`` is absolute, so that the dose is in Gy."""


class RangeShifter(MachineSection):
    """One range shifter, addressed by its RangeShifterID."""

    water_equivalent_thickness_mm: Positive
    thickness_mm: Positive


class MachineDeliveryLimits(MachineSection):
    """A machine's own limits of the check ``delivery``, each in place of the site's; null: the site's."""

    position_mean_mm: Positive | None = None
    position_sd_mm: Positive | None = None
    position_p95_mm: Positive | None = None
    position_maximum_mm: Positive | None = None
    layer_mu_percent: Positive | None = None
    spot_mu_percent: Positive | None = None
    extra_percent: Positive | None = None
    beam_off_percent: Positive | None = None


class Machine(MachineSection):
    """One treatment machine as its file describes it."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Every TreatmentMachineName that means this machine."""
    nozzle: str
    sad_mm: tuple[Positive, Positive]
    """Virtual source-axis distances in x and y [mm]."""
    range_shifter_offset_mm: float
    """From the snout position to the side of a range shifter that faces the patient [mm], where the plan
    does not place it."""
    gantry_number: int | None
    """moqui's GantryNum; null where moqui has no model of this machine."""
    exports_aperture: bool
    """Whether block and MLC are exported beside the plan CSVs."""
    monitor_full_scale_na: dict[int, Positive]
    """Full scale of the dose monitor for each range code [nA]."""
    record: Record
    preset: Preset
    timing: Timing
    range_shifters: dict[str, RangeShifter]
    beam_model: BeamModel
    delivery_check: MachineDeliveryLimits | None = None
    """Where the machine's limits are others than those of the settings."""

    def range_factor(self, code: int) -> float:
        """Monitor factor of a range code relative to code 2 (docs/physics.md 2).

        Raises:
            UnknownMachineError: The machine has no such range code.
        """
        if code not in self.monitor_full_scale_na:
            known = ", ".join(str(c) for c in sorted(self.monitor_full_scale_na))
            raise UnknownMachineError(f"range code {code} is unknown to machine {self.id} (known: {known})")
        return self.monitor_full_scale_na[code] / self.monitor_full_scale_na[2]

    def range_shifter(self, shifter_id: str) -> RangeShifter:
        """The range shifter of an ID.

        Raises:
            UnknownMachineError: The machine file does not describe it.
        """
        if shifter_id not in self.range_shifters:
            raise UnknownMachineError(f"range shifter {shown(shifter_id)} is unknown to machine {self.id}")
        return self.range_shifters[shifter_id]

    def protons_per_count(self, energy_mev: float) -> float:
        """K(E): protons per count of dose monitor 1 in range code 2."""
        return self.beam_model.protons_per_mu.at(energy_mev) * self.record.mu_per_count


class Machines:
    """The machines a site has, found by TreatmentMachineName."""

    def __init__(self, machines: list[Machine]) -> None:
        self._by_name: dict[str, Machine] = {}
        for machine in machines:
            for name in machine.names:
                if name in self._by_name:
                    raise ConfigurationError(
                        f"machine name {name} stands in two machine files:"
                        f" {self._by_name[name].id} and {machine.id}"
                    )
                self._by_name[name] = machine
        self.all = tuple(machines)

    def named(self, name: str) -> Machine:
        """The machine of a TreatmentMachineName.

        Raises:
            UnknownMachineError: No machine file names it.
        """
        if name not in self._by_name:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise UnknownMachineError(f"machine {shown(name) or '(empty)'} is unknown (known: {known})")
        return self._by_name[name]


def read_machine(path: Path) -> Machine:
    """Read one machine file.

    Raises:
        ConfigurationError: It is not YAML, lacks a key, has an unknown one, or a value out of range.
    """
    role = f"machine file {path.name}"
    return validated(Machine, read_yaml(path, role), role)


def read_machines(folder: Path) -> Machines:
    """Read every machine file (``*.yaml``) of a folder.

    Args:
        folder: The folder of the machine files.

    Raises:
        ConfigurationError: The folder holds none, one cannot be read, or two claim the same name.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ConfigurationError(f"no machine files (*.yaml) in {folder.name}")
    return Machines([read_machine(path) for path in paths])
