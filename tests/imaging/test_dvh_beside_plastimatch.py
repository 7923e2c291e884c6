"""Dose and volume beside another program, plastimatch 1.9.4, which samples the dose at the nearest voxel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mqi_dagster.imaging.course_dvh import DvhRequest, make_dvh
from mqi_dagster.imaging.dvh_files import METRICS
from tests.courses.made_objects import Made
from tests.imaging.made_course import (
    GRID,
    PSEUDONYMS,
    course_grid,
    dose,
    drawn,
    drawn_record,
    images,
    on_disk,
    published,
)
from tests.imaging.shapes import Floats, circle, heights, sphere

MADE = Made(1)
BIN_GY = 0.02
SHAPES: dict[str, list[Floats]] = {
    "sphere": sphere(GRID, 20.0),
    "beside": sphere(GRID, 12.0, (14.0, -9.0, 11.0)),
    "cylinder": [circle(8.0, z, (-12.0, 5.0)) for z in heights(GRID) if abs(z) < 25],
}

pytestmark = pytest.mark.skipif(shutil.which("plastimatch") is None, reason="plastimatch is not on the PATH")


def by_plastimatch(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Volume [cm³], mean and D95 [Gy] of each structure, from its differential histogram in voxels."""
    flat = folder / "flat"
    flat.mkdir()
    for number, file in enumerate(path for path in (folder / "tree").rglob("*") if path.is_file()):
        shutil.copy(file, flat / f"{number}.dcm")
    made = {name: str(folder / name) for name in ("ss.mha", "ss.txt", "dose.mha", "dvh.csv")}
    _run(
        "convert", "--input", str(flat), "--output-ss-img", made["ss.mha"],
        "--output-ss-list", made["ss.txt"], "--output-dose-img", made["dose.mha"],
    )  # fmt: skip
    _run(
        "dvh", "--input-ss-img", made["ss.mha"], "--input-ss-list", made["ss.txt"],
        "--input-dose", made["dose.mha"], "--output-csv", made["dvh.csv"], "--differential",
        "--bin-width", str(BIN_GY), "--num-bins", "3000", "--normalization", "vox",
    )  # fmt: skip
    names, *rows = [line.split(",") for line in Path(made["dvh.csv"]).read_text().splitlines() if line]
    table = np.array([[float(cell) for cell in row[: len(names)]] for row in rows])
    found = {}
    for column, name in enumerate(names[1:], start=1):
        counts = table[:, column]
        below = np.cumsum(counts) / counts.sum()
        d95 = float(table[int(np.searchsorted(below, 0.05)), 0])
        mean = float(table[:, 0] @ counts / counts.sum())
        found[name.split("|")[-1].strip()] = (float(counts.sum()) * GRID.voxel_mm3 / 1000, mean, d95)
    return found


def _run(command: str, *arguments: str) -> None:
    subprocess.run(["plastimatch", command, *arguments], check=True, capture_output=True)


def test_volume_mean_and_d95_agree_within_its_resolution(tmp_path: Path) -> None:
    ramp = dose(
        MADE, lambda x, y, z: 30 + 0.3 * x - 0.2 * y + 0.25 * z, low_mm=-41.0, spacing_mm=2.0, count=42
    )
    course = on_disk(tmp_path, MADE, [*images(MADE), drawn(MADE, SHAPES), MADE.plan(), ramp])
    records = [drawn_record(MADE, n, name, of) for n, (name, of) in enumerate(SHAPES.items(), start=1)]
    structures = published(tmp_path / "structures", MADE, records)
    (tmp_path / "out").mkdir()
    make_dvh(
        DvhRequest(
            "RAAAAAAAAA.c01", course.inventory, structures, tmp_path / "structures", course_grid(MADE), "",
            course.content, PSEUDONYMS.dose, 0.5,
        ),
        tmp_path / "out",
    )  # fmt: skip
    metrics = pl.read_parquet(tmp_path / "out" / METRICS)
    theirs = by_plastimatch(tmp_path)
    ours = {row["ROI_Name"]: row for row in metrics.iter_rows(named=True)}
    assert sorted(ours) == sorted(theirs) == sorted(SHAPES)
    for name, (volume_cm3, mean, d95) in theirs.items():
        # Its pixels of 1 mm are inside as a whole or outside: a quarter of one all along the outline.
        assert ours[name]["Volume (cm³)"] == pytest.approx(volume_cm3, rel=0.05)
        # The same moves the mean by nothing, and D95 by a quarter of a pixel in 0.44 Gy/mm.
        assert ours[name]["DmeanGy"] == pytest.approx(mean, abs=0.03)
        assert ours[name]["D95Gy"] == pytest.approx(d95, abs=0.11)
