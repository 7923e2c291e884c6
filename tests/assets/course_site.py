"""A site with one course, for tests of the assets of courses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml

from mqi_dagster.assets.radiotherapy.dvh import dvh
from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.courses.grouping import groups
from mqi_dagster.definitions import build_definitions
from mqi_dagster.imaging.dvh_files import CURVES, METRICS, CourseDvh, read_dvh
from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    RegionRecord,
    StructureRecord,
    write_mask,
    write_structures,
)
from mqi_dagster.lifecycle.course import keyed_courses, load_course, open_index
from mqi_dagster.lifecycle.course_results import made_of
from mqi_dagster.lifecycle.lineage import DIGEST, latest_record, resolve
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.site import Site


class Course:
    """A site whose tree of DICOM files holds one course, which is organised.

    Args:
        folder: Everything of the site lies below it.
        contents: The DICOM files.
        series_uid: Of the planning series.
    """

    def __init__(self, folder: Path, contents: Iterable[bytes], series_uid: str) -> None:
        self.folder = folder
        self._series_uid = series_uid
        tree = (folder / "tree").resolve()
        tree.mkdir(parents=True)
        for number, content in enumerate(contents):
            (tree / f"{number}").write_bytes(content)
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        self.instance = dg.DagsterInstance.ephemeral()
        self.settings: dict[str, Any] = {
            "site": {"timezone": "Asia/Seoul"},
            "radiotherapy": {"dicom_root": str(tree)},
        }
        self.change()
        with closing(open_index(self.site)) as index:
            index.scan()
            found = [
                key
                for group in groups(index, self.site.pseudonyms.keyed)
                for key in keyed_courses(self.site, group)
            ]
        (self.key,) = found
        self.instance.add_dynamic_partitions(COURSE.name, [self.key])
        self.make(course_inventory)

    def change(self, **radiotherapy: Any) -> None:
        """Open the site with other settings."""
        self.settings["radiotherapy"] |= radiotherapy
        (self.folder / "mqi.yaml").write_text(yaml.safe_dump(self.settings))
        self.site = Site(self.folder / "mqi.yaml")
        self.definitions = build_definitions(self.site)

    def make(self, asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
        """Materialise an asset of the course."""
        return dg.materialize(
            [asset],
            instance=self.instance,
            partition_key=self.key,
            resources=dict(self.definitions.resources or {}),
            raise_on_error=False,
        )

    def give_structures(
        self,
        records: Sequence[StructureRecord],
        digest: str = "a" * 64,
        region: RegionRecord | None = None,
        masks: dict[str, Any] | None = None,
    ) -> None:
        """Publish structures as their asset does."""
        series = self.site.pseudonyms.series(self._series_uid)
        store = self.site.store
        with store.stage(self.key, None, "structures") as staging:
            (staging / MASKS).mkdir()
            for name, mask in (masks or {}).items():
                write_mask(mask, staging / MASKS / f"{name}.npz")
            of_series = tuple(one.model_copy(update={"series": series}) for one in records)
            content = CourseStructures(planning=series, structures=of_series, region=region)
            write_structures(content, staging)
            course = load_course(self.instance, store, self.site, self.key)
            store.publish(
                staging, self.key, None, "structures", digest, meta=made_of(course, series=course.analysed)
            )
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization("structures", partition=self.key, metadata={DIGEST: digest})
        )

    def measured(self) -> tuple[CourseDvh, pl.DataFrame]:
        """Make the asset, and read what it has published."""
        result = self.make(dvh)
        assert result.success, [event.message for event in result.all_events if event.is_failure]
        folder = resolve(self.instance, self.site.store, "dvh", self.key).folder
        assert (folder / CURVES).is_file()
        return read_dvh(folder), pl.read_parquet(folder / METRICS)

    def metadata(self) -> dict[str, Any]:
        """Of the latest materialisation."""
        found = latest_record(self.instance, "dvh", self.key)
        assert found is not None and found.asset_materialization is not None
        return {name: value.value for name, value in found.asset_materialization.metadata.items()}
