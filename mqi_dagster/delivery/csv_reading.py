"""Reading interpreted CSVs back, in either dialect, piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mqi_dagster.errors import DeliveryError, Where
from mqi_dagster.settings import CsvDialect

if TYPE_CHECKING:
    import polars as pl

_WHERE = Where(kind="interpreted CSV")
_BLOCK_BYTES = 1 << 22
_COMMA, _LINE_FEED = b",\n"


@dataclass(frozen=True, slots=True)
class CsvFacts:
    """What a CSV holds as a whole."""

    dialect: CsvDialect
    samples: int
    count_sum: int
    sha256: str


def csv_dialect(path: Path) -> CsvDialect:
    """The dialect a CSV is written in: a first line of four numbers is a row.

    One single sample looks the same in both; it counts as ``rows``.

    Raises:
        DeliveryError: The file cannot be read, or its first line fits neither.
    """
    commas = 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                line, end, _ = block.partition(b"\n")
                commas += line.count(b",")
                if end:
                    break
    except OSError as error:
        raise DeliveryError(f"cannot be read: {error.strerror}", where=_WHERE) from error
    if commas == 3:
        return CsvDialect.ROWS
    if commas % 4 == 3:
        return CsvDialect.FLAT
    raise DeliveryError("the first line is no whole number of time, x, y, count", where=_WHERE)


def read_samples(
    path: Path, dialect: CsvDialect, digest: hashlib._Hash | None = None
) -> Iterator[pl.DataFrame]:
    """The samples in pieces: columns time_ms, x_mm, y_mm (Float64) and count (Int64).

    Args:
        path: The CSV.
        dialect: How it is written.
        digest: Updated with the file's bytes.

    Raises:
        DeliveryError: It cannot be read, or a sample is not three finite numbers and a whole,
            non-negative count.
    """
    rest = b""
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                if digest is not None:
                    digest.update(block)
                lines, rest = _whole_lines(rest + block, dialect)
                if lines:
                    yield _parsed(lines)
    except OSError as error:
        raise DeliveryError(f"cannot be read: {error.strerror}", where=_WHERE) from error
    if rest.strip():
        yield _parsed(rest)


def _whole_lines(text: bytes, dialect: CsvDialect) -> tuple[bytes, bytes]:
    """Complete samples as lines, and the rest; of flat text every fourth comma becomes a line end."""
    if dialect is CsvDialect.ROWS:
        cut = text.rfind(b"\n") + 1
        return text[:cut], text[cut:]
    symbols = np.frombuffer(text, dtype=np.uint8).copy()
    ends = np.flatnonzero(symbols == _COMMA)[3::4]
    if not len(ends):
        return b"", text
    symbols[ends] = _LINE_FEED
    cut = int(ends[-1]) + 1
    return symbols[:cut].tobytes(), text[cut:]


def _parsed(lines: bytes) -> pl.DataFrame:
    import polars as pl  # here: a run that finds its CSVs unchanged does not wait for it

    schema = {"time_ms": pl.Float64, "x_mm": pl.Float64, "y_mm": pl.Float64, "count": pl.Int64}
    try:
        frame = pl.read_csv(lines, has_header=False, schema=schema, quote_char=None)
    except pl.exceptions.PolarsError as error:
        raise DeliveryError("a sample is not time, x, y and a whole count", where=_WHERE) from error
    numbers = frame.select(pl.col("time_ms", "x_mm", "y_mm").is_finite().all())
    if sum(frame.null_count().row(0)) or not all(numbers.row(0)):
        raise DeliveryError("a sample lacks a number, or one is not finite", where=_WHERE)
    if int(frame["count"].min() or 0) < 0:  # type: ignore[arg-type]
        raise DeliveryError("a count is negative", where=_WHERE)
    return frame


def csv_facts(path: Path, dialect: CsvDialect | None = None) -> CsvFacts:
    """Read a CSV through and say what it holds.

    Args:
        path: The CSV.
        dialect: The dialect it must have; any where None.

    Raises:
        DeliveryError: It cannot be read, is damaged, holds no sample, or has the other dialect.
    """
    found = csv_dialect(path)
    digest = hashlib.sha256()
    samples = count_sum = 0
    for frame in read_samples(path, found, digest):
        samples += len(frame)
        count_sum += int(frame["count"].sum())
    if not samples:
        raise DeliveryError("it holds no sample", where=_WHERE)
    if dialect is not None and samples > 1 and found is not dialect:
        raise DeliveryError(f"it is written as {found.value}, the engine wants {dialect.value}", where=_WHERE)
    return CsvFacts(dialect or found, samples, count_sum, digest.hexdigest())
