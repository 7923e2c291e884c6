"""The Monte Carlo simulation: the engine in use, histories and phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from mqi_dagster.settings.engine_profiles import EngineProfile, built_in_profiles
from mqi_dagster.settings.section import Count, Seconds, Section


class Phantom(Section):
    """The water phantom and scoring grid, in the engine's frame (beam along -z), in whole mm."""

    two_centimeter_mode: bool = Field(
        True, description="Water surface 20 mm above the isocentre; the plane at 20 mm depth is scored too."
    )
    dimension: tuple[Count, Count, Count] = Field((200, 200, 200), description="Voxels in x, y, z.")
    unit_mm: tuple[Count, Count, Count] = Field((2, 2, 2), description="Voxel size in x, y, z [mm].")
    position_mm: tuple[int, int, int] = Field(
        (-200, -200, -379), description="Lower edge of the grid in x, y, z [mm]."
    )


class Embedded(Section):
    """The embedded engine (MCsquare)."""

    shards: Annotated[int, Field(ge=2)] = Field(
        4, description="Independent single-thread parts of a simulation; fixed, so that results repeat."
    )
    cache: Path | None = Field(None, description="Where the engine is unpacked; null: user cache.")


class Engine(Section):
    """The Monte Carlo simulation."""

    profile: str = Field("embedded", description="Name of the engine profile in use.")
    histories: Annotated[float, Field(ge=8000, le=1e11)] = Field(
        1e6, description="Histories per beam; sets ParticlesPerHistory."
    )
    seed: int = Field(-1932780356, ge=-(2**31), lt=2**31, description="RandomSeed of the TPS file.")
    histories_per_batch: Count = Field(10_000_000, description="MaxHistoriesPerBatch of the TPS file.")
    timeout_seconds: Seconds = Field(14_400.0, description="The engine is ended after this time.")
    uncertainty_maximum_percent: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Greatest mean uncertainty above half of the maximum dose."
    )
    phantom: Phantom = Field(default_factory=lambda: Phantom.model_validate({}))
    embedded: Embedded = Field(default_factory=lambda: Embedded.model_validate({}))
    profiles: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], EngineProfile] = Field(
        default_factory=dict, description="Further profiles, or changes of the built-in ones as a whole."
    )

    def in_use(self) -> EngineProfile:
        """The profile that simulations use."""
        return {**built_in_profiles(), **self.profiles}[self.profile]

    @model_validator(mode="after")
    def _known_profile(self) -> Self:
        known = {**built_in_profiles(), **self.profiles}
        if self.profile not in known:
            raise ValueError(f"profile {self.profile!r} is unknown (known: {', '.join(sorted(known))})")
        return self
