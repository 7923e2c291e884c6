"""The asset of structures: made once, and anew when what it is made from is another."""

from __future__ import annotations

import shutil
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pydicom
import pytest
import yaml

from mqi_dagster.assets.radiotherapy.organise import course_inventory
from mqi_dagster.assets.radiotherapy.structures import structures
from mqi_dagster.courses.grouping import group_patient
from mqi_dagster.imaging.segmentation_files import CourseSegmentations, write_segmentations
from mqi_dagster.imaging.structure_files import CourseStructures, StructureRecord, read_structures
from mqi_dagster.lifecycle.course import keyed_courses, load_course, open_index
from mqi_dagster.lifecycle.course_results import made_of
from mqi_dagster.lifecycle.lineage import DIGEST, resolve
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.composed import StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.digests import digest_of
from tests.imaging.ct_series import SERIES, ct_headers, write_ct
from tests.imaging.drawn_structures import MADE, region, segmentation, structure_set
from tests.imaging.mask_shapes import box
from tests.imaging.shapes import axial_grid, sphere
from tests.imaging.test_head_phantom import ARCHIVE

GRID = axial_grid(2.0, 1.0, planes=30, pixels=60)
BLOCK = box(GRID, (-10, -10, -10), (10, 10, 10))


class CourseSite:
    """A site with a tree of DICOM files, and Dagster's records of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree = folder, folder / "tree"
        self.tree.mkdir()
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("5a" * 32)
        self.instance = dg.DagsterInstance.ephemeral()
        self.configure()

    def configure(self, **radiotherapy: Any) -> None:
        """Write the settings and open the site with them."""
        path = self.folder / "mqi.yaml"
        content = {
            "site": {"timezone": "Asia/Seoul"},
            "radiotherapy": {"dicom_root": str(self.tree), **radiotherapy},
        }
        path.write_text(yaml.safe_dump(content))
        self.site = Site(path)

    def organise(self) -> str:
        """Scan the tree, which holds one course; its key."""
        with closing(open_index(self.site)) as index:
            index.scan()
            (patient,) = index.patients()
            group = group_patient(patient, index.objects(patient), self.site.pseudonyms.keyed, None)
        (key,) = keyed_courses(self.site, group)
        self.instance.add_dynamic_partitions(COURSE.name, [key])
        assert self._made(course_inventory, key).success
        return key

    def segment(self, key: str, folder: Path | None = None) -> None:
        """Publish what a model has left, as the automatic segmentation; and no custom one."""
        store = self.site.store
        for asset, made in (("auto_segmentation", folder), ("custom_segmentation", None)):
            with store.stage(key, None, asset) as staging:
                if made is None:
                    write_segmentations(CourseSegmentations(segmentations=()), staging)
                else:
                    shutil.copytree(made, staging, dirs_exist_ok=True)
                course = load_course(self.instance, store, self.site, key)
                meta = made_of(course, series=course.analysed)
                digest = digest_of(asset=asset, made=str(made is None), of=meta)
                store.publish(staging, key, None, asset, digest, meta=meta)
            event = dg.AssetMaterialization(asset, partition=key, metadata={DIGEST: digest})
            self.instance.report_runless_asset_event(event)

    def structures(self, key: str) -> tuple[CourseStructures, Path]:
        """Make the structures; the records, and where they are."""
        result = self._made(structures, key)
        assert result.success
        self.metadata = {
            name: value.value
            for name, value in result.asset_materializations_for_node("structures")[0].metadata.items()
        }
        self.checks = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
        published = resolve(self.instance, self.site.store, "structures", key)
        return read_structures(published.folder), published.folder

    def failure(self, key: str) -> str:
        """Why the structures cannot be made."""
        failed = self._made(structures, key).failure_data_for_node("structures")
        assert failed is not None and failed.user_failure_data is not None
        return str(failed.user_failure_data.description)

    def _made(self, asset: dg.AssetsDefinition, key: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset],
            instance=self.instance,
            partition_key=key,
            resources={"site": self.site, "store": StoreResource(site=self.site)},
            raise_on_error=False,
        )


@pytest.fixture
def at(tmp_path: Path) -> CourseSite:
    return CourseSite(tmp_path)


def named(content: CourseStructures, name: str) -> StructureRecord:
    (one,) = [one for one in content.structures if one.original_name == name]
    return one


def a_course(at: CourseSite, tmp_path: Path) -> str:
    write_ct(at.tree, GRID)
    rois = [(1, "PTV", sphere(GRID, 18.0)), (2, "Shell", [*sphere(GRID, 18.0), *sphere(GRID, 9.0)])]
    MADE.at(at.tree).write(structure_set(GRID, rois, image_uid=str(ct_headers(GRID)[0].SOPInstanceUID)))
    key = at.organise()
    left = tmp_path / "left"
    left.mkdir()
    name = at.site.pseudonyms.series(SERIES)
    segmentation(left, name, BLOCK.astype(np.uint16), GRID, [region(1, "Block", 4000)])
    at.segment(key, left)
    return key


def test_a_course_has_all_its_structures(at: CourseSite, tmp_path: Path) -> None:
    file = tmp_path / "custom_structures.yaml"
    file.write_text("custom_structures: [{name: Hull, source_structures: [Shell, Block]}]")
    at.configure(
        structures={"custom_structures": str(file)},
        ct_cropping={
            "enabled": True,
            "structures": ["Block"],
            "superior_margin_cm": 0,
            "inferior_margin_cm": 0,
        },
    )
    key = a_course(at, tmp_path)
    content, folder = at.structures(key)
    assert content.planning == at.site.pseudonyms.series(SERIES)
    assert [(one.original_name, one.source.value, one.made_by) for one in content.structures] == [
        ("PTV", "clinical", "drawn"),
        ("Shell", "clinical", "drawn"),
        ("Block", "automatic", "made_model"),
        ("Hull", "derived", "custom_structures"),
    ]
    assert named(content, "PTV").volume_cm3 == pytest.approx(24.429, rel=5e-3)
    assert named(content, "Shell").volume_cm3 == pytest.approx(21.375, rel=5e-3)
    assert named(content, "Block").cut_off_percent == 0
    # Segments of the ball beyond 10 mm: 2 π 8² (54 - 8) / 3 of 24,429 mm³.
    assert named(content, "PTV").cut_off_percent == pytest.approx(25.24, abs=1.0)
    assert (content.faults, content.region is not None) == ((), True)
    assert sorted(path.name for path in folder.glob("*.dcm")) == ["RS.dcm", "SEG.dcm"]
    assert pydicom.dcmread(folder / "RS.dcm").PatientID == "P-1"
    assert (at.metadata["structures"], at.metadata["faults"]) == (4, "none")
    table = [row.data for row in at.metadata["structure table"].records]
    assert table[0]["name"] == "PTV" and table[0]["volume [cm3]"] == pytest.approx(24.43, rel=5e-3)
    told = f"{at.metadata}"
    assert not [one for one in ("P-1", "Prüfung", "Seventyseven", str(tmp_path)) if one in told]
    assert at.checks == {
        "structures_taken": True,
        "not_empty": True,
        "not_doubled": True,
        "inside_images": True,
        "not_cut": True,
        "no_gaps": True,
        "names_clear": True,
        "laterality": True,
    }


def test_a_second_run_reuses_and_a_change_makes_a_new_result(at: CourseSite, tmp_path: Path) -> None:
    key = a_course(at, tmp_path)
    _, first = at.structures(key)
    stamp = (first / "structures.json").stat().st_mtime_ns
    _, second = at.structures(key)
    assert (second, (second / "structures.json").stat().st_mtime_ns) == (first, stamp)

    file = tmp_path / "custom_structures.yaml"
    file.write_text("custom_structures: [{name: Hull, source_structures: [Shell, Block]}]")
    at.configure(structures={"custom_structures": str(file)})
    content, third = at.structures(key)
    assert third != first and named(content, "Hull").voxels > 4000
    # What it is called and where it lies does not matter, what is in it does.
    moved = file.rename(tmp_path / "other.yaml")
    at.configure(structures={"custom_structures": str(moved)})
    assert at.structures(key)[1] == third
    moved.write_text("custom_structures: [{name: Hull, source_structures: [Block]}]")
    content, fourth = at.structures(key)
    assert fourth not in (first, third) and named(content, "Hull").voxels == 4000
    # What is cropped by whom is no matter of the structures.
    at.configure(
        structures={"custom_structures": str(moved)},
        ct_cropping={"enabled": False, "use_cropped_for_dvh": False},
    )
    assert at.structures(key)[1] == fourth


def test_each_thing_that_changes_a_result_makes_a_new_one(at: CourseSite, tmp_path: Path) -> None:
    key = a_course(at, tmp_path)
    _, first = at.structures(key)
    names = tmp_path / "names.yaml"
    names.write_text("single: {TargetVolume: [PTV]}")
    at.configure(structures={"names": str(names)})
    content, renamed = at.structures(key)
    assert renamed != first and named(content, "PTV").name == "TargetVolume"
    at.configure(ct_cropping={"enabled": True, "structures": ["Block"]})
    _, cropped = at.structures(key)
    at.configure(ct_cropping={"enabled": True, "structures": ["Block"], "superior_margin_cm": 1})
    assert at.structures(key)[1] not in (first, renamed, cropped) and cropped not in (first, renamed)
    at.configure()
    assert at.structures(key)[1] == first
    at.segment(key)
    content, without = at.structures(key)
    assert without != first and [one.original_name for one in content.structures] == ["PTV", "Shell"]
    MADE.at(at.tree).write(structure_set(GRID, [(1, "Ball", sphere(GRID, 9.0))], index=2))
    assert at.organise() == key
    content, with_ball = at.structures(key)
    assert with_ball != without and named(content, "Ball").volume_cm3 == pytest.approx(3.054, rel=5e-3)


def test_a_file_that_the_settings_name_and_is_not_there_is_named(at: CourseSite, tmp_path: Path) -> None:
    key = a_course(at, tmp_path)
    at.configure(structures={"names": str(tmp_path / "away.yaml")})
    assert at.failure(key) == (
        f"course {key}: the file of radiotherapy.structures.names cannot be read: No such file or directory"
    )


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="the head phantom is not here")
@pytest.mark.slow
def test_the_head_phantom_has_the_volumes_of_other_programs(at: CourseSite) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(at.tree, filter="data")
    key = at.organise()
    at.segment(key)
    content, folder = at.structures(key)
    assert len(content.structures) == 11
    for name, cm3 in (("BODY", 6870.4), ("BrainStem", 33.89), ("CTV", 121.2)):
        assert named(content, name).volume_cm3 == pytest.approx(cm3, rel=0.01)
    # The first of its traps is the plan's; the others are told.
    assert content.notes == (
        "the planning images: their files' names do not follow their order in space; they are placed by their"
        " positions",
        "structure set 1 names 177 images that are not among the planning images: its structures are placed"
        " by geometry, in the same Frame of Reference",
    )
    assert (content.faults, [one.gaps for one in content.structures]) == ((), [()] * 11)
    assert named(content, "BODY").touches_first_or_last_plane
    assert not list(folder.glob("*.dcm"))


def test_a_file_that_has_changed_stops_the_course_and_leaves_no_result(
    at: CourseSite, tmp_path: Path
) -> None:
    key = a_course(at, tmp_path)
    (drawn,) = [path for path in at.tree.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    drawn.write_bytes(drawn.read_bytes()[:-2000])
    assert at.failure(key) == f"course {key}: a file has changed since the course was organised"
