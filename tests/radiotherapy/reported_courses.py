"""Courses whose inventory is real, and whose later results a test publishes as their stages would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import yaml

from mqi_dagster.assets.radiotherapy.cohort import cohort_tables
from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.assets.radiotherapy.report import course_report
from mqi_dagster.courses.dose_rules import DoseRule
from mqi_dagster.courses.grouping import group_patient
from mqi_dagster.imaging.dvh_files import (
    CURVES,
    METRICS,
    CourseDvh,
    DoseUsed,
    GoalResult,
    StructureFigures,
    write_dvh,
)
from mqi_dagster.imaging.dvh_table import METRICS_SCHEMA
from mqi_dagster.imaging.radiomics_files import (
    CourseRadiomics,
    RegionStatus,
    StructureRadiomics,
    write_radiomics,
)
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    Segmentation,
    SegmentationState,
    write_segmentations,
)
from mqi_dagster.imaging.structure_files import (
    MASKS,
    CourseStructures,
    StructureRecord,
    StructureSource,
    write_mask,
    write_structures,
)
from mqi_dagster.imaging.structure_names import Naming
from mqi_dagster.lifecycle.course import keyed_courses, load_course, open_index
from mqi_dagster.lifecycle.course_results import made_of
from mqi_dagster.lifecycle.lineage import DIGEST
from mqi_dagster.resources.composed import resources_of
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from tests.courses.made_objects import Made

PLANES, PIXELS = 6, 32
SHAPE = (PLANES, PIXELS, PIXELS)
ASSETS = {one.key.to_user_string(): one for one in (course_inventory, course_report, cohort_tables)}


def made(number: int) -> Made:
    """A patient whose name, ID and birth date occur nowhere else."""
    return Made(number, patient_id=f"ZQ-77-{number}", name=f"Findmich^Nummer{number}", birth_date="19470813")


IDENTITY = ("ZQ-77", "Findmich", "19470813", "1947-08-13", "13.08.1947")
"""What must not stand in a result."""


def images(one: Made, planes: Iterable[int] = range(PLANES)) -> list[bytes]:
    """Water in air, 1 × 1 × 3 mm."""
    pixels = np.full((PIXELS, PIXELS), -1000, "<i2")
    pixels[4:28, 4:28] = 0
    return [
        one.image(
            plane,
            Rows=PIXELS,
            Columns=PIXELS,
            PixelRepresentation=1,
            PixelPaddingValue=None,
            PatientPosition="HFS",
            RescaleSlope=1,
            RescaleIntercept=0,
            PixelData=pixels.tobytes(),
            # What people type may name the patient.
            SeriesDescription=f"chest {one.name}",
        )
        for plane in planes
    ]


def dose(one: Made, *, gy: float = 60.0, index: int = 1) -> bytes:
    """An even dose over all images, on a grid of 4 mm."""
    values = np.full((5, 9, 9), round(gy * 1000), "<u4")
    return one.dose(
        index,
        Rows=9,
        Columns=9,
        NumberOfFrames=5,
        PixelSpacing=[4, 4],
        GridFrameOffsetVector=[0, 4, 8, 12, 16],
        FrameIncrementPointer=0x3004000C,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=32,
        BitsStored=32,
        HighBit=31,
        PixelRepresentation=0,
        DoseGridScaling="0.001",
        PixelData=values.tobytes(),
    )


def whole(one: Made) -> list[bytes]:
    """Images, structure set, plan and dose, with labels that name the patient."""
    labelled = one.plan(label=one.name[:16], RTPlanName=one.patient_id)
    return [*images(one), one.structures(slices=PLANES, StructureSetLabel=one.name[:16]), labelled, dose(one)]


class ReportedCourses:
    """A site with courses.

    Args:
        folder: Everything lies below it.
        qc: Settings of quality control.
    """

    def __init__(self, folder: Path, qc: dict[str, Any] | None = None) -> None:
        self.tree = folder / "dicom"
        self.tree.mkdir()
        settings = folder / "mqi.yaml"
        settings.write_text(
            yaml.safe_dump(
                {
                    "site": {"timezone": "Asia/Seoul"},
                    "radiotherapy": {"dicom_root": str(self.tree), "qc": qc or {}},
                }
            )
        )
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32 + "\n")
        self.site = Site(settings)
        self.instance = dg.DagsterInstance.ephemeral()

    def add(self, one: Made, objects: Sequence[bytes]) -> None:
        """Put objects into the tree."""
        for content in objects:
            one.at(self.tree).write(content)

    def scan(self) -> dict[str, str]:
        """Index the tree and add its courses; their keys by patient ID."""
        found = {}
        with closing(open_index(self.site)) as index:
            index.scan(workers=1)
            for patient in index.patients():
                group = group_patient(patient, index.objects(patient), self.site.pseudonyms.keyed, None)
                for key in keyed_courses(self.site, group):
                    found[patient.patient_id] = key
        self.instance.add_dynamic_partitions("course", list(found.values()))
        return found

    def run(self, asset: str, key: str | None = None) -> bool:
        """Materialise a real asset; whether it succeeded."""
        result = dg.materialize(
            [ASSETS[asset]],
            instance=self.instance,
            partition_key=key,
            resources=resources_of(self.site),
            raise_on_error=False,
            tags={"dagster/partition": key} if key else {},
        )
        return result.success

    def metadata(self, asset: str, key: str | None = None) -> dict[str, Any]:
        """Plain metadata of the latest materialisation."""
        event = self._latest(asset, key)
        return {name: value.value for name, value in event.metadata.items()}

    def table(self, asset: str, name: str, key: str | None = None) -> list[dict[str, Any]]:
        """A table in the metadata of the latest materialisation."""
        value = self._latest(asset, key).metadata[name]
        assert isinstance(value, dg.TableMetadataValue)
        return [dict(record.data) for record in value.records]

    def _latest(self, asset: str, key: str | None) -> dg.AssetMaterialization:
        wanted = dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=None if key is None else [key]
        )
        (record,) = self.instance.fetch_materializations(wanted, limit=1).records
        assert record.asset_materialization is not None
        return record.asset_materialization

    def result(self, asset: str, key: str) -> Published:
        """The latest result of a course."""
        return self.site.store.resolve(key, None, asset, self.metadata(asset, key)["digest"])

    def publish(self, asset: str, key: str, digest: str, fill: Any) -> None:
        """Publish a result as its stage would: `fill` writes it into a folder."""
        with self.site.store.stage(key, None, asset) as folder:
            fill(folder)
            course = load_course(self.instance, self.site.store, self.site, key)
            self.site.store.publish(
                folder, key, None, asset, digest, meta=made_of(course, series=course.analysed)
            )
        event = dg.AssetMaterialization(asset, partition=key, metadata={DIGEST: digest})
        self.instance.report_runless_asset_event(event)

    def planning(self, one: Made) -> str:
        """Pseudonym of the planning series of a course."""
        return self.site.pseudonyms.series(one.uid(10))

    def stages(self, one: Made, key: str, version: str = "1", mean_gy: float = 57.5) -> None:
        """What segmentation, structures, DVH and radiomics of a course would have made."""
        series = self.planning(one)
        self.publish("auto_segmentation", key, f"auto{version}", lambda to: write_segmentations(MODELS, to))
        self.publish("structures", key, f"structures{version}", lambda to: fill_structures(to, series))
        self.publish("dvh", key, f"dvh{version}", lambda to: fill_dvh(to, one, key, mean_gy))
        self.publish("radiomics", key, f"radiomics{version}", lambda to: fill_radiomics(to, key, series))


MODELS = CourseSegmentations(
    segmentations=(
        Segmentation(
            series="SABCDEFGHJ", model="rules_ct", version="1.2", state=SegmentationState.MADE, device="cpu",
            limits=("adults only",), family="Rule-based",
        ),
    )
)  # fmt: skip


def record(id_: str, series: str, name: str, source: StructureSource, **more: Any) -> StructureRecord:
    """A structure."""
    return StructureRecord(
        **{
            "id": id_, "series": series, "name": name, "original_name": name.lower(), "source": source,
            "naming": Naming.STANDARD, "made_by": "somebody", "volume_cm3": 0.432, "voxels": 144,
            "centre_mm": (16.0, 16.0, 7.5), **more,
        }
    )  # fmt: skip


def fill_structures(folder: Path, series: str) -> None:
    """A body, a target, a heart that is empty, and a lung with a fault."""
    masks = {one: np.zeros(SHAPE, bool) for one in ("body", "ptv", "heart", "lung")}
    masks["body"][:, 4:28, 4:28] = True
    masks["ptv"][2:4, 12:18, 14:26] = True
    masks["lung"][1:5, 6:12, 6:14] = True
    (folder / MASKS).mkdir()
    for name, mask in masks.items():
        write_mask(mask, folder / MASKS / f"{name}.npz")
    clinical, automatic = StructureSource.CLINICAL, StructureSource.AUTOMATIC
    structures = (
        record("body", series, "External", automatic, made_by="rules_ct", volume_cm3=10.4, voxels=3456),
        record(
            "ptv", series, "PTV", clinical, interpreted_type="PTV", made_by="Findmich^Nummer1",
            structure_set_uid="1.2.3", roi_number=1,
        ),
        record("heart", series, "Heart", clinical, volume_cm3=0.0, voxels=0, centre_mm=None),
        record("lung", series, "=Lung_L", automatic, volume_cm3=0.576, voxels=192, faults=("ends early",)),
    )  # fmt: skip
    write_structures(CourseStructures(planning=series, structures=structures), folder)


def fill_dvh(folder: Path, one: Made, key: str, mean_gy: float) -> None:
    """Figures of the target and of the lung."""
    used = DoseUsed(
        dose_id="DABCDEFGHJ", label=one.name, dose_uids=(one.uid(40, 1),), plan_uids=(one.uid(30, 1),),
        rule=DoseRule.SINGLE, summed=False, dose_type="PHYSICAL", prescription_gy=60.0,
        prescription_source="TargetPrescriptionDose of its plan", frame_of_reference_fits=True,
        spacing_mm=(4.0, 4.0, 4.0), maximum_gy=60.0,
    )  # fmt: skip
    figures = tuple(
        StructureFigures(
            dose_id="DABCDEFGHJ", structure_id=id_, name=name, status="measured", coverage_percent=100.0,
            cropped=False,
        )
        for id_, name in (("ptv", "PTV"), ("lung", "=Lung_L"))
    )  # fmt: skip
    goal = GoalResult(
        dose_id="DABCDEFGHJ", structure="PTV", goal="D95% at least 57 Gy", value=57.1, unit="Gy",
        verdict="met", text="",
    )  # fmt: skip
    write_dvh(CourseDvh(doses=(used,), not_used=(), figures=figures, goals=(goal,)), folder)
    rows = [
        {
            **dict.fromkeys(METRICS_SCHEMA),
            "course": key,
            "dose_id": "DABCDEFGHJ",
            "dose_label": one.name,
            "made_by": one.name if source == "clinical" else "rules_ct",
            "rtstruct_label": one.name,
            "structure_id": id_,
            "ROI_Name": name,
            "Segmentation_Source": source,
            "Volume (cm³)": volume,
            "dose_metric_status": "measured",
            "dose_coverage_percent": 100.0,
            "DmeanGy": mean,
        }
        for id_, name, source, volume, mean in (
            ("ptv", "PTV", "clinical", 0.432, mean_gy),
            ("lung", "=Lung_L", "automatic", 0.576, 12.0),
        )
    ]
    pl.DataFrame(rows, schema=METRICS_SCHEMA).write_parquet(folder / METRICS)
    doses = [0.0, 20.0, 40.0, 60.0]
    pl.DataFrame(
        {
            "dose_id": ["DABCDEFGHJ"] * 8,
            "structure_id": ["ptv"] * 4 + ["lung"] * 4,
            "dose_gy": doses * 2,
            "volume_cm3": [0.432, 0.432, 0.43, 0.1, 0.576, 0.2, 0.1, 0.0],
            "volume_percent": [100.0, 100.0, 99.0, 20.0, 100.0, 35.0, 17.0, 0.0],
        }
    ).write_parquet(folder / CURVES)


def fill_radiomics(folder: Path, key: str, series: str) -> None:
    """One structure with features, one that is too small."""
    regions = (
        StructureRadiomics(series=series, structure_id="ptv", status=RegionStatus.COMPUTED),
        StructureRadiomics(
            series=series, structure_id="lung", status=RegionStatus.LEFT_OUT, reason="fewer than 200 voxels"
        ),
    )
    write_radiomics(CourseRadiomics(enabled=True, versions={"z-rad": "1.0"}, regions=regions), folder)
    pl.DataFrame(
        {
            "course": [key] * 2,
            "modality": ["CT"] * 2,
            "series": [series] * 2,
            "structure_id": ["ptv", "lung"],
            "roi_name": ["PTV", "=Lung_L"],
            "status": ["computed", "left out"],
            "reason": ["", "fewer than 200 voxels"],
            "morph_volume": [431.5, None],
        }
    ).write_parquet(folder / "radiomics.parquet")
