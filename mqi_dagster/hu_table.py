"""The HU tables: what the values of a scanner's images mean for protons.

A table (YAML) belongs to a scanner, or to a treatment machine; code never holds one. The engine wants a
density and a material for every HU. Where a table gives the relative stopping power (RSP), the density is
chosen so that material and density together have it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mqi_dagster.errors import ConfigurationError, UnknownScannerError, Where
from mqi_dagster.yaml_file import read_yaml, validated

PACKAGED_HU_TABLES = Path(__file__).parent / "config" / "hu"
"""The tables of the product, which every new site starts with."""

LOWEST_HU, HIGHEST_HU = -1000.0, 3000.0
"""Values of images are cut to this range: below is vacuum, above metal, whose HU say nothing."""

Rows = tuple[tuple[float, float], ...]


class Material(NamedTuple):
    """A material of MCsquare 1.1."""

    number: int
    """In its Materials/list.dat."""
    stopping_power_ratio: float
    """Mass stopping power relative to water at 100 MeV, of its G4_Stop_Pow.dat, which the engine uses."""


MATERIALS: dict[str, Material] = {
    "Air": Material(13, 0.8881),
    "Lung": Material(14, 0.998),
    "Adipose_Tissue": Material(15, 1.0283),
    "Marrow_Yellow": Material(16, 1.0307),
    "Water": Material(17, 1.0),
    "Breast": Material(18, 1.0143),
    "Average_Soft_Tissue": Material(19, 1.0031),
    "Gastrointestinal_Tract": Material(20, 1.0103),
    "Lymph": Material(21, 1.0111),
    "Marrow_Red": Material(22, 1.0142),
    "Brain": Material(23, 1.0031),
    "Pancreas": Material(24, 1.0109),
    "Testis": Material(25, 0.9994),
    "Kidney": Material(26, 1.0066),
    "Muscle_Skeletal": Material(27, 0.9953),
    "Ovary": Material(28, 1.0083),
    "Thyroid": Material(29, 1.0075),
    "Blood": Material(30, 0.9955),
    "Heart": Material(31, 1.0064),
    "Liver": Material(32, 1.0053),
    "Spleen": Material(33, 1.0062),
    "Eye_Lens": Material(34, 0.9934),
    "Skin": Material(35, 0.9979),
    "Cartilage": Material(36, 0.9947),
    "Bone_Spongiosa": Material(37, 0.98),
    "Bone_Cortical": Material(38, 0.8861),
    "Schneider_Air": Material(39, 0.8881),
    "Schneider_Lung": Material(40, 1.006),
    "Schneider_AT_AG_SI1": Material(41, 1.0325),
    "Schneider_AT_AG_SI2": Material(42, 1.0269),
    "Schneider_AT_AG_SI3": Material(43, 1.0211),
    "Schneider_AT_AG_SI4": Material(44, 1.0171),
    "Schneider_AT_AG_SI5": Material(45, 1.0133),
    "Schneider_SoftTissus": Material(46, 1.0067),
    "Schneider_ConnectiveTissue": Material(47, 0.997),
    "Schneider_Marrow_Bone01": Material(48, 0.9972),
    "Schneider_Marrow_Bone02": Material(49, 0.9869),
    "Schneider_Marrow_Bone03": Material(50, 0.9753),
    "Schneider_Marrow_Bone04": Material(51, 0.9643),
    "Schneider_Marrow_Bone05": Material(52, 0.9566),
    "Schneider_Marrow_Bone06": Material(53, 0.9481),
    "Schneider_Marrow_Bone07": Material(54, 0.9399),
    "Schneider_Marrow_Bone08": Material(55, 0.9315),
    "Schneider_Marrow_Bone09": Material(56, 0.9249),
    "Schneider_Marrow_Bone10": Material(57, 0.9195),
    "Schneider_Marrow_Bone11": Material(58, 0.9129),
    "Schneider_Marrow_Bone12": Material(59, 0.9078),
    "Schneider_Marrow_Bone13": Material(60, 0.9027),
    "Schneider_Marrow_Bone14": Material(61, 0.8976),
    "Schneider_Marrow_Bone15": Material(62, 0.8942),
    "Gammex_SB3_Bone": Material(63, 0.9034),
    "PMMA": Material(64, 0.9876),
    "Solid_water": Material(65, 0.9877),
    "Lexan": Material(66, 0.9572),
    "CFRP": Material(67, 0.9331),
    "G10": Material(68, 0.9128),
    "Polyurethane": Material(69, 0.9544),
    "Polystyrene": Material(70, 0.9844),
    "Pyrex": Material(71, 0.8327),
    "RW3": Material(72, 0.9853),
    "titanium": Material(73, 0.7067),
    "Ti-6Al-4V": Material(74, 0.6733),
    "ABS_Resin": Material(75, 0.947),
    "Tough_water": Material(76, 0.9492),
    "tantalum": Material(77, 0.4766),
    "Brass": Material(78, 0.6132),
    "Boron_Carbide": Material(79, 0.7992),
    "Tusk": Material(80, 0.9548),
    "PEHD": Material(81, 1.07),
    "Brass_CuZn39Pb3": Material(82, 0.6613),
}

_BEFORE_A_BOUNDARY_HU = 0.05
"""Images are rounded to a tenth of a HU, so that no value lies between a boundary and this before it."""


class HuTableSection(BaseModel):
    """A part of a table's file: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _require_ascending(hu: tuple[float, ...], count: int) -> None:
    if len(hu) != count:
        raise ValueError("both lists must have the same length")
    if any(b - a < 2 * _BEFORE_A_BOUNDARY_HU for a, b in pairwise(hu)):
        raise ValueError("hu must ascend, by 0.1 or more")


