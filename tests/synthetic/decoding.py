"""The tests' own decoders of what the machine writes; nothing of them comes from the product."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def rows(path: Path) -> np.ndarray:
    """A record as (rows, 8) integers."""
    content = path.read_bytes()
    assert len(content) % 16 == 0
    return np.array(struct.unpack(f">{len(content) // 2}H", content), dtype=np.int64).reshape(-1, 8)


def is_on(record: np.ndarray) -> np.ndarray:
    return record[:, 7] // 16384 == 3


def flag_runs(record: np.ndarray) -> list[tuple[int, int]]:
    """Successive values of column 7 and how many rows each lasts."""
    runs: list[list[int]] = []
    for value in record[:, 7].tolist():
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return [(value, length) for value, length in runs]


def machine_plan(path: Path) -> list[tuple[int, ...]]:
    """(time_us, xamp, yamp, xpreset, ypreset, flag) of every record of a ``.mgn``."""
    return list(struct.iter_unpack(">I5H", path.read_bytes()))


def key_values(path: Path) -> dict[str, str]:
    """PlanInfo as a dictionary."""
    return dict(line.split(",", 1) for line in path.read_text().splitlines())


def table(path: Path) -> list[dict[str, str]]:
    """PlanRange as dictionaries."""
    header, *lines = path.read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
