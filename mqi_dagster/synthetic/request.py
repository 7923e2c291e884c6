"""What to simulate: the plan, how it is delivered, how it is laid out, and what goes wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mqi_dagster.synthetic.defects import Defect, DefectKind

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
FolderName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]
PathSafe = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class Layout(StrEnum):
    """How a case lies in the inbox."""

    MACHINE = "machine"
    """``<study UID>/<16 digits>/…``"""
    GROUPED = "grouped"
    """``<group>/<patient>/<study UID>/<16 digits>/…``"""
    SIMPLE = "simple"
    """``<case>/<beam folder>/…``"""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuiltInPlan(_Frozen):
    """A plan made in code, like those of MOSAIQ: private float32 tags and a SETUP beam numbered 1."""

    beams: Count = 3
    layers: Count = 3
    spots: Annotated[int, Field(ge=3)] = 25
    """Spots per layer; the first of them has weight 0, as on the machine."""
    energies_mev: tuple[Positive, ...] | None = None
    """Highest energy of each beam; 110 to 190 MeV evenly where None."""
    energy_step_mev: Positive = 4.0
    layer_seconds: Positive = 0.2
    """Planned time of the deepest layer; each shallower one is lighter and shorter."""
    spacing_mm: Positive = 5.997
    """The machine's own raster, which tells rounding from truncating timing models."""
    gantry_deg: tuple[float, ...] = (0.0,)
    """One per beam, repeated as needed."""
    couch_deg: float = 0.0
    isocenter_mm: tuple[float, float, float] = (10.0, -20.0, 30.0)
    snout_position_mm: Positive = 420.0
    range_shifter: str | None = None
    """RangeShifterID of every beam."""
    scan_mode: Literal["LINE", "MODULATED"] = "LINE"
    """Line scanning, or spot scanning."""
    aperture: bool | None = None
    """Block and MLC on every beam; None: where the machine exports them."""


class DeliveryRequest(_Frozen):
    """One simulated case. The same request gives the same bytes."""

    plan: Path | BuiltInPlan = BuiltInPlan()
    seed: Annotated[int, Field(ge=0)] = 1
    layout: Layout = Layout.MACHINE
    group: FolderName | None = None
    """First folder of the grouped layout; the machine's id where None."""
    case_name: FolderName | None = None
    """Folder of the simple layout; ``case-<seed>`` where None."""
    marker: PathSafe | None = None
    """Marker file written last, for sites that wait for one."""
    start: datetime = datetime(2026, 1, 5, 10, 10)
    """The machine's own (local) time of the first delivery."""
    beam_interval: timedelta = timedelta(minutes=4)
    fractions: Count = 1
    fraction_interval: timedelta = timedelta(days=1)
    beams: tuple[int, ...] | None = None
    """BeamNumbers in the order of delivery; all in the plan's order where None."""
    deliver: tuple[int, ...] | None = None
    """Of these, the ones written; times and contents are as if all were."""
    max_layers: Count | None = None
    """Keep only the first layers of every beam: the plan is rewritten so that it still fits the delivery."""
    max_spots: Annotated[int, Field(ge=2)] | None = None
    """Keep only the first spots of every layer, likewise."""
    patient_id: PathSafe | None = None
    """Replaces the plan's; SYNTH001 for the built-in plan."""
    patient_name: str | None = None
    patient_birth_date: Annotated[str, Field(pattern=r"^\d{8}$")] | None = None
    mu_ratio: Positive = 0.988
    """Recorded beam-on MU over planned MU of every layer."""
    monitor_2_ratio: Positive = 0.995
    lag_us: tuple[float, float] = (60.0, 120.0)
    """Delay of the delivery behind the planned timeline, uniform per layer."""
    noise_mm: tuple[float, float] = (0.20, 0.14)
    """One standard deviation of the recorded position in x and y."""
    count_noise: Annotated[float, Field(ge=0, le=0.05)] = 0.01
    """Relative standard deviation of a sample's count; a layer's sum is not affected."""
    idle_rows_before: tuple[int, int] = (94, 365)
    idle_rows_after: tuple[int, int] = (65, 349)
    range_code: Count = 2
    ct: Literal["none", "water"] = "none"
    ct_cube_mm: Positive = 300.0
    ct_margin_mm: Annotated[float, Field(ge=0)] = 30.0
    """Air on every side of the cube."""
    ct_voxel_mm: Positive = 3.0
    defects: tuple[Defect, ...] = ()

    def defects_of(
        self, *kinds: DefectKind, beam: int | None = None, layer: int | None = None
    ) -> list[Defect]:
        """The defects of these kinds at this place."""
        return [
            d
            for d in self.defects
            if d.kind in kinds and (beam is None or d.beam == beam) and (layer is None or d.layer == layer)
        ]

    def has(self, kind: DefectKind, beam: int | None = None, layer: int | None = None) -> bool:
        """Whether such a defect stands at this place."""
        return bool(self.defects_of(kind, beam=beam, layer=layer))