class Curve(HuTableSection):
    """A quantity over the HU, linear between its points."""

    hu: Annotated[tuple[float, ...], Field(min_length=2)]
    value: tuple[Annotated[float, Field(gt=0, lt=25)], ...]

    @model_validator(mode="after")
    def _covering(self) -> Curve:
        _require_ascending(self.hu, len(self.value))
        if self.hu[0] > LOWEST_HU or self.hu[-1] < HIGHEST_HU:
            raise ValueError(f"hu must reach from {LOWEST_HU:g} to {HIGHEST_HU:g}")
        return self

    def at(self, hu: float) -> float:
        """The value at an HU."""
        import numpy as np  # here: whoever checks a table computes nothing with it

        return float(np.interp(hu, self.hu, self.value))


class MaterialSteps(HuTableSection):
    """Which material a voxel is of: each from its HU on."""

    hu: Annotated[tuple[float, ...], Field(min_length=1)]
    name: tuple[str, ...]

    @model_validator(mode="after")
    def _known(self) -> MaterialSteps:
        _require_ascending(self.hu, len(self.name))
        if self.hu[0] > LOWEST_HU:
            raise ValueError(f"the first material must begin at {LOWEST_HU:g} or below")
        unknown = [name for name in self.name if name not in MATERIALS]
        if unknown:
            raise ValueError(f"material {unknown[0]!r} is unknown (known: {', '.join(sorted(MATERIALS))})")
        return self

    def at(self, hu: float) -> Material:
        """The material at an HU; below the first boundary the first one."""
        return MATERIALS[self.name[max(bisect_right(self.hu, hu) - 1, 0)]]


