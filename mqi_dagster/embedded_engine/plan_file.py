"""MCsquare's plan file: one field, one control point per layer, one line per spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mqi_dagster.embedded_engine.bdl import RANGE_SHIFTER_ID, RangeShifterInBeam
from mqi_dagster.embedded_engine.spots import SpotLayer

Floats = NDArray[np.float64]

_TOTAL_WEIGHT = 1e9


@dataclass(frozen=True, slots=True)
class Field:
    """From where the beam comes."""

    gantry_deg: float
    couch_deg: float
    isocenter_mm: tuple[float, float, float]
    """In MCsquare's coordinates [mm]."""
    shifter: RangeShifterInBeam | None


def aimed(positions_mm: Floats, sad_mm: tuple[float, float], nozzle_mm: float) -> Floats:
    """Spot positions that MCsquare brings to ``positions_mm`` at the isocentre.

    It turns the direction first about x by atan(y/SADy), then about y by atan(x/SADx), which steepens the
    slope in y by sqrt(1 + (x/SADx)^2) along the way from the nozzle.

    Args:
        positions_mm: Shape (n, 2): wanted x, y at the isocentre plane [mm].
        sad_mm: Virtual source-axis distances in x and y [mm].
        nozzle_mm: Nozzle to isocentre [mm].
    """
    x, y = positions_mm.T
    steeper = np.sqrt(1.0 + (x / sad_mm[0]) ** 2) - 1.0
    return np.column_stack([x, y / (1.0 + steeper * nozzle_mm / sad_mm[1])])


def write_plan(path: Path, layers: Sequence[SpotLayer], field: Field, aim: Sequence[Floats]) -> None:
    """Write the plan; weights are scaled to a fixed sum, because MCsquare's dose is per proton.

    Relative protons per MU can be as small as 1e-8, less than a plan file's decimals hold.

    Args:
        path: The file.
        layers: The delivered layers.
        field: Geometry.
        aim: Spot positions of each layer as MCsquare needs them, shape (n, 2) [mm].
    """
    scale = _TOTAL_WEIGHT / sum(float(layer.protons.sum()) for layer in layers)
    total = f"{_TOTAL_WEIGHT:.6f}"
    head = ["#TREATMENT-PLAN-DESCRIPTION", "#PlanName", "beam", "#NumberOfFractions", "1"]
    head += ["##FractionID", "1", "##NumberOfFields", "1", "###FieldsID", "1"]
    head += ["#TotalMetersetWeightOfAllFields", total, "", "#FIELD-DESCRIPTION", "###FieldID", "1"]
    head += ["###FinalCumulativeMeterSetWeight", total]
    head += ["###GantryAngle", f"{field.gantry_deg:.6f}", "###PatientSupportAngle", f"{field.couch_deg:.6f}"]
    head += ["###IsocenterPosition", "\t".join(f"{value:.6f}" for value in field.isocenter_mm)]
    if field.shifter is not None:
        head += ["###RangeShifterID", RANGE_SHIFTER_ID, "###RangeShifterType", "binary"]
    head += ["###NumberOfControlPoints", str(len(layers)), "", "#SPOTS-DESCRIPTION"]
    with path.open("wb") as stream:
        stream.write(_lines(head))
        cumulative = 0.0
        for index, (layer, positions) in enumerate(zip(layers, aim, strict=True), start=1):
            weights = layer.protons * scale
            cumulative += float(weights.sum())
            block = ["####ControlPointIndex", str(index), "####SpotTunnedID", "1"]
            block += ["####CumulativeMetersetWeight", f"{cumulative:.6f}"]
            block += ["####Energy (MeV)", f"{layer.energy_mev:.6f}"]
            if field.shifter is not None:
                thickness = field.shifter.water_equivalent_thickness_mm
                block += ["####RangeShifterSetting", "IN", "####IsocenterToRangeShifterDistance"]
                block += [f"{field.shifter.isocenter_distance_mm:.6f}"]
                block += ["####RangeShifterWaterEquivalentThickness", f"{thickness:.6f}"]
            block += ["####NbOfScannedSpots", str(len(layer.protons)), "####X Y Weight"]
            stream.write(_lines(block))
            spots = pl.DataFrame({"x": positions[:, 0], "y": positions[:, 1], "weight": weights})
            spots.write_csv(
                stream, include_header=False, separator=" ", float_precision=6, float_scientific=False
            )


def _lines(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("ascii")
