"""The engine's CSVs: time [ms], x [mm], y [mm], count, as a row per sample or all in one line."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from mqi_dagster.errors import InfrastructureError, Where
from mqi_dagster.files import whole_file
from mqi_dagster.settings import CsvDialect

_WHERE = Where(kind="interpreted CSV")
_BETWEEN = {CsvDialect.ROWS: b"\r\n", CsvDialect.FLAT: b","}
_AT_END = {CsvDialect.ROWS: b"\r\n", CsvDialect.FLAT: b"\n"}


def beam_folder(beam_name: str) -> str:
    """Folder of a beam: its name with everything outside [A-Za-z0-9_-] replaced by ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", beam_name) or "_"


def layer_file(number: int, energy_mev: float, layer_count: int) -> str:
    """Name of a layer's CSV, zero-padded so that the order of names is the order of layers."""
    width = 3 if layer_count >= 100 else 2
    return f"{number:0{width}d}_{energy_mev:.2f}MeV.csv"


class CsvWriter:
    """Writes one CSV piece by piece; it appears under its name, on the disk, when all is written.

    Floats stand in the shortest form that reads back to the same float32. Used as a context manager: an
    error inside leaves nothing behind.

    Args:
        path: The CSV. Its folder is made.
        dialect: ``rows`` ends every sample with CRLF; ``flat`` puts commas between all numbers and one LF
            at the end.
    """

    def __init__(self, path: Path, dialect: CsvDialect) -> None:
        self._path = path
        self._whole = whole_file(path)
        self._between = _BETWEEN[dialect]
        self._at_end = _AT_END[dialect]
        self._digest = hashlib.sha256()
        self._started = False
        self._stream: IO[bytes] | None = None

    @property
    def sha256(self) -> str:
        """Digest of what was written so far."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._whole.__enter__()
        except OSError as error:
            raise _not_written(error) from error
        return self

    def append(
        self,
        time_ms: NDArray[np.float32],
        positions_mm: NDArray[np.float32],
        counts: NDArray[np.int64],
    ) -> None:
        """Write the next samples.

        Args:
            time_ms: Shape (n,).
            positions_mm: Shape (n, 2).
            counts: Shape (n,).

        Raises:
            InfrastructureError: The disk did not take them.
        """
        if not len(counts):
            return
        import polars as pl  # here: who only names a CSV does not wait for it

        text = io.BytesIO()
        pl.DataFrame(
            {
                "time_ms": time_ms,
                "x_mm": np.ascontiguousarray(positions_mm[:, 0]),
                "y_mm": np.ascontiguousarray(positions_mm[:, 1]),
                "count": counts,
            }
        ).write_csv(text, include_header=False, line_terminator=self._between.decode(), quote_style="never")
        # The separator after the last sample is only known to be one when another sample follows.
        with text.getbuffer() as view:
            self._write(self._between if self._started else b"")
            self._write(view[: len(view) - len(self._between)])
        self._started = True

    def _write(self, piece: bytes | memoryview) -> None:
        assert self._stream is not None
        self._digest.update(piece)
        try:
            self._stream.write(piece)
        except OSError as error:
            raise _not_written(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write(self._at_end)
        except InfrastructureError as failure:
            self._whole.__exit__(type(failure), failure, failure.__traceback__)
            raise
        try:
            self._whole.__exit__(kind, error, trace)
        except OSError as failure:
            raise _not_written(failure) from failure


def _not_written(error: OSError) -> InfrastructureError:
    return InfrastructureError(f"a CSV cannot be written: {error.strerror}", where=_WHERE)
