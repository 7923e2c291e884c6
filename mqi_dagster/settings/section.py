"""What every part of the settings is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
