"""The files of a job that runs one model: what it is told, what it is given, and what it leaves behind.

In its folder: ``job.json``, ``inputs/<role>.nii.gz``; it leaves ``outputs/segmentation.nii.gz`` and
``outputs/segmentation.json``. Where it fails, the last line that it prints says why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.errors import StoreError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.models.card import Device, Model
from mqi_dagster.imaging.models.isolation import NOT_ISOLATED
from mqi_dagster.imaging.segmentation_files import SegmentedRegion
from mqi_dagster.processes.causes import Cause

if TYPE_CHECKING:
    from mqi_dagster.imaging.image_volume import ImageVolume

JOB, INPUTS, OUTPUTS = "job.json", "inputs", "outputs"
FAILED = 3
"""Exit code of a job that says why it has failed."""
_MARK = "mqi-model-failure "
_LARGEST_RECORD = 5_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobOptions(_Part):
    """How the model is run; see `RunOptions`."""

    device: Device
    threads: int
    in_pieces: bool
    gpu: str | None
    require_isolation: bool
    nr_threads_resample: int | None
    nr_threads_save: int | None
    num_proc_preprocessing: int | None
    num_proc_export: int | None


class ModelJob(_Part):
    """What a job is told."""

    model: str
    """Its name."""
    card_sha256: str
    """Of what its card says that a result depends on (`ModelCard.digest`)."""
    root: str | None
    """Folder with the models of the site, where the job runs; packaged ones are found without."""
    options: JobOptions


class JobFailure(_Part):
    """Why a job has failed."""

    cause: Cause
    reason: str
    infrastructure: bool
    """Whether the machine is to blame, and the same may work later."""

    @property
    def line(self) -> str:
        """As the job prints it."""
        return _MARK + self.model_dump_json()


class MadeRecord(BaseModel):
    """Of the record of a segmentation what is shown of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    device_used: Device
    in_pieces: bool
    seconds: float
    remarks: tuple[str, ...]
    network: str = ""
    program: dict[str, str] = {}
    """What is known of the version of its program, where it ran."""

    @property
    def device(self) -> str:
        """For people."""
        return f"{self.device_used} in pieces" if self.in_pieces else self.device_used

    @property
    def isolated(self) -> bool:
        """Whether nothing that it started could have reached the network."""
        return not self.network.startswith(NOT_ISOLATED)


def failure_in(log: str) -> JobFailure | None:
    """What a job has said of its failure; None where it ended without a word."""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    if not last.startswith(_MARK):
        return None
    try:
        return JobFailure.model_validate_json(last.removeprefix(_MARK))
    except ValidationError:
        return None


def read_record(path: Path) -> MadeRecord:
    """The record that a job has left.

    Raises:
        StoreError: It is none.
    """
    try:
        with path.open("rb") as stream:
            return MadeRecord.model_validate_json(stream.read(_LARGEST_RECORD))
    except (OSError, ValidationError):
        raise StoreError("the record of a segmentation cannot be read", where=Where(kind="model")) from None


def write_job(job: ModelJob, folder: Path) -> None:
    """Write what a job is told."""
    write_whole(folder / JOB, json.dumps(job.model_dump(mode="json"), indent=1).encode())


def read_job(folder: Path) -> ModelJob:
    """What a job is told.

    Raises:
        StoreError: It is not there or damaged.
    """
    try:
        return ModelJob.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValidationError):
        raise StoreError("what the job is told cannot be read", where=Where(kind="model")) from None


def write_series_image(volume: ImageVolume, path: Path) -> None:
    """Write a series as a NIfTI image on its own grid, in whole numbers where its values are such.

    Args:
        volume: The series; nothing of its identity goes into the file.
        path: ``<role>.nii.gz``.

    Raises:
        OSError: It cannot be written.
    """
    import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

    from mqi_dagster.imaging.models.label_map import write_image

    grid, values = volume.grid, volume.values
    limits = np.iinfo(np.int16)
    whole = (
        limits.min <= values.min() and values.max() <= limits.max and bool((values == np.rint(values)).all())
    )
    image = sitk.GetImageFromArray(values.astype(np.int16) if whole else values)
    planes_mm, rows_mm, columns_mm = grid.spacing_mm
    # SimpleITK has DICOM's axes, and its index is column, row, plane.
    image.SetSpacing((columns_mm, rows_mm, planes_mm))
    image.SetOrigin(grid.origin_mm)
    directions = np.array([grid.row_direction, grid.column_direction, grid.plane_direction])
    image.SetDirection([float(one) for one in directions.T.ravel()])
    write_image(image, path)


def made_regions(model: Model, image: Path, labels: Path) -> tuple[SegmentedRegion, ...]:
    """What a label map holds, once it is verified against the card and the grid of its image.

    Args:
        model: Whose it is.
        image: The first image of the model, as it was given.
        labels: The label map.

    Raises:
        ModelError: It is not valid; see `read_label_map`.
    """
    import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

    from mqi_dagster.imaging.models.label_map import read_label_map, region_volumes, voxel_mm3

    like = sitk.ReadImage(image)
    found = read_label_map(labels, model, like)
    volumes = {one.name: one for one in region_volumes(model.card, found, voxel_mm3(like))}
    return tuple(
        SegmentedRegion(
            label=region.label,
            includes=region.includes,
            name=region.name,
            tg263=region.tg263,
            voxels=volumes[region.name].voxels,
            volume_cm3=volumes[region.name].volume_cm3,
            plausible_cm3=region.volume_cm3,
            laterality=region.laterality,
            code=(region.code.value, region.code.scheme, region.code.meaning),
            category=(region.category.value, region.category.scheme, region.category.meaning),
        )
        for region in model.card.regions
    )