class HuCurves(HuTableSection):
    """A table without the scanners that it is for: what a dose depends on."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,14}$")]
    """Short, so that it fits into a Dose Comment of 64 characters beside what is not simulated."""
    calibrated: bool
    """Whether it was measured at the scanner; a dose made with another one says so."""
    density_g_cm3: Curve | None = None
    stopping_power: Curve | None = None
    """Relative to water (RSP), at 100 MeV; where given, it decides."""
    materials: MaterialSteps

    @model_validator(mode="after")
    def _something(self) -> HuCurves:
        if self.density_g_cm3 is None and self.stopping_power is None:
            raise ValueError("density_g_cm3 or stopping_power must be given")
        return self

    @property
    def name(self) -> str:
        """Its id for people, with what they have to know of it."""
        return self.id if self.calibrated else f"{self.id} (typical, not of this scanner)"

    def engine_densities(self) -> Rows:
        """(HU, g/cm3) for the engine, linear between, beyond the highest value of an image.

        With ``stopping_power`` the density of a voxel is RSP / (mass stopping power ratio of its material);
        at the first HU of a material the row before belongs to the material before.
        """
        if self.stopping_power is None:
            assert self.density_g_cm3 is not None
            rows = list(zip(self.density_g_cm3.hu, self.density_g_cm3.value, strict=True))
        else:
            rows = list(self._matching(self.stopping_power))
        if rows[-1][0] <= HIGHEST_HU:
            rows.append((HIGHEST_HU + 100.0, rows[-1][1]))
        return tuple(rows)

    def _matching(self, power: Curve) -> Iterator[tuple[float, float]]:
        boundaries = [hu for hu in self.materials.hu[1:] if power.hu[0] < hu < power.hu[-1]]
        before = [hu - _BEFORE_A_BOUNDARY_HU for hu in boundaries]
        for hu in sorted({*power.hu, *boundaries, *before}):
            yield hu, power.at(hu) / self.materials.at(hu).stopping_power_ratio

    def engine_materials(self) -> Rows:
        """(HU, MCsquare's number): the material from this HU on."""
        return tuple(
            (hu, float(MATERIALS[name].number))
            for hu, name in zip(self.materials.hu, self.materials.name, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Scanner:
    """What images say of the scanner that took them; None where they do not."""

    manufacturer: str | None
    model: str | None
    station: str | None
    kvp: float | None
    kernel: str | None

    def __str__(self) -> str:
        shown = {"manufacturer": self.manufacturer, "model": self.model, "station": self.station}
        parts = [f"{name} {_plain(value)}" for name, value in shown.items() if value]
        parts += [f"{self.kvp:g} kV"] if self.kvp is not None else []
        parts += [f"kernel {_plain(self.kernel)}"] if self.kernel else []
        return ", ".join(parts) or "a scanner that does not name itself"


class ScannerRule(HuTableSection):
    """Images that a table is for: everything given must be so."""

    manufacturer: str | None = None
    """Manufacturer (0008,0070); capitals and blanks at the ends do not matter, here and below."""
    model: str | None = None
    """Manufacturer's Model Name (0008,1090)."""
    station: str | None = None
    """Station Name (0008,1010)."""
    kvp: Annotated[float, Field(gt=0)] | None = None
    """KVP (0018,0060)."""
    kernel: str | None = None
    """Convolution Kernel (0018,1210), its first value."""
    machine: str | None = None
    """The treatment machine, by its id."""

    @model_validator(mode="after")
    def _something(self) -> ScannerRule:
        if not self.model_dump(exclude_none=True):
            raise ValueError("says nothing: give manufacturer, model, station, kvp, kernel or machine")
        return self

    def weight(self, scanner: Scanner, machine_id: str) -> int:
        """How many of its conditions hold; 0 where one does not."""
        facts: dict[str, Any] = {
            "manufacturer": scanner.manufacturer,
            "model": scanner.model,
            "station": scanner.station,
            "kvp": scanner.kvp,
            "kernel": scanner.kernel,
            "machine": machine_id,
        }
        wanted = self.model_dump(exclude_none=True)
        if all(_same(facts[name], value) for name, value in wanted.items()):
            return len(wanted)
        return 0


def _same(found: str | float | None, wanted: str | float) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found.strip().casefold() == wanted.strip().casefold()
    return found == wanted


def _plain(value: str | None) -> str:
    """Text of an image, bounded and printable: it may be anything."""
    return "".join(c if c.isprintable() else "?" for c in (value or "")[:32])


class HuTable(HuCurves):
    """One table as its file describes it."""

    default: bool = False
    """Whether it is for every scanner that no other table names."""
    scanners: tuple[ScannerRule, ...] = ()
    """What it is for."""

    @model_validator(mode="after")
    def _for_somebody(self) -> HuTable:
        if not self.default and not self.scanners:
            raise ValueError("is for no scanner: give scanners, or default: true")
        return self

    @property
    def curves(self) -> HuCurves:
        """The table without its scanners."""
        return HuCurves(**{name: getattr(self, name) for name in HuCurves.model_fields})


class HuTables:
    """The tables of a site."""

    def __init__(self, tables: list[HuTable]) -> None:
        ids = [table.id for table in tables]
        for name in ids:
            if ids.count(name) > 1:
                raise ConfigurationError(f"two HU tables have the id {name}")
        defaults = [table for table in tables if table.default]
        if len(defaults) > 1:
            raise ConfigurationError(
                f"two HU tables say default: true: {defaults[0].id} and {defaults[1].id}"
            )
        self.all = tuple(tables)
        self._default = defaults[0] if defaults else None

    def of(self, scanner: Scanner, machine_id: str) -> HuTable:
        """The table for images of a scanner: the one whose rule says most of it, or else the default.

        Raises:
            UnknownScannerError: No table is for it.
            ConfigurationError: Two tables are for it, and neither says more than the other.
        """
        weights = {
            table.id: max((rule.weight(scanner, machine_id) for rule in table.scanners), default=0)
            for table in self.all
        }
        most = max(weights.values(), default=0)
        best = [table for table in self.all if most and weights[table.id] == most]
        if len(best) > 1:
            raise ConfigurationError(f"HU tables {best[0].id} and {best[1].id} are both for {scanner}")
        if best:
            return best[0]
        if self._default is None:
            known = ", ".join(table.id for table in self.all)
            raise UnknownScannerError(
                f"no HU table is for {scanner} (tables: {known}): add one, or give one default: true",
                where=Where(kind="CT"),
            )
        return self._default


def read_hu_table(path: Path) -> HuTable:
    """Read one table.

    Raises:
        ConfigurationError: It is not YAML, lacks a key, has an unknown one, or a value out of range.
    """
    role = f"HU table {path.name}"
    return validated(HuTable, read_yaml(path, role), role)


def read_hu_tables(folder: Path) -> HuTables:
    """Read every table (``*.yaml``) of a folder; the packaged one where there is no such folder.

    Raises:
        ConfigurationError: The folder holds none, one cannot be read, or two contradict each other.
    """
    used = folder if folder.is_dir() else PACKAGED_HU_TABLES
    paths = sorted(used.glob("*.yaml"))
    if not paths:
        raise ConfigurationError(f"no HU tables (*.yaml) in {folder.name}")
    return HuTables([read_hu_table(path) for path in paths])
