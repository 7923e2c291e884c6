"""GPUs that the settings declare."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mqi_dagster.settings.section import Count, Section


class DeclaredGpu(Section):
    """One GPU of this machine for the pool."""

    index: Annotated[int, Field(ge=0, lt=1000)] = Field(description="Its index in NVML.")
    uuid: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,99}$")] = Field(
        description="Its UUID, as `nvidia-smi -L` shows it."
    )
    memory_mb: Count = Field(description="Its memory [MB].")
