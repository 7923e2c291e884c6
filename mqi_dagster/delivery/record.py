"""The machine record (``.ptn``): one row of eight big-endian unsigned 16-bit words per sample, no header.

Columns (docs/formats.md 2): 0, 1 position x, y; 2, 3 beam size; 4, 5 dose monitors 1, 2; 6 layer number;
7 flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.machine import Record

Words = NDArray[np.uint16]

COLUMNS = 8
ROW_BYTES = 16
X, Y, DOSE_1, DOSE_2, LAYER, FLAGS = 0, 1, 4, 5, 6, 7

ON_BITS = 0xC000
"""Plan on and actually on. The bits below count the repainting and may be zero (49152 is on)."""

CHUNK_ROWS = 1 << 17
"""Rows that are in memory at once where a record is streamed."""

_WHERE = Where(kind="record")


def _checked_rows(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DeliveryError(f"the record cannot be read: {error.strerror}", where=_WHERE) from error
    if size == 0:
        raise DeliveryError("the record is empty", where=_WHERE)
    if size % ROW_BYTES:
        raise DeliveryError(
            f"the record has {size} bytes, which is no whole number of {ROW_BYTES}-byte rows:"
            " it seems cut short",
            where=_WHERE,
        )
    return size // ROW_BYTES


def record_chunks(
    path: Path, rows_per_chunk: int = CHUNK_ROWS, on_bytes: Callable[[bytes], object] | None = None
) -> Iterator[Words]:
    """The record in pieces of at most ``rows_per_chunk`` rows, so that its length costs no memory.

    Args:
        path: The ``.ptn`` file.
        rows_per_chunk: Most rows of a piece.
        on_bytes: Called with each piece as it stands in the file, for digests.

    Yields:
        Arrays of shape (rows, 8) in native byte order, in the order of time.

    Raises:
        DeliveryError: The file cannot be read, is empty, or is no whole number of rows.
    """
    expected = _checked_rows(path)
    seen = 0
    try:
        with path.open("rb") as stream:
            while seen < expected:
                raw = stream.read(min(rows_per_chunk, expected - seen) * ROW_BYTES)
                if not raw or len(raw) % ROW_BYTES:
                    raise DeliveryError("the record became shorter while it was read", where=_WHERE)
                if on_bytes is not None:
                    on_bytes(raw)
                words = np.frombuffer(raw, dtype=">u2").astype(np.uint16).reshape(-1, COLUMNS)
                seen += len(words)
                yield words
    except OSError as error:
        raise DeliveryError(f"the record cannot be read: {error.strerror}", where=_WHERE) from error


def beam_on(record: Words) -> NDArray[np.bool_]:
    """Which samples have both beam bits: planned on and actually on; shape (rows,)."""
    on: NDArray[np.bool_] = (record[:, FLAGS] & ON_BITS) == ON_BITS
    return on


def positions_mm(record: Words, calibration: Record) -> NDArray[np.float64]:
    """Positions at the isocentre plane: (raw - offset) * gain; shape (rows, 2) [mm]."""
    offset = np.array([calibration.x_offset, calibration.y_offset], dtype=np.float64)
    gain = np.array([calibration.x_gain_mm, calibration.y_gain_mm])
    positions: NDArray[np.float64] = (record[:, (X, Y)] - offset) * gain
    return positions
