"""What a card asks of the images of a role, beyond modality and Series Description."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict

from mqi_dagster.imaging.image_grid import ImageGrid
from mqi_dagster.imaging.models.card import ModelInput, Plane


class ImageFacts(BaseModel):
    """What is known of the images of a role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int
    """How many, localizers aside."""
    spacing_mm: tuple[float, float, float]
    """Across planes, rows and columns."""
    plane: Plane
    """Of the patient, to which they lie nearest."""
    contrast: bool
    """Whether they name a contrast agent."""


def nearest_plane(grid: ImageGrid) -> Plane:
    """The plane of the patient to which images lie nearest, by their normal."""
    x, y, z = (abs(part) for part in grid.plane_direction)
    axial, coronal, sagittal = get_args(Plane)
    named: dict[Plane, float] = {axial: z, coronal: y, sagittal: x}
    return max(named, key=lambda plane: named[plane])


def unsuitable(asked: ModelInput, facts: ImageFacts) -> list[str]:
    """In what the images of a role are not what the card asks for, in words; empty where they are."""
    found = []
    if asked.contrast is not None and asked.contrast is not facts.contrast:
        words = ("names a contrast agent", "without one"), ("names no contrast agent", "with one")
        has, wants = words[asked.contrast]
        found.append(f"{asked.role} {has}, and the model is for images {wants}")
    if asked.plane is not None and asked.plane != facts.plane:
        found.append(f"the images of {asked.role} are {facts.plane}, not {asked.plane}")
    if asked.spacing_mm is not None:
        low, high = asked.spacing_mm
        if not low <= min(facts.spacing_mm) <= max(facts.spacing_mm) <= high:
            spacing = " × ".join(f"{value:.4g}" for value in facts.spacing_mm)
            found.append(f"the voxels of {asked.role} are {spacing} mm, not within {low:g} to {high:g} mm")
    return found
