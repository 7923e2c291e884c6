"""Block and multileaf collimator of a built-in plan, around its spots."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mqi_dagster.synthetic.source import Floats

BLOCK_MARGIN_MM = 10.0
BLOCK_THICKNESS_MM = 65.0
LEAF_PAIRS = 40
LEAF_WIDTH_MM = 3.75
MLC_MARGIN_MM = 15.0
CLOSED_MM = -95.0
"""Where a leaf pair outside the field is parked."""


def add_aperture(beam: Dataset, positions_mm: Floats) -> None:
    """A brass block around the spots, and the description of the multileaf collimator.

    Args:
        beam: The beam to complete.
        positions_mm: Spots (n, 2) at the isocentre plane.
    """
    low, high = positions_mm.min(axis=0) - BLOCK_MARGIN_MM, positions_mm.max(axis=0) + BLOCK_MARGIN_MM
    outline = [low[0], low[1], high[0], low[1], high[0], high[1], low[0], high[1]]
    block = Dataset()
    block.IsocenterToBlockTrayDistance = 300.0
    block.BlockType = "APERTURE"
    block.BlockDivergence = "ABSENT"
    block.BlockMountingPosition = "PATIENT_SIDE"
    block.BlockNumber = 1
    block.BlockName = "Aperture"
    block.MaterialID = "Brass"
    block.BlockThickness = BLOCK_THICKNESS_MM
    block.BlockNumberOfPoints = 4
    block.BlockData = [f"{v:.10g}" for v in outline]
    beam.IonBlockSequence = Sequence([block])
    beam.NumberOfBlocks = 1
    device = Dataset()
    device.IsocenterToBeamLimitingDeviceDistance = 400.0
    device.RTBeamLimitingDeviceType = "MLCX"
    device.NumberOfLeafJawPairs = LEAF_PAIRS
    device.LeafPositionBoundaries = [f"{v:.10g}" for v in leaf_boundaries_mm()]
    beam.IonBeamLimitingDeviceSequence = Sequence([device])


def leaf_boundaries_mm() -> Floats:
    """Boundaries (pairs + 1,) of the leaves along y [mm]."""
    return (np.arange(LEAF_PAIRS + 1, dtype=np.float64) - LEAF_PAIRS / 2) * LEAF_WIDTH_MM


def add_leaf_positions(point: Dataset, positions_mm: Floats, layer: int) -> None:
    """Leaf positions of a layer: open around the spots, one millimetre wider each layer.

    Args:
        point: The control point that starts the layer.
        positions_mm: Spots (n, 2).
        layer: 0-based index of the layer.
    """
    margin = MLC_MARGIN_MM + layer
    low, high = positions_mm.min(axis=0) - margin, positions_mm.max(axis=0) + margin
    bounds = leaf_boundaries_mm()
    is_open = (bounds[1:] > low[1]) & (bounds[:-1] < high[1])
    left = np.where(is_open, low[0], CLOSED_MM)
    right = np.where(is_open, high[0], CLOSED_MM)
    device = Dataset()
    device.RTBeamLimitingDeviceType = "MLCX"
    device.LeafJawPositions = [f"{v:.10g}" for v in np.concatenate([left, right])]
    point.BeamLimitingDevicePositionSequence = Sequence([device])
