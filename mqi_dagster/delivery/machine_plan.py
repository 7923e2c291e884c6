"""The machine's own plan of a layer (``.mgn``): 14-byte big-endian records (docs/formats.md 3).

Record 0 is the start, records 1..n are the n spots, record n+1 is the return to the centre. The flag is 1
for every spot but the last and 0 elsewhere, so that a file that lost its tail is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.machine import Preset

LARGEST_BYTES = 28_000_000
"""Two million spots in a layer, far above any plan."""

_WHERE = Where(kind="machine plan")
_RECORD = np.dtype(
    [("time_us", ">u4"), ("xamp", ">u2"), ("yamp", ">u2"), ("x", ">u2"), ("y", ">u2"), ("flag", ">u2")]
)


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """The spots of a layer as the machine planned them."""

    time_s: NDArray[np.float64]
    """Shape (n,): arrival at the spot's end, relative to the first spot [s]."""
    positions_mm: NDArray[np.float64]
    """Shape (n, 2): x, y at the isocentre plane [mm]."""


def read_machine_plan(path: Path, preset: Preset) -> MachinePlan:
    """Read a machine plan.

    Args:
        path: The ``.mgn`` file.
        preset: The machine's calibration of it.

    Raises:
        DeliveryError: The file cannot be read, is no whole number of records, lacks its start, spots or
            end, or its times do not ascend.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise DeliveryError(f"the machine plan cannot be read: {error.strerror}", where=_WHERE) from error
    if len(raw) > LARGEST_BYTES:
        raise DeliveryError(f"the machine plan is larger than {LARGEST_BYTES:,} bytes", where=_WHERE)
    if len(raw) % _RECORD.itemsize:
        raise DeliveryError(
            f"the machine plan has {len(raw)} bytes, which is no whole number of {_RECORD.itemsize}-byte"
            " records: it seems cut short",
            where=_WHERE,
        )
    records = np.frombuffer(raw, dtype=_RECORD)
    if len(records) < 3:
        raise DeliveryError(
            f"the machine plan has {len(records)} records; start, spot and end need 3", where=_WHERE
        )
    expected_flags = np.ones(len(records), dtype=np.uint16)
    expected_flags[[0, -2, -1]] = 0
    if not np.array_equal(records["flag"], expected_flags):
        raise DeliveryError(
            "the machine plan's flags do not end with its last spot: it seems cut short", where=_WHERE
        )
    times_us = records["time_us"].astype(np.int64)
    if times_us[0] != 0 or np.any(np.diff(times_us) < 0):
        raise DeliveryError("the machine plan's times do not ascend from 0", where=_WHERE)
    spots = records[1:-1]
    return MachinePlan(
        time_s=(times_us[1:-1] - times_us[1]) * 1e-6,
        positions_mm=np.column_stack(
            [
                (spots["x"].astype(np.float64) - preset.x_offset) * preset.x_gain_mm,
                (spots["y"].astype(np.float64) - preset.y_offset) * preset.y_gain_mm,
            ]
        ),
    )
