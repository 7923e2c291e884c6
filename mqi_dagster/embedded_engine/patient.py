"""The patient as the engine simulates it: 2 mm voxels in DICOM axes, air margins cut off."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.dicom.ct_images import BODY_HU
from mqi_dagster.embedded_engine.ct_series import CtSeries
from mqi_dagster.embedded_engine.volume import Hounsfield, Volume
from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.hu_table import HIGHEST_HU, LOWEST_HU, HuCurves

VOXEL_MM = 2.0

_MARGIN_MM = 20.0


def averaging(count: int, spacing_mm: float, target: int, target_mm: float) -> NDArray[np.float64]:
    """Weights that average voxels of one size into voxels of another, both from the same edge.

    Averaging keeps the mass along every ray, which interpolation between centres does not.

    Returns:
        Shape (target, count): share of each target voxel that each voxel fills; rows sum to 1 except
        where a target voxel reaches beyond the last voxel.
    """
    edges = spacing_mm * np.arange(count + 1)
    wanted = target_mm * np.arange(target + 1)
    low = np.maximum(wanted[:-1, None], edges[None, :-1])
    high = np.minimum(wanted[1:, None], edges[None, 1:])
    return np.asarray(np.maximum(high - low, 0.0) / target_mm)


def patient_volume(series: CtSeries, table: HuCurves) -> Volume:
    """Resample to 2 mm and cut to the body with a margin; the beam enters through the air outside.

    Args:
        series: The CT.
        table: What its values mean.

    Raises:
        EngineInputError: The CT holds nothing but air.
    """
    hounsfield = np.clip(series.hounsfield, LOWEST_HU, HIGHEST_HU)
    # Relative to air, so that what lies outside the scan is air.
    values = hounsfield - np.float32(LOWEST_HU)
    for axis, spacing in zip((2, 1, 0), series.spacing_mm, strict=True):
        count = values.shape[axis]
        target = math.ceil(count * spacing / VOXEL_MM - 1e-6)
        weights = averaging(count, spacing, target, VOXEL_MM).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    # A tenth of a HU hides the last bits, which follow from the order of additions in the linear algebra.
    resampled: Hounsfield = np.round(values + np.float32(LOWEST_HU), 1)
    window = _body(resampled)
    first = [
        corner - step / 2 + VOXEL_MM / 2 + VOXEL_MM * span.start
        for corner, step, span in zip(series.first_mm, series.spacing_mm, reversed(window), strict=True)
    ]
    return Volume(
        hounsfield=np.ascontiguousarray(resampled[window]),
        first_mm=(first[0], first[1], first[2]),
        spacing_mm=(VOXEL_MM, VOXEL_MM, VOXEL_MM),
        densities=table.engine_densities(),
        materials=table.engine_materials(),
    )


def _body(values: Hounsfield) -> tuple[slice, slice, slice]:
    body = values > BODY_HU
    if not body.any():
        raise EngineInputError("nothing but air", where=Where(kind="CT"))
    margin = math.ceil(_MARGIN_MM / VOXEL_MM)
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        at = np.flatnonzero(body.any(axis=others))
        spans.append(slice(max(0, int(at[0]) - margin), min(values.shape[axis], int(at[-1]) + margin + 1)))
    return spans[0], spans[1], spans[2]
