"""What the stages of a course have left in the store, as the report and the tables of all courses read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.imaging.dvh_files import CURVES, METRICS, CourseDvh, read_dvh
from mqi_dagster.imaging.radiomics_files import TABLE, CourseRadiomics, read_radiomics
from mqi_dagster.imaging.segmentation_files import CourseSegmentations, read_segmentations
from mqi_dagster.imaging.structure_files import CourseStructures, read_structures

SEGMENTATION_ASSETS = ("auto_segmentation", "custom_segmentation")
STRUCTURES_ASSET, DVH_ASSET, RADIOMICS_ASSET = "structures", "dvh", "radiomics"
STAGES = (*SEGMENTATION_ASSETS, STRUCTURES_ASSET, DVH_ASSET, RADIOMICS_ASSET)
"""The assets that a report is made of, beside the inventory, in their order."""


@dataclass(frozen=True)
class CourseResults:
    """The results of a course; what was not made is None."""

    folders: Mapping[str, Path]
    """Of each result that there is, by asset; verified."""
    missing: Mapping[str, str]
    """Why there is no result, of each asset that has none."""

    @cached_property
    def segmentations(self) -> Mapping[str, CourseSegmentations]:
        """By asset."""
        there = [asset for asset in SEGMENTATION_ASSETS if asset in self.folders]
        return {asset: read_segmentations(self.folders[asset]) for asset in there}

    @cached_property
    def structures(self) -> CourseStructures | None:
        """The records of structures."""
        folder = self.folders.get(STRUCTURES_ASSET)
        return None if folder is None else read_structures(folder)

    @cached_property
    def dvh(self) -> CourseDvh | None:
        """The record of doses."""
        folder = self.folders.get(DVH_ASSET)
        return None if folder is None else read_dvh(folder)

    @cached_property
    def dose_metrics(self) -> pl.DataFrame | None:
        """A row for each dose and structure."""
        return self.table(DVH_ASSET, METRICS)

    @cached_property
    def dose_curves(self) -> pl.DataFrame | None:
        """The cumulative curves."""
        return self.table(DVH_ASSET, CURVES)

    @cached_property
    def radiomics(self) -> CourseRadiomics | None:
        """The record of radiomics."""
        folder = self.folders.get(RADIOMICS_ASSET)
        return None if folder is None else read_radiomics(folder)

    @cached_property
    def features(self) -> pl.DataFrame | None:
        """A row for each structure."""
        return self.table(RADIOMICS_ASSET, TABLE)

    def table(self, asset: str, name: str) -> pl.DataFrame | None:
        """A table of a result; None where there is no such result, or it has no such table.

        Raises:
            StoreError: It is no Parquet file.
        """
        folder = self.folders.get(asset)
        if folder is None or not (folder / name).is_file():
            return None
        try:
            return pl.read_parquet(folder / name)
        except PolarsError:
            raise StoreError("a table cannot be read", where=Where(kind=asset)) from None
