"""A site with one made course: a CT of a body whose volumes are known, and steps that are run on it."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
import yaml
from numpy.typing import NDArray

from mqi_dagster.assets.radiotherapy import organise, segmentation
from mqi_dagster.courses.grouping import groups
from mqi_dagster.lifecycle.course import keyed_courses, open_index
from mqi_dagster.lifecycle.lineage import latest_digest, latest_record
from mqi_dagster.resources.composed import resources_of
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from tests.courses.made_objects import Made
from tests.imaging.models.model_folders import Content, card, image, write_card

MADE = Made(7, patient_id="IDENTIFYING-0815", name="Doe^Jane")
PLANES, ROWS, COLUMNS, STEP_MM = 24, 60, 80, 3.0
BODY_CM3 = math.pi * 90 * 70 * PLANES * STEP_MM / 1000
BONE_CM3 = math.pi * 16**2 * PLANES * STEP_MM / 1000
Metadata = dict[str, Any]


def body_hu() -> NDArray[np.int16]:
    """HU, axes z, y, x: an elliptical cylinder with a rod of bone along z, towards the left and the front."""
    y, x = ((np.arange(count) - (count - 1) / 2) * STEP_MM for count in (ROWS, COLUMNS))
    y, x = y[:, None], x[None, :]
    plane = np.full((ROWS, COLUMNS), -1000, np.int16)
    plane[(x / 90) ** 2 + (y / 70) ** 2 < 1] = 30
    plane[(x - 40.5) ** 2 + (y + 19.5) ** 2 < 16**2] = 600
    return np.repeat(plane[None], PLANES, axis=0)


def write_course(root: Path) -> None:
    """A CT, and a structure set and a plan on it."""
    write_body(root)
    MADE.at(root).write(MADE.structures(slices=PLANES))
    MADE.at(root).write(MADE.plan())


def write_body(
    root: Path,
    *,
    series: int = 10,
    modality: str = "CT",
    description: str = "",
    darker: int = 0,
    frame: int = 1,
) -> None:
    """The images of a series of the course, in DICOM; every value less by as much as is said."""
    made = MADE.at(root)
    for plane, hu in enumerate(body_hu()):
        made.write(
            made.image(
                plane,
                series=series,
                modality=modality,
                SOPInstanceUID=made.uid(series, 100 * (frame - 1) + plane + 1),
                FrameOfReferenceUID=made.uid(frame),
                ImagePositionPatient=[-118.5, -88.5, STEP_MM * plane],
                PixelSpacing=[STEP_MM, STEP_MM],
                Rows=ROWS,
                Columns=COLUMNS,
                RescaleSlope=1,
                RescaleIntercept=-1024,
                SeriesDescription=description,
                PatientPosition="HFS",
                PixelData=(hu + 1024 - darker).astype("<u2").tobytes(),
            )
        )


@dataclass
class CourseSite:
    """One course of a site, and its steps."""

    folder: Path
    instance: dg.DagsterInstance
    key: str = ""

    @classmethod
    def of(cls, folder: Path, **courses: Any) -> CourseSite:
        """A site whose tree of DICOM files lies in ``folder/dicom``, organised.

        Args:
            folder: Of the site.
            courses: The section `radiotherapy` of its settings.
        """
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text("5a" * 32 + "\n")
        made = cls(folder, dg.DagsterInstance.ephemeral())
        made.change(**courses)
        site = made.site
        with closing(open_index(site)) as index:
            index.scan()
            group, _ = groups(index, site.pseudonyms.keyed, None)
        (made.key,) = keyed_courses(site, group)
        made.instance.add_dynamic_partitions("course", [made.key])
        assert made.run(organise.course_inventory).success
        return made

    def change(self, **courses: Any) -> None:
        """Write the settings anew: keys of `radiotherapy`, or the sections `execution` and `hosts`."""
        content = {
            "site": {"timezone": "Asia/Seoul"},
            "execution": {
                "attempts": 1,
                "lease_poll_seconds": 0.05,
                "heartbeat_seconds": 1,
                "stale_seconds": 120,
            },
            "radiotherapy": {"dicom_root": "dicom", **courses},
        }
        content["execution"].update(content["radiotherapy"].pop("execution", {}))
        content["hosts"] = content["radiotherapy"].pop("hosts", {})
        (self.folder / "mqi.yaml").write_text(yaml.safe_dump(content))
        self.site = Site(self.folder / "mqi.yaml")

    def run(self, asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
        """One step for the course."""
        return dg.materialize(
            [asset],
            instance=self.instance,
            partition_key=self.key,
            resources=resources_of(self.site),
            raise_on_error=False,
        )

    def published(self, asset: str) -> Published:
        """What an asset has published last."""
        digest = latest_digest(self.instance, asset, self.key)
        assert digest is not None
        return self.site.store.resolve(self.key, None, asset, digest)

    def metadata(self, asset: str) -> Metadata:
        """Of the latest materialisation of an asset."""
        record = latest_record(self.instance, asset, self.key)
        assert record is not None and record.asset_materialization is not None
        return dict(record.asset_materialization.metadata)

    @property
    def starts(self) -> int:
        """How many programs were started for models."""
        file = self.folder / "state" / "engine_starts"
        return len(file.read_text().splitlines()) if file.is_file() else 0


def write_program(root: Path, name: str, script: str, *words: str, **changes: Any) -> Path:
    """A model whose program is this script: it knows ``given``, ``output``, ``device`` and ``words``.

    Its ``answer()`` is 1 in the body, on the grid of the CT.
    """
    arguments = ["{input:CT}", "{output}", "{device}", *words]
    section: Content = {
        "argv": [sys.executable, "{model}/script.py", *arguments],
        "in_pieces": ["pieces"],
        **changes.pop("section", {}),
    }
    folder = write_card(root / name, card("command", section, name=name, **changes))
    (folder / "script.py").write_text(_START + script)
    body = image((body_hu() > 0).astype(np.uint8), (STEP_MM,) * 3, (-118.5, -88.5, 0.0))
    sitk.WriteImage(body, folder / "answer.nii.gz")
    return folder


_START = """\
import json, os, pathlib, resource, shutil, signal, sys
given, output, device, *words = sys.argv[1:]
here = pathlib.Path(__file__).parent
on = f"{device} {words[-1]}" if words[-1:] == ["pieces"] else device


def answer():
    shutil.copy(here / "answer.nii.gz", output)


"""
AUTO, CUSTOM = segmentation.auto_segmentation, segmentation.custom_segmentation


def error_of(result: dg.ExecuteInProcessResult) -> str:
    """Why a step has failed."""
    (failure,) = (one for one in result.all_events if one.is_step_failure)
    data = failure.step_failure_data.user_failure_data
    return "" if data is None or data.description is None else data.description
